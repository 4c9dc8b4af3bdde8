import { type KeyboardEvent, type RefObject, useLayoutEffect } from "react";

/** Whether an input method composes (Chinese, Japanese): Enter then chooses a word. Safari says so only by code 229. */
export function isComposing(event: KeyboardEvent): boolean {
  return event.nativeEvent.isComposing || event.nativeEvent.keyCode === 229;
}

/** Makes a text box as high as its text. */
export function useGrowing(box: RefObject<HTMLTextAreaElement | null>, text: string): void {
  useLayoutEffect(() => {
    if (!box.current) return;
    box.current.style.height = "auto";
    box.current.style.height = `${box.current.scrollHeight}px`;
  }, [box, text]);
}
