import { useState } from "react";
import type { Feedback } from "../api/types";
import { useSay } from "../state/say";
import { useConfig } from "../state/session";
import { IconButton } from "../ui/IconButton";
import { useWords, wordFor } from "../words";
import { Remark } from "./Remark";

interface Given {
  feedback: Feedback;
  onClose(): void;
  /** null: take the rating back. Returns whether the server took it. */
  onSave(feedback: Pick<Feedback, "vote" | "tags" | "text"> | null): Promise<boolean>;
}

/** Why an answer was good or bad. The vote itself is given already. */
export function FeedbackForm({ feedback, onClose, onSave }: Given) {
  const words = useWords();
  const say = useSay();
  const { feedback_tags } = useConfig();
  const [tags, setTags] = useState(feedback.tags);
  const [text, setText] = useState(feedback.text);

  async function save(changed: Pick<Feedback, "vote" | "tags" | "text"> | null): Promise<void> {
    if (!(await onSave(changed))) return;
    if (changed) say(words.thanks, true);
    onClose();
  }

  return (
    <form
      className="feedback"
      aria-label={words.rating}
      onSubmit={(event) => {
        event.preventDefault();
        void save({ vote: feedback.vote, tags, text: text.trim() });
      }}
    >
      <div className="feedback-head">
        <strong>{words.why}</strong>
        <IconButton icon="close" label={words.close} onClick={onClose} />
      </div>
      <div className="tags" role="group" aria-label={words.tags}>
        {feedback_tags[feedback.vote].map((tag) => (
          <button
            key={tag}
            type="button"
            className="tag"
            aria-pressed={tags.includes(tag)}
            onClick={() => setTags(tags.includes(tag) ? tags.filter((one) => one !== tag) : [...tags, tag])}
          >
            {wordFor(words, "tag_", tag)}
          </button>
        ))}
      </div>
      <Remark label={words.comment} rows={2} text={text} onChange={setText} />
      <div className="buttons">
        <button type="button" className="button" onClick={() => void save(null)}>
          {words.withdraw}
        </button>
        <button type="submit" className="button primary">
          {words.sendRating}
        </button>
      </div>
    </form>
  );
}
