import { useEffect, useRef } from "react";

type Katex = typeof import("katex").default;
let katex: Katex | null = null;

async function load(): Promise<Katex> {
  const [{ default: loaded }] = await Promise.all([import("katex"), import("katex/dist/katex.min.css")]);
  katex = loaded;
  return loaded;
}

/**
 * A formula, or its source while KaTeX loads and when it cannot be read.
 * `render` sets styles by script and not in attributes, which the Content-Security-Policy forbids; nothing is trusted:
 * no links, images or HTML from a formula.
 */
export function Formula({ tex, display }: { tex: string; display: boolean }) {
  const box = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const into = box.current;
    if (!into) return;
    let gone = false;
    const draw = (by: Katex) => {
      if (gone) return;
      try {
        by.render(tex, into, { displayMode: display, throwOnError: true, trust: false, strict: false, maxSize: 20, maxExpand: 200 });
      } catch {
        into.textContent = tex;
      }
    };
    if (katex) draw(katex);
    else {
      into.textContent = tex;
      load().then(draw, () => undefined); // offline: the source stays
    }
    return () => {
      gone = true;
    };
  }, [tex, display]);
  return <span ref={box} className={display ? "formula display" : "formula"} tabIndex={display ? 0 : undefined} />;
}
