import { useEffect, useState } from "react";
import { useSay } from "../state/say";
import { useWords } from "../words";
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
  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      return; // the browser did not allow it, and the text stands there to be marked
    }
    setCopied(true);
    say(words.copied);
  }
  return (
    <button type="button" className={wide ? "quiet" : "icon-button"} aria-label={copied ? words.copied : label} title={label} onClick={() => void copy()}>
      <Icon name={copied ? "done" : "copy"} />
      {wide && <span>{copied ? words.copied : words.copy}</span>}
    </button>
  );
}
