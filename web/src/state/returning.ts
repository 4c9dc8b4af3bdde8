// Coming back to this tab: what was done elsewhere meanwhile is read then.
import { useEffect, useRef } from "react";

/** Calls `back` when the page is looked at again after it was left. */
export function useReturn(back: () => void) {
  const away = useRef(document.hidden);
  useEffect(() => {
    const leave = () => {
      away.current = true;
    };
    const come = () => {
      if (!away.current || document.hidden) return;
      away.current = false;
      back();
    };
    const turn = () => (document.hidden ? leave() : come());
    addEventListener("blur", leave);
    addEventListener("focus", come);
    document.addEventListener("visibilitychange", turn);
    return () => {
      removeEventListener("blur", leave);
      removeEventListener("focus", come);
      document.removeEventListener("visibilitychange", turn);
    };
  }, [back]);
}
