// What is said to screen readers while the page changes, politely: after what they are reading.
import { createContext, type ReactNode, useCallback, useContext, useState } from "react";

const SayContext = createContext<(text: string) => void>(() => undefined);

export const useSay = () => useContext(SayContext);

export function SayProvider({ children }: { children: ReactNode }) {
  const [said, setSaid] = useState("");
  const say = useCallback((text: string) => setSaid(text), []);
  return (
    <SayContext value={say}>
      {children}
      <div role="status" className="unseen">
        {said}
      </div>
    </SayContext>
  );
}
