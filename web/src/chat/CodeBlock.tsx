import { useEffect, useState } from "react";
import { CopyButton } from "../ui/CopyButton";
import { useWords } from "../words";

type Highlight = typeof import("./highlight").highlighted;

let loaded: Highlight | null = null;

export function CodeBlock({ language, code }: { language: string; code: string }) {
  const words = useWords();
  const [highlight, setHighlight] = useState<Highlight | null>(() => loaded);
  useEffect(() => {
    if (highlight) return;
    const take = ({ highlighted }: { highlighted: Highlight }) => setHighlight(() => (loaded = highlighted));
    import("./highlight").then(take, () => undefined); // offline: no colours
  }, [highlight]);
  return (
    <figure className="code">
      <figcaption>
        <span>{language || "text"}</span>
        <CopyButton text={code} label={words.copyCode} wide />
      </figcaption>
      <pre tabIndex={0}>
        <code>{highlight?.(language.toLowerCase(), code) ?? code}</code>
      </pre>
    </figure>
  );
}
