import { useRef, useState } from "react";
import * as server from "../api/server";
import type { Summary } from "../api/types";
import { isComposing } from "../chat/typing";
import { go } from "../router";
import { useConversations } from "../state/conversations";
import { useConfig } from "../state/session";
import { Confirm } from "../ui/Confirm";
import { Icon } from "../ui/Icon";
import { Menu } from "../ui/Menu";
import { useWords } from "../words";

interface Given {
  item: Summary;
  current: boolean;
  onOpen(): void;
}

/** A conversation in the list: to open, rename, archive, delete. */
export function Row({ item, current, onOpen }: Given) {
  const words = useWords();
  const list = useConversations();
  const [naming, setNaming] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const title = item.title || words.untitled;

  async function change(fresh: { title?: string; archived?: boolean }): Promise<void> {
    try {
      list.note(item.id, await server.changeConversation(item.id, fresh));
    } catch {
      list.refresh(); // shows what holds, or why the server does not answer
    }
  }

  return (
    <li className={current ? "row current" : "row"}>
      {naming ? (
        <TitleBox
          title={item.title}
          onDone={(fresh) => {
            setNaming(false);
            if (fresh && fresh !== item.title) void change({ title: fresh });
          }}
        />
      ) : (
        <>
          <a
            href={`/c/${item.id}`}
            aria-current={current ? "page" : undefined}
            title={title}
            onClick={(event) => {
              if (event.ctrlKey || event.metaKey || event.shiftKey) return;
              event.preventDefault();
              onOpen();
            }}
          >
            <span className="row-title">{title}</span>
            {item.snippet && <small>{item.snippet}</small>}
          </a>
          {item.running && <span className="live" role="img" aria-label={words.answering} />}
          <Menu
            label={words.optionsFor(title)}
            className="icon-button row-menu"
            items={[
              { icon: "edit", label: words.rename, onChoose: () => setNaming(true) },
              {
                icon: "archive",
                label: item.archived ? words.unarchive : words.archive,
                onChoose: () => void change({ archived: !item.archived }),
              },
              { icon: "bin", label: words.remove, danger: true, onChoose: () => setDeleting(true) },
            ]}
          >
            <Icon name="more" />
          </Menu>
        </>
      )}
      {deleting && (
        <Confirm
          title={words.deleteTitle}
          text={words.deleteText(title)}
          action={words.remove}
          onClose={() => setDeleting(false)}
          onConfirm={async () => {
            await server.deleteConversation(item.id);
            if (current) go("/", true);
            list.note(item.id, null);
          }}
        />
      )}
    </li>
  );
}

/** The title being changed. Enter and leaving the box keep it, Esc does not. */
function TitleBox({ title, onDone }: { title: string; onDone(fresh: string | null): void }) {
  const words = useWords();
  const { limits } = useConfig();
  const [value, setValue] = useState(title);
  const done = useRef(false);
  function finish(fresh: string | null): void {
    if (done.current) return; // leaving the box follows on Enter and Esc
    done.current = true;
    onDone(fresh);
  }
  return (
    <input
      className="row-input"
      aria-label={words.newTitle}
      autoFocus
      value={value}
      maxLength={limits.title_chars}
      onFocus={(event) => event.target.select()}
      onChange={(event) => setValue(event.target.value)}
      onBlur={() => finish(value.trim())}
      onKeyDown={(event) => {
        if (isComposing(event)) return;
        if (event.key === "Enter") finish(value.trim());
        if (event.key === "Escape") {
          event.stopPropagation();
          finish(null);
        }
      }}
    />
  );
}
