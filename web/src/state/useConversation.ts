// One conversation and all that one can do in it.
import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "react";
import { follow } from "../api/events";
import { Refusal } from "../api/http";
import * as server from "../api/server";
import type { Choice, Comparison, Conversation, Feedback, Message, Turn } from "../api/types";
import { go } from "../router";
import { after, type Happening } from "./conversation";
import { useConversations } from "./conversations";
import { useReturn } from "./returning";

/** A message on its way to the server. Sent again under the same key, it is asked once. */
export interface Pending {
  content: string;
  parent_id: string | null;
  key: string;
  compare: boolean;
}

/** Settings and consent of a conversation that is not begun yet. */
export interface Draft {
  settings: server.Turning;
  consent: boolean | null;
}

const NO_DRAFT: Draft = { settings: {}, consent: null };
const TITLE_AFTER = [1500, 5000, 12000]; // milliseconds after the first answer: when to look whether the model made a title

/** A key that nobody else makes. (`crypto.randomUUID` is missing on plain http.) */
function uniqueKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

type Held = Conversation | null;

function reduce(before: Held, happening: Happening | { type: "left" }): Held {
  return happening.type === "left" ? null : after(before, happening);
}

export type Chat = ReturnType<typeof useConversation>;

export function useConversation(id: string | null) {
  const { note, items } = useConversations();
  const [conversation, happen] = useReducer(reduce, null);
  const [failure, setFailure] = useState<unknown>(null);
  const [missing, setMissing] = useState<"unknown" | "deleted" | null>(null);
  const [pending, setPending] = useState<Pending | null>(null);
  const [lost, setLost] = useState(false);
  const [draft, setDraft] = useState<Draft>(NO_DRAFT);
  const held = useRef<Held>(null);
  const changing = useRef<Promise<unknown>>(Promise.resolve()); // a new model holds for the next question
  held.current = conversation;
  const wanted = useRef(id);
  wanted.current = id;
  const listed = useRef(items);
  listed.current = items;

  const open = useCallback(() => {
    setFailure(null);
    setMissing(null);
    if (id === null) return;
    server.readConversation(id).then(
      (read) => wanted.current === id && happen({ type: "opened", conversation: read }),
      (error: unknown) => {
        if (wanted.current !== id) return;
        if (error instanceof Refusal && error.status === 404) setMissing("unknown");
        else setFailure(error);
      },
    );
  }, [id]);

  useEffect(() => {
    if (id !== null && held.current?.id === id) return; // just made here
    happen({ type: "left" });
    setPending(null);
    setLost(false);
    setDraft(NO_DRAFT);
    open();
  }, [id, open]);

  const deleted = useCallback(
    (gone: string) => {
      note(gone, null);
      if (held.current?.id !== gone) return;
      happen({ type: "left" });
      setMissing("deleted");
    },
    [note],
  );

  const running = useMemo(
    () => conversation?.messages.filter(({ status }) => status === "running").map((message) => message.id) ?? [],
    [conversation],
  );
  const runningKey = running.join();
  const conversationId = conversation?.id ?? null;
  useEffect(() => {
    if (!runningKey || !conversationId) return;
    const followed = held.current?.messages.filter((message) => runningKey.split(",").includes(message.id)) ?? [];
    const onLost = (isLost: boolean) => {
      setLost(isLost);
      if (!isLost) return;
      server.readConversation(conversationId).catch((error: unknown) => {
        if (error instanceof Refusal && error.status === 404) deleted(conversationId); // an EventSource does not say why it failed
      });
    };
    const leave = followed.map((message) =>
      follow(message, {
        onLost,
        onEvent: (event) => {
          happen({ type: "heard", id: message.id, event });
          if (event.kind === "gone") deleted(conversationId);
          if (event.kind === "end") note(conversationId, event.conversation);
        },
      }),
    );
    return () => leave.forEach((stop) => stop());
  }, [runningKey, conversationId, note, deleted]);

  useReturn(
    useCallback(() => {
      const { id: mine, current_id: current } = held.current ?? {};
      if (!mine || current === undefined) return;
      server.readConversation(mine).then(
        (conversation) => happen({ type: "renewed", conversation, current }),
        (error: unknown) => {
          if (error instanceof Refusal && error.status === 404) deleted(mine);
        },
      );
    }, [deleted]),
  );

  const begun = useRef<string | null>(null); // the conversation whose first question was asked here
  const count = conversation?.messages.length ?? 0; // a quick answer is done before it was seen to run
  useEffect(() => {
    if (conversationId === null || runningKey || begun.current !== conversationId) return;
    begun.current = null;
    const title = held.current?.title;
    const isListed = () => listed.current.some((item) => item.id === conversationId);
    const askTitle = async () => {
      if (held.current?.id !== conversationId && !isListed()) return; // deleted
      const fresh = await server.readConversation(conversationId).catch(() => null);
      if (!fresh || fresh.title === title) return;
      if (isListed()) note(conversationId, fresh); // else it was archived while this was asked
      if (held.current?.id === conversationId) happen({ type: "edited", conversation: { title: fresh.title } });
      timers.forEach(clearTimeout);
    };
    const timers = TITLE_AFTER.map((wait) => setTimeout(() => void askTitle(), wait));
  }, [conversationId, runningKey, count, note]);

  /** The server began answers. */
  const turned = useCallback(
    (turn: Turn) => {
      if (!held.current?.messages.length) begun.current = turn.conversation.id;
      happen({ type: "turned", turn });
      note(turn.conversation.id, turn.conversation);
    },
    [note],
  );

  const attempt = useCallback(async (work: () => Promise<void>): Promise<boolean> => {
    setFailure(null);
    try {
      await work();
      return true;
    } catch (error) {
      setFailure(error);
      return false;
    }
  }, []);

  const deliver = useCallback(
    async (message: Pending): Promise<boolean> => {
      setPending(message);
      const delivered = await attempt(async () => {
        await changing.current;
        let into = held.current;
        if (!into) {
          into = await server.createConversation({ settings: draft.settings, consent: draft.consent });
          happen({ type: "opened", conversation: into });
          held.current = into;
          go(`/c/${into.id}`, true);
        }
        turned(await server.send(into.id, message));
        setPending(null);
      });
      return delivered;
    },
    [attempt, draft, turned],
  );

  const send = useCallback(
    (content: string, { parent, compare = false }: { parent?: string | null; compare?: boolean } = {}) =>
      deliver({
        content,
        parent_id: parent === undefined ? (held.current?.current_id ?? null) : parent,
        key: uniqueKey(),
        compare,
      }),
    [deliver],
  );

  const of = conversation?.id ?? "";
  return {
    conversation,
    /** Whether a conversation is wanted that is not read yet. */
    opening: id !== null && conversation === null,
    missing,
    failure,
    pending,
    lost,
    draft,
    setDraft,
    running: running.length > 0 || (pending !== null && failure === null),
    open,
    send,
    /** Send what could not be sent, once more. */
    resend: () => (pending ? deliver(pending) : Promise.resolve(false)),
    /** Give up what could not be sent; returns its text. */
    takeBack: () => {
      setPending(null);
      setFailure(null);
      return pending?.content ?? "";
    },
    dismiss: () => setFailure(null),
    stop: () =>
      attempt(async () => {
        const stopped = await Promise.all(running.map((one) => server.stop(of, one)));
        stopped.forEach((message) => happen({ type: "changed", message }));
      }),
    regenerate: (message: Message) =>
      attempt(async () => {
        await changing.current;
        turned(await server.regenerate(of, message.id));
      }),
    goOn: (message: Message) =>
      attempt(async () => {
        await changing.current;
        turned(await server.goOn(of, message.id));
      }),
    pick: (message: Message) =>
      attempt(async () => {
        happen({ type: "picked", id: message.id });
        await server.changeConversation(of, { current_id: message.id });
      }),
    rate: (message: Message, feedback: Pick<Feedback, "vote" | "tags" | "text"> | null) =>
      attempt(async () => {
        const changed = feedback ? await server.rate(of, message.id, feedback) : await server.unrate(of, message.id);
        happen({ type: "changed", message: changed });
      }),
    choose: (comparison: Comparison, choice: Choice, text: string) =>
      attempt(async () => {
        happen({ type: "chosen", comparison: await server.choose(of, comparison.id, choice, text) });
      }),
    /** Change title, consent or settings. Throws `Refusal`. */
    change: async (change: Parameters<typeof server.changeConversation>[1]) => {
      const changed = server.changeConversation(of, change);
      changing.current = Promise.allSettled([changing.current, changed]);
      const { messages: _, comparisons: __, ...fresh } = await changed;
      happen({ type: "edited", conversation: fresh });
      note(fresh.id, fresh);
    },
    /** Make, move or (null) remove the link. Throws `Refusal`. */
    share: async (leaf: string | null) => {
      if (leaf === null) await server.unshare(of);
      happen({ type: "shared", share: leaf === null ? null : await server.share(of, leaf) });
    },
  };
}
