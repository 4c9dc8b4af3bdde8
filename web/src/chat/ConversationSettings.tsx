import { useState } from "react";
import type { ChatSettings } from "../api/types";
import { useUser } from "../state/session";
import type { Chat } from "../state/useConversation";
import { Dialog } from "../ui/Dialog";
import { Failure } from "../ui/Failure";
import { Switch } from "../ui/Switch";
import { useTask } from "../ui/useTask";
import { explain, useWords } from "../words";
import { AnswerSettings } from "./AnswerSettings";

const AS_ACCOUNT: ChatSettings = { model: null, instructions: null, temperature: null, top_p: null, max_tokens: null };

export function ConversationSettings({ chat, onClose }: { chat: Chat; onClose(): void }) {
  const words = useWords();
  const user = useUser();
  const { busy, failure, run } = useTask();
  const { conversation, draft } = chat;
  const [settings, setSettings] = useState<ChatSettings>(conversation?.settings ?? { ...AS_ACCOUNT, ...draft.settings });
  const before = conversation ? conversation.consent_effective : (draft.consent ?? user.consent);
  const [consent, setConsent] = useState(before);

  async function save(): Promise<void> {
    if (conversation) await chat.change({ settings, ...(consent !== before && { consent }) });
    else chat.setDraft({ settings, consent: consent === before ? draft.consent : consent });
    onClose();
  }

  return (
    <Dialog title={words.conversationSettings} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run(save);
        }}
      >
        <AnswerSettings value={settings} inherited={words.asAccount} below={user.settings} onChange={setSettings} />
        <Switch label={words.consentConversation} hint={words.consentText} checked={consent} onChange={setConsent} />
        {failure !== null && <Failure>{explain(words, failure)}</Failure>}
        <div className="buttons">
          <button type="button" className="button" onClick={onClose}>
            {words.cancel}
          </button>
          <button type="submit" className="button primary" disabled={busy}>
            {words.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
