import type { ChatSettings } from "../api/types";
import { useConfig } from "../state/session";
import { Field } from "../ui/Field";
import { useWords } from "../words";

interface Given {
  value: ChatSettings;
  /** What holds where nothing is chosen: its name, and the settings themselves; the server's where those say nothing. */
  inherited: string;
  below?: ChatSettings;
  onChange(value: ChatSettings): void;
}

interface SliderGiven {
  label: string;
  hint: string;
  value: number | null;
  /** What holds while nothing is chosen. */
  usual: number;
  range: [least: number, most: number, step: number];
  inherited: string;
  onChange(value: number | null): void;
}

/** A number between two, or none: then what is inherited holds. */
function Slider({ label, hint, value, usual, range: [least, most, step], inherited, onChange }: SliderGiven) {
  const digits = String(step).length - 2;
  return (
    <Field label={label} hint={hint}>
      {(id, described) => (
        <div className="slider">
          <input
            id={id}
            type="range"
            min={least}
            max={most}
            step={step}
            aria-describedby={described}
            aria-valuetext={value === null ? `${usual.toFixed(digits)} (${inherited})` : value.toFixed(digits)}
            value={value ?? usual}
            onChange={(event) => onChange(Number(event.target.value))}
          />
          <output htmlFor={id} className={value === null ? "faint" : ""}>
            {(value ?? usual).toFixed(digits)}
          </output>
          <button type="button" className="button small" disabled={value === null} onClick={() => onChange(null)}>
            {inherited}
          </button>
        </div>
      )}
    </Field>
  );
}

/** The fields of how answers are made. */
export function AnswerSettings({ value, inherited, below, onChange }: Given) {
  const words = useWords();
  const { models, limits, default_temperature } = useConfig();
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
        <Slider
          label={words.temperature}
          hint={words.temperatureHint}
          value={value.temperature}
          usual={below?.temperature ?? default_temperature}
          range={[0, 2, 0.1]}
          inherited={inherited}
          onChange={(temperature) => change({ temperature })}
        />
        <Slider
          label={words.topP}
          hint={words.topPHint}
          value={value.top_p}
          usual={below?.top_p ?? 1}
          range={[0.05, 1, 0.05]}
          inherited={inherited}
          onChange={(top_p) => change({ top_p })}
        />
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
              placeholder={below?.max_tokens?.toString()}
              value={value.max_tokens ?? ""}
              onChange={(event) => change({ max_tokens: event.target.value ? Number(event.target.value) : null })}
            />
          )}
        </Field>
      </details>
    </>
  );
}
