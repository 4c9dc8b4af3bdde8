// Times as people read them.
import type { Language } from "../api/types";
import { LOCALES } from "../words";

/** A day and an hour, of seconds since 1970. */
export function moment(seconds: number, language: Language): string {
  return new Intl.DateTimeFormat(LOCALES[language], { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
}

const DAY = 24 * 60 * 60;

/** How long ago `then` was, in the four steps of the list of conversations. Days begin at midnight here. */
export function age(then: number, now: Date): "today" | "yesterday" | "week" | "older" {
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime() / 1000;
  if (then >= midnight) return "today";
  if (then >= midnight - DAY) return "yesterday";
  return then >= midnight - 6 * DAY ? "week" : "older";
}
