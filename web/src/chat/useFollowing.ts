import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const NEAR = 60; // pixels from the end that count as the end
const SHUT = 2; // where what became shorter leaves the reader: at its end, but for parts of pixels

/** Keeps the end in sight while `changes` come, until the reader scrolls up. */
export function useFollowing(...changes: unknown[]): {
  scroller: RefObject<HTMLElement | null>;
  atEnd: boolean;
  toEnd(): void;
} {
  const scroller = useRef<HTMLElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const following = useRef(true);
  const top = useRef(0); // where the reader was when last looked at

  const toEnd = useCallback(() => {
    following.current = true;
    setAtEnd(true);
    const box = scroller.current;
    if (!box) return;
    box.scrollTop = box.scrollHeight;
    top.current = box.scrollTop;
  }, []);

  /** See where the reader went. The browser tells of it a moment later, and more may come before. */
  const look = useCallback(() => {
    const box = scroller.current;
    if (!box) return;
    const left = box.scrollHeight - box.scrollTop - box.clientHeight;
    if (box.scrollTop < top.current) following.current = left < SHUT;
    else if (box.scrollTop > top.current && left < NEAR) following.current = true;
    if (box.scrollHeight <= box.clientHeight) following.current = true; // all is in sight
    top.current = box.scrollTop;
    setAtEnd(left < NEAR);
  }, []);

  useEffect(() => {
    const box = scroller.current;
    if (!box) return;
    const onGrowth = new ResizeObserver(() => {
      look();
      const writing = document.activeElement instanceof HTMLTextAreaElement && box.contains(document.activeElement);
      if (following.current && !writing) toEnd(); // what one writes in is not moved away
    });
    const onWheel = ({ deltaY }: WheelEvent) => {
      if (deltaY < 0 && box.scrollTop > 0) following.current = false; // before it scrolls, which following would undo
    };
    box.addEventListener("scroll", look, { passive: true });
    box.addEventListener("wheel", onWheel, { passive: true });
    onGrowth.observe(box);
    for (const child of box.children) onGrowth.observe(child);
    return () => {
      box.removeEventListener("scroll", look);
      box.removeEventListener("wheel", onWheel);
      onGrowth.disconnect();
    };
  });

  useLayoutEffect(() => {
    look();
    if (following.current) toEnd();
  }, changes);

  return { scroller, atEnd, toEnd };
}
