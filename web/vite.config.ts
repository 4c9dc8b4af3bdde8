// Builds the page into the Python package; `npm run dev` serves it beside a running `chatwright serve`.
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const SERVICE = "http://127.0.0.1:8000";

/** KaTeX's style sheet names each font in three formats; every browser that runs this page reads the first. */
const woff2Alone: Plugin = {
  name: "woff2-alone",
  enforce: "pre",
  transform(code, id) {
    if (!/katex(\.min)?\.css/.test(id)) return null;
    return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\(["'](?:woff|truetype)["']\)/g, "");
  },
};

export default defineConfig({
  plugins: [react(), woff2Alone],
  build: {
    outDir: "../src/chatwright/service/page",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the Content-Security-Policy allows files of our own, and no data: addresses
    modulePreload: { polyfill: false },
    target: "es2023",
    chunkSizeWarningLimit: 700,
  },
  server: {
    proxy: {
      "/api": {
        target: SERVICE,
        headers: { origin: SERVICE }, // the service compares the origin with its own address
        changeOrigin: true,
      },
    },
  },
  test: { include: ["tests/**/*.test.ts"] },
});
