// The list of conversations when its beginning is read anew. Pure.
import type { Summary } from "../api/types";

/** The list with its first page as it is by now; `more`: whether the server has others behind it. Those that were read stay. */
export function renewed(before: Summary[], first: Summary[], more: boolean): Summary[] {
  const last = first.at(-1);
  if (!more || !last) return first;
  const fresh = new Set(first.map(({ id }) => id));
  return [...first, ...before.filter(({ id, updated_at }) => !fresh.has(id) && updated_at <= last.updated_at)];
}
