import { useEffect, useState } from "react";
import { LookSwitch } from "../account/LookSwitch";
import * as server from "../api/server";
import type { Shared } from "../api/types";
import { go } from "../router";
import { moment } from "../ui/dates";
import { useLanguage, useWords } from "../words";
import { AnswerText } from "./MessageView";

/** A conversation that somebody shared, to be read by anyone who has the link. */
export function SharedPage({ token }: { token: string }) {
  const words = useWords();
  const language = useLanguage();
  const [shared, setShared] = useState<Shared | null>(null);
  const [missing, setMissing] = useState(false);
  useEffect(() => {
    server.shared(token).then(setShared, () => setMissing(true));
  }, [token]);
  return (
    <div className="reading">
      <header className="bar">
        <a className="brand" href="/">
          <img src="/icon.svg" alt="" width="26" height="26" />
          chatwright
        </a>
        <div className="bar-tools">
          <LookSwitch />
        </div>
      </header>
      <main className="scroll" tabIndex={-1}>
        {missing && (
          <div className="welcome">
            <h1>{words.notFound}</h1>
            <p>{words.sharedMissing}</p>
          </div>
        )}
        {!shared && !missing && <p className="loading">{words.loading}</p>}
        {shared && (
          <>
            <div className="column shared-head">
              <h1 dir="auto">{shared.title || words.shared}</h1>
              <p className="hint">
                {words.sharedText} {moment(shared.created_at, language)}
              </p>
            </div>
            <div className="thread" role="group" aria-label={words.conversation}>
              {shared.messages.map((message, index) => (
                <article
                  key={index}
                  className={`message ${message.role === "user" ? "own" : "answer"}`}
                  aria-label={message.role === "user" ? words.you : words.assistant}
                >
                  {message.role === "user" ? (
                    <div className="said" dir="auto">
                      {message.content}
                    </div>
                  ) : (
                    <>
                      <AnswerText message={{ ...message, id: String(index) }} />
                      {message.model && <p className="note">{message.model}</p>}
                    </>
                  )}
                </article>
              ))}
            </div>
          </>
        )}
        <p className="column start-own">
          <button type="button" className="button primary" onClick={() => go("/")}>
            {words.startOwn}
          </button>
        </p>
      </main>
    </div>
  );
}
