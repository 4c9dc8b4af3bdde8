import { useState } from "react";
import { useUser } from "../state/session";
import type { Chat } from "../state/useConversation";
import { Icon } from "../ui/Icon";
import { useWords } from "../words";

/** Below the box: whether this conversation may be used to improve the model, to be switched. And the keys. */
export function ConsentLine({ chat }: { chat: Chat }) {
  const words = useWords();
  const user = useUser();
  const [waiting, setWaiting] = useState(false);
  const { conversation, draft } = chat;
  const given = conversation ? conversation.consent_effective : (draft.consent ?? user.consent);
  async function change(): Promise<void> {
    if (!conversation) {
      chat.setDraft({ ...draft, consent: !given });
      return;
    }
    setWaiting(true);
    await chat.change({ consent: !given }).catch(() => undefined); // the switch stays where it was
    setWaiting(false);
  }
  return (
    <p className="hints">
      <button
        type="button"
        role="switch"
        aria-checked={given}
        title={words.consentText}
        className="consent"
        disabled={waiting || chat.opening}
        onClick={() => void change()}
      >
        <Icon name="shield" />
        <span>{words.consentConversation}</span>
        <i className="knob" aria-hidden="true" />
      </button>
      <span className="wide">{words.keys}</span>
    </p>
  );
}
