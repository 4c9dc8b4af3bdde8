// The OpenAI-compatible API of the server that this page comes from.

/** A refusal or a failure: `kind` names the words for it, `message` is what the server said. */
export class Failure extends Error {
  constructor(kind, message = "") {
    super(message);
    this.kind = kind;
  }
}

/** Names of the models. */
export async function modelNames() {
  const response = await reach("/v1/models");
  return (await response.json()).data.map((model) => model.id);
}

/**
 * Stream an answer: yields {text}, {dropped} or {ended: "stop" | "length"} as they come.
 * Throws Failure, or an AbortError once `signal` fires.
 */
export async function* answer({ model, messages, temperature, signal }) {
  const response = await reach("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages, temperature, stream: true }),
    signal,
  });
  yield { dropped: Number(response.headers.get("X-Chatwright-Dropped-Messages") ?? 0) };
  for await (const event of events(response.body)) {
    if (event === "[DONE]") return;
    const chunk = JSON.parse(event);
    if (chunk.error) throw new Failure("failed", chunk.error.message);
    const [choice] = chunk.choices;
    if (choice.delta.content) yield { text: choice.delta.content };
    if (choice.finish_reason) yield { ended: choice.finish_reason };
  }
  throw new Failure("broken");
}

/** A fetch whose every way to fail is a Failure, but for being aborted. */
async function reach(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("offline");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  if (response.status === 429 || response.status === 503) throw new Failure("busy", error?.message);
  throw new Failure(error?.code === "context_length_exceeded" ? "tooLong" : "failed", error?.message);
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Failure("broken");
    });
    if (done) return;
    const parts = (held + decoder.decode(value, { stream: true })).split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice("data: ".length);
  }
}
