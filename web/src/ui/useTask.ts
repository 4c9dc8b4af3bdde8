import { useCallback, useState } from "react";

/** Runs asynchronous work one at a time: whether it is under way, and what it last failed with. */
export function useTask(): { busy: boolean; failure: unknown; run(work: () => Promise<void>): Promise<void> } {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const run = useCallback(async (work: () => Promise<void>) => {
    setBusy(true);
    setFailure(null);
    try {
      await work();
    } catch (error) {
      setFailure(error);
    }
    setBusy(false);
  }, []);
  return { busy, failure, run };
}
