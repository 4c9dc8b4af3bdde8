import { useState } from "react";
import { useConfig } from "../state/session";
import { Field } from "../ui/Field";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";

interface Given {
  /** Whether it is chosen now, and not typed from memory. */
  fresh: boolean;
  value: string;
  onChange(value: string): void;
}

export function NameField({ fresh, value, onChange }: Given) {
  const words = useWords();
  const { limits } = useConfig();
  return (
    <Field label={words.name} hint={fresh ? words.nameHint : undefined}>
      {(id, hint) => (
        <input
          id={id}
          aria-describedby={hint}
          required
          minLength={fresh ? 3 : 1}
          maxLength={limits.name_chars}
          autoComplete="username"
          autoCapitalize="none"
          spellCheck={false}
          value={value}
          onChange={(event) => onChange(event.target.value)}
        />
      )}
    </Field>
  );
}

export function PasswordField({ fresh, label, value, onChange }: Given & { label: string }) {
  const words = useWords();
  const { limits } = useConfig();
  const [shown, setShown] = useState(false);
  return (
    <Field label={label} hint={fresh ? words.passwordHint(limits.password_min) : undefined}>
      {(id, hint) => (
        <div className="joined">
          <input
            id={id}
            aria-describedby={hint}
            required
            type={shown ? "text" : "password"}
            minLength={fresh ? limits.password_min : 1}
            maxLength={limits.password_chars}
            autoComplete={fresh ? "new-password" : "current-password"}
            value={value}
            onChange={(event) => onChange(event.target.value)}
          />
          <IconButton
            icon="eye"
            label={shown ? words.hidePassword : words.showPassword}
            aria-pressed={shown}
            onClick={() => setShown(!shown)}
          />
        </div>
      )}
    </Field>
  );
}
