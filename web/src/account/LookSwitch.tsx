import type { Language } from "../api/types";
import { useHere } from "../state/session";
import { LANGUAGES, useLanguage } from "../words";

/** The languages by their own names, for who cannot read the page as it is. */
export function LookSwitch() {
  const { change } = useHere();
  const language = useLanguage();
  return (
    <div className="languages" role="group" aria-label="Language · 语言">
      {(Object.keys(LANGUAGES) as Language[]).map((name) => (
        <button
          key={name}
          type="button"
          lang={name}
          className="quiet"
          aria-pressed={name === language}
          onClick={() => void change({ language: name }).catch(() => undefined)}
        >
          {LANGUAGES[name].language}
        </button>
      ))}
    </div>
  );
}
