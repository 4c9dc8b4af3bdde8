import { type FormEvent, useState } from "react";
import { Refusal } from "../api/http";
import * as server from "../api/server";
import type { Session } from "../api/types";
import { go } from "../router";
import { useConfig, useHere } from "../state/session";
import { Failure } from "../ui/Failure";
import { useTask } from "../ui/useTask";
import { explain, useWords } from "../words";
import { LookSwitch } from "./LookSwitch";
import { NameField, PasswordField } from "./fields";

/** Log in or sign up; and without an account where the operator allows it. */
export function Entry({ way }: { way: "login" | "signup" }) {
  const words = useWords();
  const config = useConfig();
  const { session, ended, setSession } = useHere();
  const { busy, failure, run } = useTask();
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const fresh = way === "signup" && config.signup;
  const guest = session.user?.role === "guest";

  function enter(entered: Session): void {
    if (["/login", "/signup"].includes(location.pathname)) go("/", true);
    setSession(entered);
  }

  function submit(event: FormEvent): void {
    event.preventDefault();
    void run(async () => {
      if (fresh) await server.signUp(name, password);
      enter(await server.logIn(name, password));
    });
  }

  const refused = failure instanceof Refusal && failure.code === "wrong_credentials";
  return (
    <div className="entry">
      <header>
        <LookSwitch />
      </header>
      <main>
        <section className="pitch">
          <img src="/icon.svg" alt="" width="56" height="56" />
          <p className="brand">chatwright</p>
          <p className="pitch-line">{words.pitch}</p>
          <p>{words.pitchText}</p>
        </section>
        <form className="card" onSubmit={submit}>
          <h1>{fresh ? words.signUpTitle : words.logInTitle}</h1>
          {fresh && <p className="hint">{words.signUpText}</p>}
          {ended && !fresh && (
            <p role="status" className="hint">
              {words.sessionEnded}
            </p>
          )}
          <NameField fresh={fresh} value={name} onChange={setName} />
          <PasswordField fresh={fresh} label={words.password} value={password} onChange={setPassword} />
          {failure !== null && <Failure>{fresh && refused ? words.signUpFailed : explain(words, failure)}</Failure>}
          <button type="submit" className="button primary wide-button" disabled={busy}>
            {fresh ? words.signUp : words.logIn}
          </button>
          {config.guests && !guest && (
            <button
              type="button"
              className="button wide-button"
              disabled={busy}
              onClick={() => void run(async () => enter(await server.beGuest()))}
            >
              {words.asGuest}
            </button>
          )}
          {config.signup && (
            <p className="other-way">
              {fresh ? words.haveAccount : words.noAccount}{" "}
              <button type="button" className="link" onClick={() => go(fresh ? "/login" : "/signup", true)}>
                {fresh ? words.logIn : words.signUp}
              </button>
            </p>
          )}
          {guest && (
            <p className="other-way">
              <button type="button" className="link" onClick={() => go("/")}>
                {words.home}
              </button>
            </p>
          )}
        </form>
      </main>
    </div>
  );
}
