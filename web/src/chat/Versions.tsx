import type { Message } from "../api/types";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";

interface Given {
  message: Message;
  siblings: Message[];
  onPick: ((message: Message) => void) | undefined;
}

/** ‹ 2/3 ›: goes through the versions of a message. */
export function Versions({ message, siblings, onPick }: Given) {
  const words = useWords();
  if (siblings.length < 2) return null;
  const at = siblings.findIndex(({ id }) => id === message.id);
  const [before, behind] = [siblings[at - 1], siblings[at + 1]];
  return (
    <span className="versions" role="group" aria-label={words.version(at + 1, siblings.length)}>
      <IconButton icon="left" label={words.previous} disabled={!before || !onPick} onClick={() => before && onPick?.(before)} />
      <span aria-hidden="true">
        {at + 1}/{siblings.length}
      </span>
      <IconButton icon="right" label={words.next} disabled={!behind || !onPick} onClick={() => behind && onPick?.(behind)} />
    </span>
  );
}
