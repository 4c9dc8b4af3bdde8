import { type FormEvent, type ReactNode, useState } from "react";
import * as server from "../api/server";
import type { Language, Theme } from "../api/types";
import { AnswerSettings } from "../chat/AnswerSettings";
import { go } from "../router";
import { useConversations } from "../state/conversations";
import { useSay } from "../state/say";
import { useConfig, useHere, useUser } from "../state/session";
import { Confirm } from "../ui/Confirm";
import { Failure } from "../ui/Failure";
import { Field } from "../ui/Field";
import { Icon } from "../ui/Icon";
import { IconButton } from "../ui/IconButton";
import { Switch } from "../ui/Switch";
import { useTask } from "../ui/useTask";
import { explain, LANGUAGES, useWords } from "../words";
import { PasswordField } from "./fields";
import { Keys } from "./Keys";

/** All that one can set for oneself. */
export function SettingsPage({ openList }: { openList(): void }) {
  const words = useWords();
  const user = useUser();
  const config = useConfig();
  return (
    <>
      <header className="bar">
        <IconButton icon="menu" label={words.openList} className="narrow" onClick={openList} />
        <h1 className="bar-heading">{words.settings}</h1>
      </header>
      <main className="scroll" tabIndex={-1}>
        <div className="settings">
          <General />
          <Answers />
          <Privacy />
          {(config.user_keys || user.role === "admin") && user.role !== "guest" && (
            <Section title={words.apiKeys}>
              <p className="hint">{words.apiKeysText}</p>
              <Keys list={server.keys} create={server.createKey} revoke={server.revokeKey} />
            </Section>
          )}
          <Account />
        </div>
      </main>
    </>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="card" aria-label={title}>
      <h2>{title}</h2>
      {children}
    </section>
  );
}

function General() {
  const words = useWords();
  const { change } = useHere();
  const { settings } = useUser();
  const { failure, run } = useTask();
  return (
    <Section title={words.general}>
      <div className="pair">
        <Field label={words.interfaceLanguage}>
          {(id) => (
            <select
              id={id}
              value={settings.language ?? ""}
              onChange={(event) => void run(() => change({ language: (event.target.value || null) as Language | null }))}
            >
              <option value="">{words.automatic}</option>
              {(Object.keys(LANGUAGES) as Language[]).map((name) => (
                <option key={name} value={name} lang={name}>
                  {LANGUAGES[name].language}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label={words.theme}>
          {(id) => (
            <select
              id={id}
              value={settings.theme ?? ""}
              onChange={(event) => void run(() => change({ theme: (event.target.value || null) as Theme | null }))}
            >
              <option value="">{words.automatic}</option>
              <option value="light">{words.light}</option>
              <option value="dark">{words.dark}</option>
            </select>
          )}
        </Field>
      </div>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
    </Section>
  );
}

function Answers() {
  const words = useWords();
  const say = useSay();
  const { change } = useHere();
  const { model, instructions, temperature, top_p, max_tokens } = useUser().settings;
  const before = { model, instructions: instructions || null, temperature, top_p, max_tokens };
  const [value, setValue] = useState(before);
  const { busy, failure, run } = useTask();
  const changed = JSON.stringify(value) !== JSON.stringify(before);
  function save(event: FormEvent): void {
    event.preventDefault();
    void run(async () => {
      await change({ ...value, instructions: value.instructions ?? "" });
      say(words.saved, true);
    });
  }
  return (
    <Section title={words.chat}>
      <form onSubmit={save}>
        <AnswerSettings value={value} inherited={words.asServer} onChange={setValue} />
        {failure !== null && <Failure>{explain(words, failure)}</Failure>}
        <div className="buttons">
          <button type="submit" className="button primary" disabled={busy || !changed}>
            {words.save}
          </button>
        </div>
      </form>
    </Section>
  );
}

function Privacy() {
  const words = useWords();
  const user = useUser();
  const { setSession } = useHere();
  const list = useConversations();
  const { failure, run } = useTask();
  const [deleting, setDeleting] = useState(false);
  return (
    <Section title={words.dataPrivacy}>
      <Switch
        label={words.consentAccount}
        hint={words.consentText}
        checked={user.consent}
        onChange={(consent) => void run(async () => setSession(await server.changeAccount({ consent })))}
      />
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <div className="line">
        <span>
          {words.exportData}
          <small className="hint">{words.exportText}</small>
        </span>
        <a className="button" href={server.EXPORT_PATH} download aria-label={words.exportData}>
          <Icon name="download" />
          {words.download}
        </a>
      </div>
      <div className="line">
        <span>{words.deleteAll}</span>
        <button type="button" className="button danger" aria-label={words.deleteAll} onClick={() => setDeleting(true)}>
          {words.remove}
        </button>
      </div>
      {deleting && (
        <Confirm
          title={words.deleteAllTitle}
          text={words.deleteAllText}
          action={words.remove}
          onClose={() => setDeleting(false)}
          onConfirm={async () => {
            await server.deleteConversations();
            list.refresh();
          }}
        />
      )}
    </Section>
  );
}

function Account() {
  const words = useWords();
  const user = useUser();
  const { setSession } = useHere();
  const { failure, run } = useTask();
  const [deleting, setDeleting] = useState(false);
  const [password, setPassword] = useState("");
  const guest = user.role === "guest";
  return (
    <Section title={words.account}>
      {!guest && <PasswordChange />}
      {!guest && (
        <div className="line">
          <span>{words.logOutEverywhere}</span>
          <button
            type="button"
            className="button"
            aria-label={words.logOutEverywhere}
            onClick={() =>
              void run(async () => {
                const session = await server.logOut(true);
                go("/");
                setSession(session);
              })
            }
          >
            {words.logOut}
          </button>
        </div>
      )}
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <div className="line">
        <span>{words.deleteAccount}</span>
        <button type="button" className="button danger" aria-label={words.deleteAccount} onClick={() => setDeleting(true)}>
          {words.remove}
        </button>
      </div>
      {deleting && (
        <Confirm
          title={words.deleteAccountTitle}
          text={guest ? words.deleteGuestText : words.deleteAccountText}
          action={words.deleteAccount}
          onClose={() => {
            setDeleting(false);
            setPassword("");
          }}
          onConfirm={async () => {
            const session = await server.deleteAccount(guest ? null : password);
            go("/");
            setSession(session);
          }}
        >
          {!guest && <PasswordField fresh={false} label={words.password} value={password} onChange={setPassword} />}
        </Confirm>
      )}
    </Section>
  );
}

function PasswordChange() {
  const words = useWords();
  const { setSession } = useHere();
  const { busy, failure, run } = useTask();
  const [current, setCurrent] = useState("");
  const [fresh, setFresh] = useState("");
  const [done, setDone] = useState(false);
  function submit(event: FormEvent): void {
    event.preventDefault();
    setDone(false);
    void run(async () => {
      setSession(await server.changePassword(current, fresh));
      setCurrent("");
      setFresh("");
      setDone(true);
    });
  }
  return (
    <details className="advanced">
      <summary>{words.changePassword}</summary>
      <form onSubmit={submit}>
        <PasswordField fresh={false} label={words.currentPassword} value={current} onChange={setCurrent} />
        <PasswordField fresh label={words.newPassword} value={fresh} onChange={setFresh} />
        {failure !== null && <Failure>{explain(words, failure)}</Failure>}
        {done && (
          <p role="status" className="good">
            {words.passwordChanged}
          </p>
        )}
        <div className="buttons">
          <button type="submit" className="button primary" disabled={busy}>
            {words.changePassword}
          </button>
        </div>
      </form>
    </details>
  );
}
