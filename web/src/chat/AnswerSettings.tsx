import type { ChatSettings } from "../api/types";
import { useConfig } from "../state/session";
import { Field } from "../ui/Field";
import { useWords } from "../words";

interface Given {
  value: ChatSettings;
  /** What holds where nothing is chosen. */
  inherited: string;
  onChange(value: ChatSettings): void;
}

const USUAL = 0.7; // where the slider stands while nothing is chosen

/** The fields of how answers are made. */
export function AnswerSettings({ value, inherited, onChange }: Given) {
  const words = useWords();
  const { models, limits } = useConfig();
  const change = (fresh: Partial<ChatSettings>) => onChange({ ...value, ...fresh });
  return (
    <>
      <Field label={words.model}>
        {(id) => (
          <select id={id} value={value.model ?? ""} onChange={(event) => change({ model: event.target.value || null })}>
            <option value="">{inherited}</option>
            {models.map((model) => (
              <option key={model.id}>{model.id}</option>
            ))}
          </select>
        )}
      </Field>
      <Field label={words.instructions} hint={words.instructionsHint}>
        {(id, hint) => (
          <textarea
            id={id}
            aria-describedby={hint}
            rows={4}
            dir="auto"
            maxLength={limits.instructions_chars}
            value={value.instructions ?? ""}
            onChange={(event) => change({ instructions: event.target.value || null })}
          />
        )}
      </Field>
      <details className="advanced">
        <summary>{words.advanced}</summary>
        <Field label={words.temperature} hint={words.temperatureHint}>
          {(id, hint) => (
            <div className="slider">
              <input
                id={id}
                type="range"
                min={0}
                max={2}
                step={0.1}
                aria-describedby={hint}
                aria-valuetext={value.temperature === null ? inherited : value.temperature.toFixed(1)}
                value={value.temperature ?? USUAL}
                onChange={(event) => change({ temperature: Number(event.target.value) })}
              />
              <output htmlFor={id}>{value.temperature === null ? "–" : value.temperature.toFixed(1)}</output>
              <button type="button" className="button small" disabled={value.temperature === null} onClick={() => change({ temperature: null })}>
                {inherited}
              </button>
            </div>
          )}
        </Field>
        <Field label={words.length} hint={words.lengthHint}>
          {(id, hint) => (
            <input
              id={id}
              type="number"
              inputMode="numeric"
              min={1}
              max={limits.max_tokens}
              step={1}
              aria-describedby={hint}
              value={value.max_tokens ?? ""}
              onChange={(event) => change({ max_tokens: event.target.value ? Number(event.target.value) : null })}
            />
          )}
        </Field>
      </details>
    </>
  );
}
