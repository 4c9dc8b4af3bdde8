import { Fragment, useMemo } from "react";
import type { Comparison, Conversation, Message } from "../api/types";
import { branch, versions } from "../state/tree";
import type { Pending } from "../state/useConversation";
import { useWords } from "../words";
import { Chosen, ComparisonView } from "./ComparisonView";
import { type Acts, Dots, MessageView } from "./MessageView";

interface Given {
  conversation: Pick<Conversation, "messages" | "comparisons" | "current_id">;
  pending?: Pending | null;
  busy?: boolean;
  marked?: string | undefined;
  acts?: Acts;
}

/** The branch of a conversation that is shown. */
export function Thread({ conversation, pending = null, busy = false, marked, acts }: Given) {
  const words = useWords();
  const { messages, comparisons, current_id } = conversation;
  const whole = useMemo(() => branch(messages, current_id), [messages, current_id]);
  const shown = pending ? branch(messages, pending.parent_id) : whole;
  const dropped = shown.at(-1)?.dropped ?? 0;
  return (
    <div className="thread" role="log" aria-live="off" aria-busy={busy} aria-label={words.conversation}>
      {shown.map((message, index) => (
        <Fragment key={message.id}>
          {dropped > 0 && index === dropped && <p className="forgotten">{words.forgotten}</p>}
          <OneOf
            message={message}
            messages={messages}
            comparison={comparisons.find(({ id }) => id === message.comparison_id)}
            last={index === shown.length - 1 && !pending}
            busy={busy}
            marked={message.id === marked}
            {...(acts && { acts })}
          />
        </Fragment>
      ))}
      {pending && (
        <>
          <article className="message own" aria-label={words.you}>
            <div className="said" dir="auto">
              {pending.content}
            </div>
          </article>
          {busy && <Dots />}
        </>
      )}
    </div>
  );
}

interface One {
  message: Message;
  messages: Message[];
  comparison: Comparison | undefined;
  last: boolean;
  busy: boolean;
  marked: boolean;
  acts?: Acts;
}

function OneOf({ message, messages, comparison, acts, ...shared }: One) {
  const siblings = useMemo(() => versions(messages, message), [messages, message]);
  const view = <MessageView message={message} siblings={siblings} {...shared} {...(acts && { acts })} />;
  if (!comparison || !acts) return view;
  const answers = comparison.answers.flatMap((id) => messages.find((one) => one.id === id) ?? []);
  const sides = { comparison, answers, busy: shared.busy, acts };
  if (!comparison.choice && shared.last) return <ComparisonView {...sides} />;
  return (
    <>
      {view}
      {comparison.choice && <Chosen {...sides} />}
    </>
  );
}
