// A model's Markdown as elements. HTML in it is text, images are links, and links lead to http, https or mail alone.
import type { Element } from "hast";
import { memo } from "react";
import ReactMarkdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import remarkMath from "remark-math";
import { useWords } from "../words";
import { CodeBlock } from "./CodeBlock";
import { Formula } from "./Formula";
import { safeAddress } from "./safeAddress";
import { mathText } from "./mathText";

const PLUGINS = [remarkGfm, remarkMath];
const OUTSIDE = { target: "_blank", rel: "noopener noreferrer nofollow" };

function classes(node: Element | undefined): string[] {
  const names = node?.properties.className;
  return Array.isArray(names) ? names.map(String) : [];
}

function text(node: Element | undefined): string {
  return node?.children.map((child) => (child.type === "text" ? child.value : "")).join("") ?? "";
}

function Image({ src, alt }: { src?: unknown; alt?: string | undefined }) {
  const words = useWords();
  const said = `${words.image}: ${alt || String(src ?? "")}`;
  return typeof src === "string" && src ? (
    <a href={src} {...OUTSIDE}>
      {said}
    </a>
  ) : (
    <span>{said}</span>
  );
}

const COMPONENTS: Components = {
  a: ({ href, children }) => {
    if (!href) return <span>{children}</span>;
    return href.startsWith("#") ? <a href={href}>{children}</a> : <a href={href} {...OUTSIDE}>{children}</a>;
  },
  img: ({ src, alt }) => <Image src={src} alt={alt} />,
  code: ({ node, children }) =>
    classes(node).includes("math-inline") ? <Formula tex={text(node)} display={false} /> : <code>{children}</code>,
  pre: ({ node }) => {
    const code = node?.children[0] as Element | undefined;
    if (classes(code).includes("math-display")) return <Formula tex={text(code)} display />;
    const language = classes(code).find((name) => name.startsWith("language-"))?.slice("language-".length) ?? "";
    return <CodeBlock language={language} code={text(code).replace(/\n$/, "")} />;
  },
  table: ({ children }) => (
    <div className="table" tabIndex={0} role="group">
      <table>{children}</table>
    </div>
  ),
  input: ({ checked }) => <span aria-hidden="true">{checked ? "☑" : "☐"}</span>, // of a task list
};

/** id: makes the addresses of footnotes differ between messages. */
export const Markdown = memo(function Markdown({ id, content }: { id: string; content: string }) {
  return (
    <ReactMarkdown
      remarkPlugins={PLUGINS}
      remarkRehypeOptions={{ clobberPrefix: `note-${id}-` }}
      urlTransform={safeAddress}
      components={COMPONENTS}
    >
      {mathText(content)}
    </ReactMarkdown>
  );
});
