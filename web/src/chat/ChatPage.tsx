import { useCallback, useEffect, useMemo, useRef } from "react";
import { Refusal } from "../api/http";
import { useDraft } from "../state/draft";
import { useSay } from "../state/say";
import { branch } from "../state/tree";
import { useConversation } from "../state/useConversation";
import { Empty } from "../ui/Empty";
import { Failure } from "../ui/Failure";
import { IconButton } from "../ui/IconButton";
import { explain, useWords } from "../words";
import { ChatHeader } from "./ChatHeader";
import { Composer } from "./Composer";
import { ConsentLine } from "./ConsentLine";
import type { Acts } from "./MessageView";
import { Thread } from "./Thread";
import { useFollowing } from "./useFollowing";
import { Welcome } from "./Welcome";

// To be shortened, or sent again after logging in.
const GIVEN_BACK = ["context_length_exceeded", "message_too_long", "too_large", "invalid_value", "not_signed_in"];
const SPOKEN = 1000; // characters of an answer that are read out

/** A conversation, or the place to begin one. */
export function ChatPage({ id, openList }: { id: string | null; openList(): void }) {
  const words = useWords();
  const say = useSay();
  const chat = useConversation(id);
  const [text, setText] = useDraft(id);
  const box = useRef<HTMLTextAreaElement>(null);
  const { conversation, running, failure, pending, send, regenerate, goOn, pick, rate, choose } = chat;
  const { scroller, atEnd, toEnd } = useFollowing(conversation, pending);

  useEffect(() => {
    if (matchMedia("(hover: hover)").matches) box.current?.focus(); // elsewhere a keyboard would cover the page
  }, [id]);

  const title = conversation?.title;
  useEffect(() => {
    document.title = title ? `${title} · chatwright` : "chatwright";
    return () => {
      document.title = "chatwright";
    };
  }, [title]);

  const answer = useMemo(() => {
    const last = conversation && branch(conversation.messages, conversation.current_id).at(-1);
    return last?.role === "assistant" ? last : null;
  }, [conversation]);
  const was = useRef(false);
  useEffect(() => {
    if (running && !was.current) say(words.thinking);
    if (!running && was.current) say(answer ? `${words.finished} ${answer.content.slice(0, SPOKEN)}` : "");
    was.current = running;
  }, [running, answer, say, words]);

  const latest = useRef({ send, regenerate, goOn, pick, rate, choose });
  latest.current = { send, regenerate, goOn, pick, rate, choose };
  const acts = useMemo<Acts>(
    () => ({
      send: (...given) => latest.current.send(...given),
      regenerate: (...given) => latest.current.regenerate(...given),
      goOn: (...given) => latest.current.goOn(...given),
      pick: (...given) => latest.current.pick(...given),
      rate: (...given) => latest.current.rate(...given),
      choose: (...given) => latest.current.choose(...given),
    }),
    [],
  );

  const stop = useCallback(() => {
    void chat.stop();
    box.current?.focus();
  }, [chat]);
  useEffect(() => {
    if (!running) return;
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open], :popover-open")) stop();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [running, stop]);

  async function ask(asked: string, compare: boolean): Promise<void> {
    setText("");
    toEnd();
    await send(asked, { compare });
  }
  const refused = failure instanceof Refusal && GIVEN_BACK.includes(failure.code);
  const giveBack = useRef(setText);
  giveBack.current = setText;
  useEffect(() => {
    if (!refused || !pending) return;
    giveBack.current((typed) => typed || pending.content); // once, into the conversation that it was sent in
  }, [refused, pending]);

  if (chat.missing) {
    const text = chat.missing === "deleted" ? words.error_not_found : words.notFoundText;
    return <Empty title={words.notFound} text={text} openList={openList} />;
  }
  return (
    <>
      <ChatHeader chat={chat} openList={openList} />
      <main ref={scroller} className="scroll" tabIndex={-1}>
        {id === null && !conversation && !pending && <Welcome onAsk={(asked) => void ask(asked, false)} />}
        {id !== null && !conversation && !failure && <p className="loading">{words.loading}</p>}
        {conversation ? (
          <Thread conversation={conversation} pending={refused ? null : pending} busy={running} acts={acts} />
        ) : (
          pending && !refused && <Thread conversation={NOTHING} pending={pending} busy={running} />
        )}
        {failure !== null && (
          <div className="column">
            <Failure>
              <p>{conversation || pending ? explain(words, failure) : `${words.conversationFailed} ${explain(words, failure)}`}</p>
              {!refused && (
                <button
                  type="button"
                  className="button small"
                  onClick={() => (pending ? void chat.resend() : conversation ? chat.dismiss() : chat.open())}
                >
                  {pending || !conversation ? words.retry : words.close}
                </button>
              )}
            </Failure>
          </div>
        )}
        {chat.lost && running && (
          <p className="column note" role="status">
            {words.reconnecting}
          </p>
        )}
      </main>
      <footer className="foot">
        {!atEnd && <IconButton icon="arrowDown" label={words.toEnd} className="to-end" onClick={toEnd} />}
        <Composer
          box={box}
          text={text}
          running={running}
          setText={setText}
          onSend={(asked, compare) => void ask(asked, compare)}
          onStop={stop}
        />
        <ConsentLine chat={chat} />
      </footer>
    </>
  );
}

const NOTHING = { messages: [], comparisons: [], current_id: null };
