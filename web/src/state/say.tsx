// What is said while the page changes: to screen readers politely, after what they are reading; to all eyes if need be.
import { createContext, type ReactNode, useCallback, useContext, useEffect, useState } from "react";

/** shown: also to be seen, for a few seconds. */
type Say = (text: string, shown?: boolean) => void;

const SHOWN_FOR = 4000; // milliseconds

const SayContext = createContext<Say>(() => undefined);

export const useSay = () => useContext(SayContext);

export function SayProvider({ children }: { children: ReactNode }) {
  const [said, setSaid] = useState({ text: "", shown: false });
  const say = useCallback<Say>((text, shown = false) => setSaid({ text, shown }), []);
  useEffect(() => {
    if (!said.shown) return;
    const timer = setTimeout(() => setSaid({ text: "", shown: false }), SHOWN_FOR);
    return () => clearTimeout(timer);
  }, [said]);
  return (
    <SayContext value={say}>
      {children}
      <div role="status" className={said.shown ? "toast" : "unseen"}>
        {said.text}
      </div>
    </SayContext>
  );
}
