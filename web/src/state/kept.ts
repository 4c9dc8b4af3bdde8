// The language and the look chosen in this browser, for who is not logged in and until the server has answered.
import type { Language, Theme } from "../api/types";

export interface Kept {
  language: Language | null;
  theme: Theme | null;
}

const KEY = "chatwright.look";

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
  try {
    localStorage.setItem(KEY, JSON.stringify(look));
  } catch {
    // A private window, or no space left: the account's settings still hold.
  }
  return look;
}
