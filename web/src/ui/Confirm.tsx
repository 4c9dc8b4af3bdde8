import { type ReactNode, useState } from "react";
import { explain, useWords } from "../words";
import { Dialog } from "./Dialog";
import { Failure } from "./Failure";

interface Given {
  title: string;
  text: string;
  action: string;
  onConfirm(): Promise<void>;
  onClose(): void;
  children?: ReactNode;
}

/** Asks before something that cannot be undone. Stays open, and says why, when it fails. */
export function Confirm({ title, text, action, onConfirm, onClose, children }: Given) {
  const words = useWords();
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  async function confirm(): Promise<void> {
    setBusy(true);
    try {
      await onConfirm();
      onClose();
    } catch (error) {
      setFailure(error);
      setBusy(false);
    }
  }
  return (
    <Dialog title={title} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void confirm();
        }}
      >
        <p>{text}</p>
        {children}
        {failure !== null && <Failure>{explain(words, failure)}</Failure>}
        <div className="buttons">
          <button type="button" className="button" onClick={onClose}>
            {words.cancel}
          </button>
          <button type="submit" className="button danger" disabled={busy}>
            {action}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
