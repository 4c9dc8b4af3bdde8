import { describe, expect, test } from "vitest";
import { Refusal } from "../src/api/http";
import { explain, preferred, wordFor } from "../src/words";
import { en } from "../src/words/en";
import { zh } from "../src/words/zh";

const SAME = ["p95", "language"]; // no language has other words for it

describe("the words", () => {
  test("both languages have the same keys, all with words, and of the same kind", () => {
    expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort());
    for (const [key, said] of Object.entries(en)) {
      const other = zh[key as keyof typeof zh];
      expect(typeof other, key).toBe(typeof said);
      if (typeof said === "function") expect(other.length, key).toBe(said.length);
      if (typeof said === "string" && typeof other === "string") expect(Boolean(said && other), key).toBe(true);
    }
  });
  test("Chinese is Chinese", () => {
    const latin = Object.entries(zh).filter(([key, said]) => typeof said === "string" && !/[\u4e00-\u9fff]/.test(said) && !SAME.includes(key));
    expect(latin.map(([key]) => key)).toEqual(["starter4"]); // an English starter, as English has a Chinese one
  });
  test("the browser's languages choose, else English", () => {
    expect(preferred(["fr", "zh-TW", "en"])).toBe("zh");
    expect(preferred(["de"])).toBe("en");
  });
  test("names that the server chose have words, or stand for themselves", () => {
    expect(wordFor(en, "tag_", "too_long")).toBe("Too long");
    expect(wordFor(en, "tag_", "brand_new")).toBe("brand_new");
  });
  test("a refusal is told in the page's words, else in the server's, with the time to wait", () => {
    expect(explain(zh, new Refusal(429, "rate_limited", "x", 3.2))).toBe("你在短时间内发送过多，请稍候。 4 秒后可重试。");
    expect(explain(en, new Refusal(400, "invalid_value", "`title` is too long."))).toBe("`title` is too long.");
    expect(explain(en, new TypeError("bug"))).toBe(en.error_failed);
  });
});
