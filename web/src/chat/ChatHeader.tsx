import { useState } from "react";
import { useConfig, useHere, useUser } from "../state/session";
import type { Chat } from "../state/useConversation";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";
import { ConversationSettings } from "./ConversationSettings";
import { ShareDialog } from "./ShareDialog";

export function ChatHeader({ chat, openList }: { chat: Chat; openList(): void }) {
  const words = useWords();
  const config = useConfig();
  const user = useUser();
  const { change } = useHere();
  const [open, setOpen] = useState<"settings" | "share" | null>(null);
  const { conversation, draft } = chat;
  const names = config.models.map(({ id }) => id);
  const wanted = (conversation?.settings ?? draft.settings).model ?? user.settings.model;
  const model = wanted && names.includes(wanted) ? wanted : config.default_model;

  async function choose(chosen: string): Promise<void> {
    if (conversation) await chat.change({ settings: { model: chosen } });
    else await change({ model: chosen });
  }

  return (
    <header className="bar">
      <IconButton icon="menu" label={words.openList} className="narrow" onClick={openList} />
      {names.length > 1 ? (
        <select
          className="model"
          aria-label={words.model}
          disabled={chat.opening}
          value={model}
          onChange={(event) => void choose(event.target.value).catch(() => undefined)}
        >
          {names.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      ) : (
        <span className="model">{model}</span>
      )}
      {conversation && <h1 className="bar-title">{conversation.title || words.untitled}</h1>}
      <div className="bar-tools">
        {conversation?.current_id && <IconButton icon="share" label={words.share} onClick={() => setOpen("share")} />}
        <IconButton
          icon="tune"
          label={words.conversationSettings}
          disabled={chat.opening}
          onClick={() => setOpen("settings")}
        />
      </div>
      {open === "settings" && <ConversationSettings chat={chat} onClose={() => setOpen(null)} />}
      {open === "share" && <ShareDialog chat={chat} onClose={() => setOpen(null)} />}
    </header>
  );
}
