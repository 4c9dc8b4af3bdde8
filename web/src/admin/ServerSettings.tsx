import { type FormEvent, useEffect, useState } from "react";
import * as server from "../api/server";
import type { AdminSettings } from "../api/types";
import { useHere } from "../state/session";
import { useSay } from "../state/say";
import { Failure } from "../ui/Failure";
import { Field } from "../ui/Field";
import { Switch } from "../ui/Switch";
import { useTask } from "../ui/useTask";
import { explain, useWords, wordFor } from "../words";

export function ServerSettings() {
  const words = useWords();
  const say = useSay();
  const { setSession } = useHere();
  const { busy, failure, run } = useTask();
  const [settings, put] = useState<AdminSettings | null>(null);
  useEffect(() => {
    void run(async () => put(await server.adminSettings()));
  }, [run]);
  const change = (fresh: Partial<AdminSettings>) => put((before) => before && { ...before, ...fresh });

  function save(event: FormEvent): void {
    event.preventDefault();
    if (!settings) return;
    void run(async () => {
      put(await server.changeSettings(settings));
      setSession(await server.session()); // what the page offers follows
      say(words.saved, true);
    });
  }

  if (!settings) return failure === null ? <p className="loading">{words.loading}</p> : <Failure>{explain(words, failure)}</Failure>;
  const number = (label: string, value: number, [least, largest, step]: [number, number, number], set: (value: number) => void) => (
    <Field label={label}>
      {(id) => (
        <input id={id} type="number" min={least} max={largest} step={step} required value={value} onChange={(event) => set(Number(event.target.value))} />
      )}
    </Field>
  );
  return (
    <form className="card" onSubmit={save}>
      <Switch label={words.signupOpen} checked={settings.signup} onChange={(signup) => change({ signup })} />
      <Switch label={words.guestsOpen} checked={settings.guests} onChange={(guests) => change({ guests })} />
      <Switch label={words.consentDefault} checked={settings.consent_default} onChange={(consent_default) => change({ consent_default })} />
      <Switch label={words.userKeys} checked={settings.user_keys} onChange={(user_keys) => change({ user_keys })} />
      <Switch label={words.modelTitles} checked={settings.model_titles} onChange={(model_titles) => change({ model_titles })} />
      <Switch label={words.moderateApi} checked={settings.moderate_api} onChange={(moderate_api) => change({ moderate_api })} />
      <Switch label={words.comparisonsOn} checked={settings.comparisons} onChange={(comparisons) => change({ comparisons })} />
      {number(words.comparisonShare, settings.comparison_share, [0, 1, 0.01], (comparison_share) => change({ comparison_share }))}
      {number(words.perUser, settings.export_per_user, [1, 1_000_000, 1], (export_per_user) => change({ export_per_user }))}
      {number(words.retention, settings.retention_guest_days, [1, 3650, 1], (days) => change({ retention_guest_days: days }))}
      <fieldset>
        <legend>{words.rates}</legend>
        <p className="hint">{words.ratesHint}</p>
        <div className="pair">
          {Object.entries(settings.rates).map(([bucket, rate]) => (
            <Field key={bucket} label={wordFor(words, "rate_", bucket)}>
              {(id) => (
                <input id={id} value={rate} onChange={(event) => change({ rates: { ...settings.rates, [bucket]: event.target.value } })} />
              )}
            </Field>
          ))}
        </div>
      </fieldset>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <div className="buttons">
        <button type="submit" className="button primary" disabled={busy}>
          {words.save}
        </button>
      </div>
    </form>
  );
}
