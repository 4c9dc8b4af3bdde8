import { type RefObject, useState } from "react";
import { useConfig } from "../state/session";
import { Icon } from "../ui/Icon";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";
import { isComposing, useGrowing } from "./typing";

interface Given {
  box: RefObject<HTMLTextAreaElement | null>;
  text: string;
  running: boolean;
  setText(text: string): void;
  onSend(text: string, compare: boolean): void;
  onStop(): void;
}

const WARN_FROM = 0.9; // of the longest message: when the count of characters is shown

/** Where one writes. The last word on what is sent and when has the conversation. */
export function Composer({ box, text, running, setText, onSend, onStop }: Given) {
  const words = useWords();
  const { comparisons, limits } = useConfig();
  const [compare, setCompare] = useState(false);
  useGrowing(box, text);
  const over = text.length - limits.message_chars;
  const ready = !running && text.trim() !== "" && over <= 0;
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        if (ready) onSend(text.trim(), comparisons && compare);
      }}
    >
      {comparisons && (
        <IconButton
          icon="columns"
          label={words.compareTwo}
          aria-pressed={compare}
          className="toggle"
          onClick={() => setCompare(!compare)}
        />
      )}
      <textarea
        ref={box}
        id="question"
        value={text}
        rows={1}
        dir="auto"
        aria-label={words.question}
        aria-invalid={over > 0}
        placeholder={words.placeholder}
        enterKeyHint="send"
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
          event.preventDefault();
          event.currentTarget.form?.requestSubmit();
        }}
      />
      {text.length > limits.message_chars * WARN_FROM && (
        <span className={over > 0 ? "count over" : "count"} role="status">
          {over > 0 ? words.tooLong(over) : `${text.length} / ${limits.message_chars}`}
        </span>
      )}
      {running ? (
        <button type="button" className="round stop" aria-label={words.stop} title={words.stop} onClick={onStop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button type="submit" className="round" aria-label={words.send} title={words.send} disabled={!ready}>
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
