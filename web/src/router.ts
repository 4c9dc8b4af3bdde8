// Where the page is: the address, read and changed without asking the server.
import { useSyncExternalStore } from "react";

function subscribe(changed: () => void): () => void {
  addEventListener("popstate", changed);
  return () => removeEventListener("popstate", changed);
}

/** The path at present, such as `/c/abc`. */
export function usePath(): string {
  return useSyncExternalStore(subscribe, () => location.pathname);
}

/** The parts of a path, decoded; a part that cannot be is left as it is. */
export function partsOf(path: string): string[] {
  return path.split("/").slice(1).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
}

/** Go to `path`; `replace` leaves no step back to where we were. */
export function go(path: string, replace = false): void {
  if (path === location.pathname + location.search + location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", path);
  dispatchEvent(new PopStateEvent("popstate"));
}
