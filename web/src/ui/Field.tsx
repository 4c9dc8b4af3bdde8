import { type ReactNode, useId } from "react";

interface Given {
  label: string;
  hint?: string | undefined;
  children(id: string, hint: string | undefined): ReactNode;
}

/** A labelled field. `children` makes the control, given its id and the id of what describes it. */
export function Field({ label, hint, children }: Given) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id, hint && `${id}-hint`)}
      {hint && (
        <small id={`${id}-hint`} className="hint">
          {hint}
        </small>
      )}
    </div>
  );
}
