import { useEffect, useRef, useState } from "react";
import { useWords } from "../words";
import { isComposing, useGrowing } from "./typing";

interface Given {
  text: string;
  onCancel(): void;
  onSend(text: string): void;
}

/** A question being changed. Enter sends it as a new branch, Esc leaves it as it was. */
export function Editor({ text, onCancel, onSend }: Given) {
  const words = useWords();
  const [value, setValue] = useState(text);
  const box = useRef<HTMLTextAreaElement>(null);
  useGrowing(box, value);
  useEffect(() => {
    box.current?.focus();
    box.current?.setSelectionRange(text.length, text.length);
    box.current?.form?.scrollIntoView({ block: "nearest" });
  }, [text]);
  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        if (value.trim()) onSend(value.trim());
      }}
    >
      <textarea
        ref={box}
        value={value}
        aria-label={words.editMessage}
        dir="auto"
        rows={1}
        onChange={(event) => setValue(event.target.value)}
        onKeyDown={(event) => {
          if (isComposing(event)) return;
          if (event.key === "Escape") {
            event.stopPropagation();
            onCancel();
          }
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            event.currentTarget.form?.requestSubmit();
          }
        }}
      />
      <div className="buttons">
        <button type="button" className="button" onClick={onCancel}>
          {words.cancel}
        </button>
        <button type="submit" className="button primary" disabled={!value.trim()}>
          {words.editSend}
        </button>
      </div>
    </form>
  );
}
