// The conversation and the settings, kept in this browser so that they survive a reload.

const KEY = "chatwright.v1";
const EMPTY = { messages: [], dropped: 0, temperature: 0.3, model: null };

/**
 * What was kept, or the beginning.
 * messages: {role: "user" | "assistant", content, ended?: "stop" | "length" | "stopped"}[];
 * dropped: how many of them, from the first on, the model no longer reads.
 */
export function load() {
  try {
    const kept = { ...EMPTY, ...JSON.parse(localStorage.getItem(KEY)) };
    const whole = kept.messages.every((message) => typeof message.content === "string" && "role" in message);
    return whole ? kept : { ...EMPTY };
  } catch {
    return { ...EMPTY };
  }
}

/** Keep the state. A browser that keeps nothing (private mode, storage full) still chats. */
export function save(state) {
  try {
    localStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    console.info("This browser does not keep the conversation.");
  }
}
