import { useState } from "react";
import type { Message } from "../api/types";
import { CopyButton } from "../ui/CopyButton";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";
import { Editor } from "./Editor";
import type { Acts } from "./MessageView";
import { Versions } from "./Versions";

interface Given {
  message: Message;
  siblings: Message[];
  last: boolean;
  busy: boolean;
  acts: Acts | undefined;
}

/** A question, to be read or edited. */
export function QuestionBar({ message, siblings, last, busy, acts }: Given) {
  const words = useWords();
  const [editing, setEditing] = useState(false);
  if (editing && acts) {
    return (
      <Editor
        text={message.content}
        onCancel={() => setEditing(false)}
        onSend={(text) => {
          setEditing(false);
          void acts.send(text, { parent: message.parent_id });
        }}
      />
    );
  }
  return (
    <>
      <div className="said" dir="auto">
        {message.content}
      </div>
      <div className="actions">
        {message.status === "blocked" && <span className="note">{words.blockedQuestion}</span>}
        {last && !busy && acts && (
          <button type="button" className="quiet" onClick={() => void acts.regenerate(message)}>
            {words.answerIt}
          </button>
        )}
        <CopyButton text={message.content} label={words.copy} />
        {acts && <IconButton icon="edit" label={words.edit} disabled={busy} onClick={() => setEditing(true)} />}
        <Versions message={message} siblings={siblings} onPick={busy ? undefined : acts?.pick} />
      </div>
    </>
  );
}
