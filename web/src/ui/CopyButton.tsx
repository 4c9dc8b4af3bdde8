import { useEffect, useState } from "react";
import { useSay } from "../state/say";
import { useWords } from "../words";
import { copyText } from "./clipboard";
import { Icon } from "./Icon";

/** Copies `text`, and shows for a moment that it did. With `wide`, the label stands beside the icon. */
export function CopyButton({ text, label, wide = false }: { text: string; label: string; wide?: boolean }) {
  const words = useWords();
  const say = useSay();
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  async function copy(button: HTMLElement): Promise<void> {
    if (await copyText(text, button)) {
      setCopied(true);
      say(words.copied);
    } else {
      say(words.copyFailed, true);
    }
  }
  return (
    <button
      type="button"
      className={wide ? "quiet" : "icon-button"}
      aria-label={copied ? words.copied : label}
      title={label}
      onClick={(event) => void copy(event.currentTarget)}
    >
      <Icon name={copied ? "done" : "copy"} />
      {wide && <span>{copied ? words.copied : words.copy}</span>}
    </button>
  );
}
