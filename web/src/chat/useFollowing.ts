import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const NEAR = 60; // pixels from the end that count as the end

/** Keeps the end in sight while `changes` come, until the reader scrolls up. */
export function useFollowing(...changes: unknown[]): {
  scroller: RefObject<HTMLElement | null>;
  atEnd: boolean;
  toEnd(): void;
} {
  const scroller = useRef<HTMLElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const following = useRef(true);

  const toEnd = useCallback(() => {
    following.current = true;
    setAtEnd(true);
    const box = scroller.current;
    if (box) box.scrollTop = box.scrollHeight;
  }, []);

  useEffect(() => {
    const box = scroller.current;
    if (!box) return;
    let top = box.scrollTop;
    const onScroll = () => {
      const near = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
      if (box.scrollTop < top && !near) following.current = false; // the reader went up; content that grew did not
      if (near) following.current = true;
      top = box.scrollTop;
      setAtEnd(near);
    };
    const onGrowth = new ResizeObserver(() => {
      const writing = document.activeElement instanceof HTMLTextAreaElement && box.contains(document.activeElement);
      if (following.current && !writing) toEnd(); // what one writes in is not moved away
      else onScroll();
    });
    box.addEventListener("scroll", onScroll, { passive: true });
    onGrowth.observe(box);
    for (const child of box.children) onGrowth.observe(child);
    return () => {
      box.removeEventListener("scroll", onScroll);
      onGrowth.disconnect();
    };
  });

  useLayoutEffect(() => {
    if (following.current) toEnd();
  }, changes);

  return { scroller, atEnd, toEnd };
}
