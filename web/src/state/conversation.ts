// A conversation as the page holds it, and what each thing that happens makes of it. Pure.
import type { AnswerEvent } from "../api/events";
import type { Comparison, Conversation, Message, Share, Turn } from "../api/types";
import { newestLeaf, withMessage } from "./tree";

export type Happening =
  | { type: "opened"; conversation: Conversation }
  | { type: "renewed"; conversation: Conversation; current: string | null }
  | { type: "turned"; turn: Turn }
  | { type: "heard"; id: string; event: AnswerEvent }
  | { type: "changed"; message: Message }
  | { type: "chosen"; comparison: Comparison }
  | { type: "picked"; id: string }
  | { type: "shared"; share: Share | null }
  | { type: "edited"; conversation: Partial<Omit<Conversation, "messages" | "comparisons">> };

export function after(before: Conversation | null, happening: Happening): Conversation | null {
  if (happening.type === "opened") return happening.conversation;
  if (!before) return before;
  const { messages } = before;
  switch (happening.type) {
    case "renewed":
      return renewed(before, happening.conversation, happening.current);
    case "turned":
      return turned(before, happening.turn);
    case "heard":
      return heard(before, happening.id, happening.event);
    case "changed":
      return { ...before, messages: withMessage(messages, happening.message) };
    case "chosen":
      return chosen(before, happening.comparison);
    case "picked":
      return { ...before, current_id: newestLeaf(messages, happening.id) };
    case "shared":
      return { ...before, share: happening.share };
    case "edited":
      return { ...before, ...happening.conversation };
  }
}

/** What the server has by now. `current`: where the branch ended when it was asked; what happened here since then stays. */
function renewed(before: Conversation, fresh: Conversation, current: string | null): Conversation {
  if (before.id !== fresh.id) return before;
  const ours = new Map(before.messages.map((message) => [message.id, message]));
  const messages = fresh.messages.map((message) => {
    const own = ours.get(message.id);
    ours.delete(message.id);
    return own && own.last_event > message.last_event ? own : message;
  });
  const stays = ours.size > 0 || before.current_id !== current;
  return {
    ...fresh,
    messages: [...ours.values()].reduce(withMessage, messages),
    current_id: stays ? before.current_id : fresh.current_id,
  };
}

function turned(before: Conversation, { question, answers, comparison, conversation }: Turn): Conversation {
  const fresh = [...(question ? [question] : []), ...answers];
  return {
    ...before,
    title: conversation.title || before.title,
    messages: fresh.reduce(withMessage, [...before.messages]),
    comparisons: comparison ? [...before.comparisons.filter(({ id }) => id !== comparison.id), comparison] : before.comparisons,
    current_id: answers[0]?.id ?? question?.id ?? before.current_id,
  };
}

function heard(before: Conversation, id: string, event: AnswerEvent): Conversation | null {
  if (event.kind === "gone") return null;
  if (event.kind === "end") {
    const messages = withMessage(before.messages, event.message);
    return { ...before, title: event.conversation.title || before.title, messages };
  }
  const messages = before.messages.map((message) => {
    if (message.id !== id) return message;
    if (event.kind === "reset") return { ...message, content: event.text, last_event: event.number };
    if (event.number !== message.last_event + 1) return message;
    return { ...message, content: message.content + event.text, last_event: event.number };
  });
  return { ...before, messages };
}

function chosen(before: Conversation, comparison: Comparison): Conversation {
  const comparisons = before.comparisons.map((one) => (one.id === comparison.id ? comparison : one));
  const [a, b] = comparison.answers;
  const winner = { a, b, tie: undefined, both_bad: undefined }[comparison.choice ?? "tie"];
  return { ...before, comparisons, current_id: winner ? newestLeaf(before.messages, winner) : before.current_id };
}
