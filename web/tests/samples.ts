import type { Conversation, Message } from "../src/api/types";

/** A finished message; `q...` are questions. */
export function message(id: string, parent_id: string | null, rest: Partial<Message> = {}): Message {
  return {
    id,
    parent_id,
    conversation_id: "c",
    role: id.startsWith("q") ? "user" : "assistant",
    content: "",
    status: "done",
    finish_reason: "stop",
    can_continue: false,
    model: "atlas",
    created_at: 0,
    last_event: 0,
    dropped: 0,
    notice: null,
    feedback: null,
    comparison_id: null,
    ...rest,
  };
}

export function conversation(messages: Message[], current_id: string | null): Conversation {
  return {
    id: "c",
    title: "",
    archived: false,
    created_at: 0,
    updated_at: 0,
    running: false,
    consent: null,
    consent_effective: false,
    settings: { model: null, instructions: null, temperature: null, top_p: null, max_tokens: null },
    current_id,
    messages,
    comparisons: [],
    share: null,
  };
}
