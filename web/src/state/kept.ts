// What is kept in this browser: the language and the look, for who is not logged in and until the server has answered;
// and whether the list of conversations is folded away.
import type { Language, Theme } from "../api/types";

export interface Kept {
  language: Language | null;
  theme: Theme | null;
}

const KEY = "chatwright.look";
const FOLDED = "chatwright.folded";

/** What was kept; nothing when the browser keeps nothing or something else stands there. */
export function kept(): Kept {
  try {
    const { language, theme } = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Kept>;
    return {
      language: language === "en" || language === "zh" ? language : null,
      theme: theme === "light" || theme === "dark" ? theme : null,
    };
  } catch {
    return { language: null, theme: null };
  }
}

/** Keep `look` if the browser does; returns it. */
export function keep(look: Kept): Kept {
  write(KEY, JSON.stringify(look));
  return look;
}

/** Whether the list was folded away. */
export function folded(): boolean {
  try {
    return localStorage.getItem(FOLDED) === "yes";
  } catch {
    return false;
  }
}

/** Keep whether the list is folded away. */
export function fold(away: boolean): void {
  write(FOLDED, away ? "yes" : "no");
}

function write(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // A private window, or no space left: it holds until the page is left.
  }
}
