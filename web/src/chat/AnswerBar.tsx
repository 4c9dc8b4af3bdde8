import { useState } from "react";
import type { Message, Vote } from "../api/types";
import { useSay } from "../state/say";
import { CopyButton } from "../ui/CopyButton";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";
import { FeedbackForm } from "./FeedbackForm";
import type { Acts } from "./MessageView";
import { Versions } from "./Versions";

interface Given {
  message: Message;
  siblings: Message[];
  last: boolean;
  busy: boolean;
  acts: Acts | undefined;
}

/** Under an answer: copy, another, rating, versions, how it ended, and going on with it. */
export function AnswerBar({ message, siblings, last, busy, acts }: Given) {
  const words = useWords();
  const say = useSay();
  const [explaining, setExplaining] = useState(false);
  const vote = message.feedback?.vote;

  async function rate(chosen: Vote): Promise<void> {
    if (!acts) return;
    if (vote === chosen) {
      setExplaining((open) => !open);
      return;
    }
    if (await acts.rate(message, { vote: chosen, tags: [], text: message.feedback?.text ?? "" })) {
      say(words.thanks);
      setExplaining(true);
    }
  }

  const ended = {
    stopped: words.stopped,
    interrupted: words.interrupted,
    failed: message.notice || words.failed,
    done: message.finish_reason === "length" ? words.cut : null,
    blocked: null,
    running: null,
  }[message.status];
  const answered = message.status !== "blocked" && message.content !== "";
  return (
    <>
      {ended && (
        <p className="ended">
          <span className="note">{ended}</span>
          {last && message.can_continue && acts && (
            <button type="button" className="button small" disabled={busy} onClick={() => void acts.goOn(message)}>
              {words.goOn}
            </button>
          )}
        </p>
      )}
      <div className={last ? "actions last" : "actions"}>
        <Versions message={message} siblings={siblings} onPick={busy ? undefined : acts?.pick} />
        {answered && <CopyButton text={message.content} label={words.copy} />}
        {acts && (
          <IconButton icon="again" label={words.regenerate} disabled={busy} onClick={() => void acts.regenerate(message)} />
        )}
        {answered && acts && (
          <>
            <IconButton icon="up" label={words.good} aria-pressed={vote === "up"} onClick={() => void rate("up")} />
            <IconButton icon="down" label={words.bad} aria-pressed={vote === "down"} onClick={() => void rate("down")} />
          </>
        )}
        {message.model && <span className="note model-name">{message.model}</span>}
      </div>
      {explaining && message.feedback && acts && (
        <FeedbackForm
          key={message.feedback.vote}
          feedback={message.feedback}
          onClose={() => setExplaining(false)}
          onSave={(feedback) => acts.rate(message, feedback)}
        />
      )}
    </>
  );
}
