import { type FormEvent, useCallback, useEffect, useState } from "react";
import type { NewKey } from "../api/server";
import type { Key } from "../api/types";
import { useConfig } from "../state/session";
import { Confirm } from "../ui/Confirm";
import { CopyButton } from "../ui/CopyButton";
import { moment } from "../ui/dates";
import { Failure } from "../ui/Failure";
import { Field } from "../ui/Field";
import { Icon } from "../ui/Icon";
import { useTask } from "../ui/useTask";
import { explain, useLanguage, useWords } from "../words";

const USUAL = ["chat", "models"]; // what a program that chats asks for

interface Given {
  list(): Promise<{ items: Key[] }>;
  create(given: NewKey): Promise<{ key: Key; secret: string }>;
  revoke(id: string): Promise<Key>;
  /** Whether to say whose each key is. */
  owners?: boolean;
}

/** Keys of the API: made here, shown once, revoked here. */
export function Keys({ list, create, revoke, owners = false }: Given) {
  const words = useWords();
  const language = useLanguage();
  const { failure, run } = useTask();
  const [keys, setKeys] = useState<Key[] | null>(null);
  const [secret, setSecret] = useState<string | null>(null);
  const [making, setMaking] = useState(false);
  const [ending, setEnding] = useState<Key | null>(null);
  const read = useCallback(() => run(async () => setKeys((await list()).items)), [list, run]);
  useEffect(() => void read(), [read]);

  return (
    <>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      {secret && (
        <div className="secret" role="status">
          <p>{words.keyOnce}</p>
          <div className="joined">
            <input readOnly aria-label={words.secret} value={secret} onFocus={(event) => event.target.select()} />
            <CopyButton text={secret} label={words.copy} />
          </div>
        </div>
      )}
      {keys && !keys.length && <p className="hint">{words.noKeys}</p>}
      <ul className="keys">
        {keys?.map((key) => (
          <li key={key.id} className={key.revoked_at ? "line faint" : "line"}>
            <span>
              <strong dir="auto">{key.name}</strong> <code>{key.prefix}…</code>
              <small className="hint">
                {owners && `${key.user_name} · `}
                {key.scopes.join(", ")} · {words.created} {moment(key.created_at, language)} · {words.lastUsed}{" "}
                {key.last_used_at ? moment(key.last_used_at, language) : words.never}
              </small>
            </span>
            {key.revoked_at ? (
              <span className="note">{words.revoked}</span>
            ) : (
              <button type="button" className="button small danger" onClick={() => setEnding(key)}>
                {words.revoke}
              </button>
            )}
          </li>
        ))}
      </ul>
      {making ? (
        <Making
          onCancel={() => setMaking(false)}
          onMake={async (given) => {
            setSecret((await create(given)).secret);
            setMaking(false);
            await read();
          }}
        />
      ) : (
        <button type="button" className="button" onClick={() => setMaking(true)}>
          <Icon name="plus" />
          {words.newKey}
        </button>
      )}
      {ending && (
        <Confirm
          title={words.revokeTitle}
          text={words.revokeText(ending.name)}
          action={words.revoke}
          onClose={() => setEnding(null)}
          onConfirm={async () => {
            await revoke(ending.id);
            await read();
          }}
        />
      )}
    </>
  );
}

function Making({ onMake, onCancel }: { onMake(given: NewKey): Promise<void>; onCancel(): void }) {
  const words = useWords();
  const { key_scopes } = useConfig();
  const { busy, failure, run } = useTask();
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState(key_scopes.filter((scope) => USUAL.includes(scope)));
  const [end, setEnd] = useState("");
  function submit(event: FormEvent): void {
    event.preventDefault();
    const expires_at = end ? new Date(`${end}T23:59:59`).getTime() / 1000 : null;
    void run(() => onMake({ name: name.trim(), scopes, expires_at }));
  }
  return (
    <form className="inset" aria-label={words.newKey} onSubmit={submit}>
      <Field label={words.keyName}>
        {(id) => <input id={id} required maxLength={64} autoFocus value={name} onChange={(event) => setName(event.target.value)} />}
      </Field>
      <fieldset className="tags">
        <legend>{words.scopes}</legend>
        {key_scopes.map((scope) => (
          <label key={scope} className="check">
            <input
              type="checkbox"
              checked={scopes.includes(scope)}
              onChange={({ target }) => setScopes(target.checked ? [...scopes, scope] : scopes.filter((one) => one !== scope))}
            />
            {scope}
          </label>
        ))}
      </fieldset>
      <Field label={words.expires}>
        {(id) => <input id={id} type="date" value={end} onChange={(event) => setEnd(event.target.value)} />}
      </Field>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <div className="buttons">
        <button type="button" className="button" onClick={onCancel}>
          {words.cancel}
        </button>
        <button type="submit" className="button primary" disabled={busy || !scopes.length}>
          {words.createKey}
        </button>
      </div>
    </form>
  );
}
