// The numbered events of an answer, followed through lost connections until its end.
import { eventsPath } from "./server";
import type { Message, Summary } from "./types";

export type AnswerEvent =
  | { kind: "text"; number: number; text: string }
  | { kind: "reset"; number: number; text: string } // all that was said up to this number
  | { kind: "end"; message: Message; conversation: Summary }
  | { kind: "gone" }; // the conversation was deleted meanwhile

const LONGEST_WAIT = 8000; // milliseconds between tries to connect again

/** How long to wait before the nth try (from 0) to connect again, in milliseconds. */
export function pause(tries: number): number {
  return Math.min(500 * 2 ** tries, LONGEST_WAIT);
}

interface Listener {
  onEvent(event: AnswerEvent): void;
  /** Whether the connection is lost at present. Told at each try that fails, and when one does not. */
  onLost(lost: boolean): void;
}

/** Follow `message` from the event after its last; returns how to leave off. The answer is made on all the same. */
export function follow(message: Message, { onEvent, onLost }: Listener): () => void {
  let last = message.last_event;
  let tries = 0;
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;

  function connect(): void {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(eventsPath(message.conversation_id, message.id, last));
    source.onopen = () => {
      tries = 0;
      onLost(false);
    };
    for (const kind of ["text", "reset"] as const) {
      source.addEventListener(kind, (event: MessageEvent<string>) => {
        const number = Number(event.lastEventId);
        if (number <= last) return; // told twice after a lost connection
        last = number;
        onEvent({ kind, number, text: (JSON.parse(event.data) as { text: string }).text });
      });
    }
    source.addEventListener("end", (event: MessageEvent<string>) => {
      leave();
      onEvent({ kind: "end", ...(JSON.parse(event.data) as { message: Message; conversation: Summary }) });
    });
    source.addEventListener("gone", () => {
      leave();
      onEvent({ kind: "gone" });
    });
    source.onerror = () => {
      source?.close(); // the browser's own way to connect again gives up on an error of a proxy, and ours waits longer
      onLost(true);
      timer = setTimeout(connect, pause(tries++));
    };
  }

  function leave(): void {
    clearTimeout(timer);
    removeEventListener("online", connect);
    source?.close();
  }

  addEventListener("online", connect);
  connect();
  return leave;
}
