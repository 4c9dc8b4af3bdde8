import { useConfig } from "../state/session";

interface Given {
  label: string;
  rows: number;
  text: string;
  onChange(text: string): void;
}

/** Where one says more of a rating or a choice. */
export function Remark({ label, rows, text, onChange }: Given) {
  const { limits } = useConfig();
  return (
    <textarea
      value={text}
      rows={rows}
      maxLength={limits.feedback_chars}
      aria-label={label}
      placeholder={label}
      dir="auto"
      onChange={(event) => onChange(event.target.value)}
    />
  );
}
