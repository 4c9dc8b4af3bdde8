import { useState } from "react";
import { go } from "../router";
import * as server from "../api/server";
import type { Summary } from "../api/types";
import { useConversations } from "../state/conversations";
import { useHere, useUser } from "../state/session";
import { age } from "../ui/dates";
import { Failure } from "../ui/Failure";
import { Icon } from "../ui/Icon";
import { IconButton } from "../ui/IconButton";
import { Menu } from "../ui/Menu";
import { explain, useWords } from "../words";
import { Row } from "./Row";

interface Given {
  current: string | null;
  /** Uncover the page, where the list covers it. */
  onLeave(): void;
  onFold(): void;
  onExplain(): void;
}

/** The list of conversations, with search, archive, and what belongs to the account. */
export function Sidebar({ current, onLeave, onFold, onExplain }: Given) {
  const words = useWords();
  const list = useConversations();
  function visit(path: string): void {
    go(path);
    onLeave();
  }
  return (
    <nav className="sidebar" aria-label={words.conversations}>
      <div className="sidebar-head">
        <a
          className="brand"
          href="/"
          onClick={(event) => {
            event.preventDefault();
            visit("/");
          }}
        >
          <img src="/icon.svg" alt="" width="26" height="26" />
          chatwright
        </a>
        <IconButton icon="close" label={words.closeList} className="narrow" onClick={onLeave} />
        <IconButton icon="panel" label={words.closeList} className="wide" onClick={onFold} />
      </div>
      <button type="button" className="new-chat" onClick={() => visit("/")}>
        <Icon name="plus" />
        {words.newChat}
      </button>
      <form
        className="search"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          const [first] = list.items;
          if (list.search && first) visit(`/c/${first.id}`);
        }}
      >
        <Icon name="search" />
        <input
          id="search"
          type="search"
          value={list.search}
          aria-label={words.search}
          placeholder={words.search}
          onChange={(event) => list.setSearch(event.target.value)}
        />
      </form>
      <div className="list">
        <Rows current={current} onOpen={(id) => visit(`/c/${id}`)} />
        {list.more && (
          <button type="button" className="quiet" disabled={list.loading} onClick={list.readMore}>
            {words.more}
          </button>
        )}
      </div>
      <button type="button" className="quiet" onClick={() => list.setArchived(!list.archived)}>
        <Icon name={list.archived ? "left" : "archive"} />
        {list.archived ? words.backToList : words.archived}
      </button>
      <Person visit={visit} onExplain={onExplain} />
    </nav>
  );
}

function Rows({ current, onOpen }: { current: string | null; onOpen(id: string): void }) {
  const words = useWords();
  const list = useConversations();
  if (list.failure !== null) {
    return (
      <Failure>
        <p>{explain(words, list.failure)}</p>
        <button type="button" className="button small" onClick={list.refresh}>
          {words.retry}
        </button>
      </Failure>
    );
  }
  if (!list.items.length) {
    const nothing = list.search ? words.nothingFound : list.archived ? words.nothingArchived : words.noConversations;
    return <p className="hint">{list.loading ? words.loading : nothing}</p>;
  }
  const now = new Date();
  const groups = new Map<string, Summary[]>();
  for (const item of list.items) {
    const group = list.search ? "" : words[age(item.updated_at, now)];
    groups.set(group, [...(groups.get(group) ?? []), item]);
  }
  return [...groups].map(([group, items]) => (
    <section key={group} aria-label={group || words.search}>
      {group && <h2>{group}</h2>}
      <ul>
        {items.map((item) => (
          <Row key={item.id} item={item} current={item.id === current} onOpen={() => onOpen(item.id)} />
        ))}
      </ul>
    </section>
  ));
}

/** Who is here, with settings and the way out. */
function Person({ visit, onExplain }: { visit(path: string): void; onExplain(): void }) {
  const words = useWords();
  const user = useUser();
  const { setSession } = useHere();
  const [failure, setFailure] = useState<unknown>(null);
  const guest = user.role === "guest";
  const items = [
    { icon: "gear" as const, label: words.settings, onChoose: () => visit("/settings") },
    ...(user.role === "admin" ? [{ icon: "chart" as const, label: words.admin, onChoose: () => visit("/admin") }] : []),
    { icon: "keyboard" as const, label: words.shortcuts, onChoose: onExplain },
    ...(guest ? [{ icon: "person" as const, label: words.logIn, onChoose: () => visit("/login") }] : []),
    {
      icon: "leave" as const,
      label: words.logOut,
      onChoose: () => {
        server.logOut().then((session) => {
          visit("/");
          setSession(session);
        }, setFailure);
      },
    },
  ];
  return (
    <div className="person">
      {guest && (
        <p className="guest">
          {words.guestText}
          <button type="button" className="button small primary" onClick={() => visit("/signup")}>
            {words.signUp}
          </button>
        </p>
      )}
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <Menu label={words.accountMenu} named className="person-button" items={items}>
        <span className="avatar" aria-hidden="true">
          {(guest ? words.guest : user.name).slice(0, 1).toUpperCase()}
        </span>
        <span className="person-name">{guest ? words.guest : user.name}</span>
        <span className="unseen">{words.accountMenu}</span>
        <Icon name="more" />
      </Menu>
    </div>
  );
}
