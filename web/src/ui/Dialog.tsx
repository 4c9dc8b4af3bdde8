import { type ReactNode, useEffect, useId, useRef } from "react";
import { useWords } from "../words";
import { IconButton } from "./IconButton";

interface Given {
  title: string;
  onClose(): void;
  children: ReactNode;
}

/** A modal dialog. The browser keeps the focus in it, Esc closes it, and the focus goes back to where it was. */
export function Dialog({ title, onClose, children }: Given) {
  const words = useWords();
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      className="dialog"
      aria-labelledby={heading}
      onClose={onClose}
      onKeyDown={(event) => event.stopPropagation()}
      onPointerDown={(event) => event.target === dialog.current && onClose()}
    >
      <div className="dialog-body">
        <header className="dialog-head">
          <h2 id={heading}>{title}</h2>
          <IconButton icon="close" label={words.close} onClick={onClose} />
        </header>
        {children}
      </div>
    </dialog>
  );
}
