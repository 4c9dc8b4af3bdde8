// What the lists of the administration are made of.
import type { ReactNode } from "react";
import type { Listed } from "../api/types";
import { moment } from "../ui/dates";
import { Failure } from "../ui/Failure";
import { IconButton } from "../ui/IconButton";
import { explain, useLanguage, useWords } from "../words";

interface SelectGiven {
  label: string;
  value: string;
  options: [value: string, text: string][];
  onChange(value: string): void;
}

/** A filter by one of several values; the first option is "any". */
export function Select({ label, value, options, onChange }: SelectGiven) {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.target.value)}>
      {options.map(([name, text]) => (
        <option key={name} value={name}>
          {text}
        </option>
      ))}
    </select>
  );
}

interface DayGiven {
  label: string;
  value: string;
  /** Whether the day's end is meant, and not its beginning. */
  end?: boolean;
  onChange(seconds: string): void;
}

/** A filter by day; its value is in seconds since 1970, or "". */
export function Day({ label, value, end = false, onChange }: DayGiven) {
  const day = value ? new Date(Number(value) * 1000) : null;
  const shown = day ? `${day.getFullYear()}-${two(day.getMonth() + 1)}-${two(day.getDate())}` : "";
  return (
    <label className="day">
      {label}
      <input
        type="date"
        value={shown}
        onChange={({ target }) => {
          const seconds = new Date(`${target.value}T${end ? "23:59:59" : "00:00:00"}`).getTime() / 1000;
          onChange(target.value ? String(seconds) : "");
        }}
      />
    </label>
  );
}

const two = (number: number) => String(number).padStart(2, "0");

interface TableGiven {
  label: string;
  heads: string[];
  found: Listed<unknown> | null;
  failure: unknown;
  setPage(page: number): void;
  children: ReactNode;
}

/** A table with its pages, and what stands in its place when there is nothing. */
export function Table({ label, heads, found, failure, setPage, children }: TableGiven) {
  const words = useWords();
  if (failure !== null) return <Failure>{explain(words, failure)}</Failure>;
  if (!found) return <p className="loading">{words.loading}</p>;
  if (!found.items.length) return <p className="hint empty">{words.nothingYet}</p>;
  const pages = Math.max(1, Math.ceil(found.total / found.limit));
  return (
    <>
      <div className="sheet" tabIndex={0} role="group" aria-label={label}>
        <table aria-label={label}>
          <thead>
            <tr>
              {heads.map((head, index) => (
                <th key={index} scope="col">
                  {head || <span className="unseen">{words.action}</span>}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>{children}</tbody>
        </table>
      </div>
      <div className="pager">
        <span className="note">{words.total(found.total)}</span>
        {pages > 1 && (
          <>
            <IconButton icon="left" label={words.previousPage} disabled={found.page <= 1} onClick={() => setPage(found.page - 1)} />
            <span>{words.pageOf(found.page, pages)}</span>
            <IconButton icon="right" label={words.nextPage} disabled={found.page >= pages} onClick={() => setPage(found.page + 1)} />
          </>
        )}
      </div>
    </>
  );
}

export function When({ at }: { at: number | null }) {
  const words = useWords();
  const language = useLanguage();
  return at === null ? words.never : <time dateTime={new Date(at * 1000).toISOString()}>{moment(at, language)}</time>;
}
