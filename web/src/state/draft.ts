// What is typed and not sent yet, of each conversation, until the page is left.
import { useCallback, useReducer } from "react";
import { useUser } from "./session";

type Change = string | ((before: string) => string);

const typed = new Map<string, string>();

/** The text of a conversation's box, and how to change it; null: of the conversation that is not begun yet. */
export function useDraft(id: string | null): [string, (change: Change) => void] {
  const key = `${useUser().id}/${id ?? ""}`;
  const [, draw] = useReducer((times: number) => times + 1, 0);
  const setText = useCallback(
    (change: Change) => {
      const text = typeof change === "string" ? change : change(typed.get(key) ?? "");
      if (text) typed.set(key, text);
      else typed.delete(key);
      draw();
    },
    [key],
  );
  return [typed.get(key) ?? "", setText];
}
