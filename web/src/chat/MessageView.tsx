import { memo, useDeferredValue } from "react";
import type { Message } from "../api/types";
import type { Chat } from "../state/useConversation";
import { useWords } from "../words";
import { Icon } from "../ui/Icon";
import { Answer } from "./Answer";
import { AnswerBar } from "./AnswerBar";
import { QuestionBar } from "./QuestionBar";

/** What a reader may do; none of it on pages that are only read. */
export type Acts = Pick<Chat, "send" | "regenerate" | "goOn" | "pick" | "rate" | "choose">;

interface Given {
  message: Message;
  siblings: Message[];
  last: boolean;
  busy: boolean;
  marked?: boolean;
  acts?: Acts;
}

/** One message of the branch shown, with what can be done with it. */
export const MessageView = memo(function MessageView({ message, siblings, last, busy, marked = false, acts }: Given) {
  const words = useWords();
  const own = message.role === "user";
  return (
    <article
      id={`m-${message.id}`}
      className={`message ${own ? "own" : "answer"}${marked ? " marked" : ""}`}
      aria-label={own ? words.you : words.assistant}
    >
      {own ? (
        <QuestionBar message={message} siblings={siblings} last={last} busy={busy} acts={acts} />
      ) : (
        <>
          <AnswerText message={message} />
          {message.status !== "running" && (
            <AnswerBar message={message} siblings={siblings} last={last} busy={busy} acts={acts} />
          )}
        </>
      )}
    </article>
  );
});

/** An answer's text as far as it is there, or why there is none. */
export function AnswerText({ message }: { message: Pick<Message, "content" | "status" | "notice"> & { id: string } }) {
  const words = useWords();
  const content = useDeferredValue(message.content); // a long answer is drawn as often as there is time for
  if (message.status === "blocked") {
    return (
      <p className="notice">
        <Icon name="shield" />
        <span>{message.notice || words.blocked}</span>
      </p>
    );
  }
  const running = message.status === "running";
  if (!content && running) return <Dots />;
  return <Answer id={message.id} content={content} running={running} />;
}

export function Dots() {
  return (
    <p className="dots" aria-hidden="true">
      <i />
      <i />
      <i />
    </p>
  );
}
