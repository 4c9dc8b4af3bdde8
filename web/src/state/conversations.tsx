// The list of conversations, newest first, as far as it has been read.
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useRef, useState } from "react";
import * as server from "../api/server";
import type { Summary } from "../api/types";
import { usePath } from "../router";
import { renewed } from "./list";
import { useReturn } from "./returning";

interface List {
  items: Summary[];
  more: boolean;
  loading: boolean;
  failure: unknown;
  search: string;
  archived: boolean;
  setSearch(search: string): void;
  setArchived(archived: boolean): void;
  readMore(): void;
  refresh(): void;
  /** Put in what is new of a conversation; null: it is gone. */
  note(id: string, fresh: Summary | null): void;
}

const ListContext = createContext<List | null>(null);

export function useConversations(): List {
  const list = useContext(ListContext);
  if (!list) throw new Error("outside of ConversationsProvider");
  return list;
}

const TYPING = 250; // milliseconds of rest before a search is asked
const LOOK_EVERY = 3000; // milliseconds, while an answer is written in a conversation that is not open

export function ConversationsProvider({ children }: { children: ReactNode }) {
  const [items, setItems] = useState<Summary[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [loading, setLoading] = useState(true);
  const [failure, setFailure] = useState<unknown>(null);
  const [search, setSearch] = useState("");
  const [archived, setArchived] = useState(false);
  const asked = useRef(0);
  const shown = useRef(archived); // for `note`, which may be called long after it was taken
  shown.current = archived;

  const read = useCallback(
    async (from: string | null) => {
      const mine = ++asked.current;
      setLoading(true);
      try {
        const answer = await server.conversations(search.trim(), archived, from);
        if (mine !== asked.current) return; // asked anew meanwhile
        setItems((before) => (from ? [...before, ...answer.items] : answer.items));
        setCursor(answer.next_cursor);
        setFailure(null);
      } catch (error) {
        if (mine === asked.current) setFailure(error);
      }
      if (mine === asked.current) setLoading(false);
    },
    [search, archived],
  );

  useEffect(() => {
    const timer = setTimeout(() => void read(null), search ? TYPING : 0);
    return () => clearTimeout(timer);
  }, [read, search]);

  const known = useRef(0);
  known.current = items.length;

  /** Takes over what is new, such as the end of an answer, or what was done in another tab. */
  const look = useCallback(async () => {
    const mine = asked.current;
    const answer = await server.conversations(search.trim(), archived, null).catch(() => null);
    if (!answer || mine !== asked.current) return;
    if (known.current <= answer.items.length) setCursor(answer.next_cursor); // else the list goes on behind what was read
    setItems((before) => renewed(before, answer.items, answer.next_cursor !== null));
  }, [search, archived]);

  useReturn(useCallback(() => void look(), [look]));

  const path = usePath();
  useEffect(() => {
    if (!items.some(({ id, running }) => running && path !== `/c/${id}`)) return;
    const timer = setTimeout(() => void look(), LOOK_EVERY);
    return () => clearTimeout(timer);
  }, [items, path, look]);

  const note = useCallback(
    (id: string, fresh: Summary | null) =>
      setItems((before) => {
        const known = before.find((item) => item.id === id);
        const others = before.filter((item) => item.id !== id);
        if (!fresh || fresh.archived !== shown.current) return others;
        const item = { ...known, ...fresh };
        return known?.updated_at === fresh.updated_at ? before.map((one) => (one.id === id ? item : one)) : [item, ...others];
      }),
    [],
  );

  const list = useMemo<List>(
    () => ({
      items,
      more: cursor !== null,
      loading,
      failure,
      search,
      archived,
      setSearch,
      setArchived,
      readMore: () => void read(cursor),
      refresh: () => void read(null),
      note,
    }),
    [items, cursor, loading, failure, search, archived, read, note],
  );
  return <ListContext value={list}>{children}</ListContext>;
}
