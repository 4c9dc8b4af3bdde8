import type { Chat } from "../state/useConversation";
import { CopyButton } from "../ui/CopyButton";
import { Dialog } from "../ui/Dialog";
import { Failure } from "../ui/Failure";
import { Field } from "../ui/Field";
import { useTask } from "../ui/useTask";
import { explain, useWords } from "../words";

/** Makes, shows, moves and removes the one link of a conversation. */
export function ShareDialog({ chat, onClose }: { chat: Chat; onClose(): void }) {
  const words = useWords();
  const { busy, failure, run } = useTask();
  const { conversation } = chat;
  const leaf = conversation?.current_id;
  if (!conversation || !leaf) return null;
  const { share } = conversation;
  const address = share && location.origin + share.path;
  return (
    <Dialog title={words.shareTitle} onClose={onClose}>
      <p>{words.shareText}</p>
      {address && (
        <Field label={words.link}>
          {(id) => (
            <div className="joined">
              <input id={id} readOnly value={address} onFocus={(event) => event.target.select()} />
              <CopyButton text={address} label={words.copyLink} />
            </div>
          )}
        </Field>
      )}
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <div className="buttons">
        {share && (
          <button type="button" className="button danger" disabled={busy} onClick={() => void run(() => chat.share(null))}>
            {words.removeLink}
          </button>
        )}
        {share?.message_id !== leaf && (
          <button type="button" className="button primary" disabled={busy} onClick={() => void run(() => chat.share(leaf))}>
            {share ? words.moveLink : words.makeLink}
          </button>
        )}
      </div>
    </Dialog>
  );
}
