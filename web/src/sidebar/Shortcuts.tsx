import { Fragment, useEffect, useRef } from "react";
import { Dialog } from "../ui/Dialog";
import { useWords } from "../words";

type Name = "newChat" | "search" | "list" | "write" | "shortcuts";

interface Keys {
  key: string;
  /** Ctrl, or on a Mac Command. */
  command: boolean;
  shift: boolean;
}

const SHORTCUTS: Record<Name, Keys> = {
  newChat: { key: "o", command: true, shift: true },
  search: { key: "k", command: true, shift: false },
  list: { key: "s", command: true, shift: true },
  write: { key: "Escape", command: false, shift: true },
  shortcuts: { key: "/", command: true, shift: false },
};
const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

/** Does what a shortcut stands for, wherever the focus is, except below an open dialog. */
export function useShortcuts(actions: Record<Name, () => void>): void {
  const latest = useRef(actions);
  latest.current = actions;
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (document.querySelector("dialog[open]") || event.altKey) return;
      const command = MAC ? event.metaKey : event.ctrlKey;
      const found = (Object.entries(SHORTCUTS) as [Name, Keys][]).find(
        ([, keys]) => keys.key.toLowerCase() === event.key.toLowerCase() && keys.command === command && keys.shift === event.shiftKey,
      );
      if (!found) return;
      event.preventDefault();
      latest.current[found[0]]();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}

function names({ key, command, shift }: Keys): string[] {
  const shown = key === "Escape" ? "Esc" : key.length === 1 ? key.toUpperCase() : key;
  return [...(command ? [MAC ? "⌘" : "Ctrl"] : []), ...(shift ? [MAC ? "⇧" : "Shift"] : []), shown];
}

/** What the keys do. */
export function Shortcuts({ onClose }: { onClose(): void }) {
  const words = useWords();
  const lines: [string, string[]][] = [
    [words.send, ["Enter"]],
    [words.newLine, names({ key: "Enter", command: false, shift: true })],
    [words.stop, ["Esc"]],
    [words.newChat, names(SHORTCUTS.newChat)],
    [words.search, names(SHORTCUTS.search)],
    [words.foldList, names(SHORTCUTS.list)],
    [words.skip, names(SHORTCUTS.write)],
    [words.shortcuts, names(SHORTCUTS.shortcuts)],
  ];
  return (
    <Dialog title={words.shortcuts} onClose={onClose}>
      <dl className="shortcuts">
        {lines.map(([does, keys]) => (
          <Fragment key={does}>
            <dt>{does}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </Fragment>
        ))}
      </dl>
    </Dialog>
  );
}
