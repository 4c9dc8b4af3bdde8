// The words of the language chosen: by the account, else kept in this browser, else the browser's own.
import { createContext, useContext } from "react";
import { Refusal } from "../api/http";
import type { Language } from "../api/types";
import { en, type Words } from "./en";
import { zh } from "./zh";

export const LANGUAGES: Record<Language, Words> = { en, zh };

/** Codes of languages in the `lang` attribute and in dates. */
export const LOCALES: Record<Language, string> = { en: "en", zh: "zh-CN" };

export const WordsContext = createContext<{ language: Language; words: Words }>({ language: "en", words: en });

export const useWords = (): Words => useContext(WordsContext).words;
export const useLanguage = (): Language => useContext(WordsContext).language;

/** The language of a browser that prefers `languages`, best first. */
export function preferred(languages: readonly string[]): Language {
  const known = languages.map((name) => name.toLowerCase().slice(0, 2)).find((name) => name in LANGUAGES);
  return (known as Language | undefined) ?? "en";
}

/** The words under `prefix` + `name`, which the server chose; `name` itself when there are none. */
export function wordFor(words: Words, prefix: "tag_" | "role_" | "export_" | "error_" | "rate_" | "load_", name: string): string {
  const found = words[`${prefix}${name}` as keyof Words];
  return typeof found === "string" ? found : name;
}

/** What went wrong, in the words of the page, else of the server. */
export function explain(words: Words, error: unknown): string {
  if (!(error instanceof Refusal)) return words.error_failed;
  const known = words[`error_${error.code}` as keyof Words];
  const said = typeof known === "string" ? known : error.message || words.error_failed;
  return error.retryAfter ? `${said} ${words.retryIn(Math.ceil(error.retryAfter))}` : said;
}
