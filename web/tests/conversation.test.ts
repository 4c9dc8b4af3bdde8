import { describe, expect, test } from "vitest";
import type { Comparison } from "../src/api/types";
import { after, type Happening } from "../src/state/conversation";
import { conversation, message } from "./samples";

const SUMMARY = { id: "c", title: "Sums", archived: false, created_at: 0, updated_at: 1, running: true };
const running = message("a1", "q1", { status: "running", content: "One", last_event: 1 });
const begun = () => conversation([message("q1", null), running], "a1");
const told = (number: number, text: string): Happening => ({ type: "heard", id: "a1", event: { kind: "text", number, text } });

describe("what happens in a conversation", () => {
  test("nothing happens to a conversation that is not open", () => {
    expect(after(null, told(1, "x"))).toBeNull();
  });
  test("events add their text once, in order, whatever is told again", () => {
    const heard = [told(1, "One"), told(2, " two"), told(2, " two"), told(3, " three")].reduce(after, begun());
    expect(heard?.messages[1]).toMatchObject({ content: "One two three", last_event: 3 });
  });
  test("a reset is all that was said up to its number, and what follows is added to it", () => {
    const reset: Happening = { type: "heard", id: "a1", event: { kind: "reset", number: 7, text: "One two" } };
    const heard = [reset, told(8, " three"), told(8, " three")].reduce(after, begun());
    expect(heard?.messages[1]).toMatchObject({ content: "One two three", last_event: 8 });
  });
  test("of a conversation that is gone nothing is left", () => {
    expect(after(begun(), { type: "heard", id: "a1", event: { kind: "gone" } })).toBeNull();
  });
  test("the end is the whole truth: of text, of status, and of a refused answer", () => {
    const end = message("a1", "q1", { status: "blocked", content: "", last_event: 4 });
    const ended = after(begun(), { type: "heard", id: "a1", event: { kind: "end", message: end, conversation: SUMMARY } });
    expect(ended?.messages[1]).toEqual(end);
    expect(ended?.title).toBe("Sums");
  });
  test("a turn adds question and answer, and shows that branch", () => {
    const turn = {
      question: message("q2", "a1"),
      answers: [message("a2", "q2", { status: "running" })],
      comparison: null,
      continued: false,
      conversation: SUMMARY,
    };
    const twice = after(after(begun(), { type: "turned", turn }), { type: "turned", turn }); // sent again, told again
    expect(twice?.messages.map(({ id }) => id)).toEqual(["q1", "a1", "q2", "a2"]);
    expect(twice?.current_id).toBe("a2");
  });
  test("a continued answer goes on in its place", () => {
    const turn = { question: null, answers: [{ ...running }], comparison: null, continued: true, conversation: SUMMARY };
    const gone = after(begun(), { type: "turned", turn });
    expect(gone?.messages).toHaveLength(2);
    expect(gone?.current_id).toBe("a1");
  });
  test("what was done elsewhere is taken over when it is read anew, and what happened here meanwhile stays", () => {
    const here = conversation([message("q1", null), { ...running, last_event: 3 }, message("q2", "a1")], "q2");
    const done = message("a1", "q1", { content: "One two", last_event: 4 });
    const there = { ...conversation([message("q1", null), done, message("q3", "a1")], "q3"), title: "Sums" };
    const renewed = (fresh: typeof there, current: string | null) => after(here, { type: "renewed", conversation: fresh, current });
    expect(renewed(there, "a1")?.messages.map(({ id }) => id)).toEqual(["q1", "a1", "q3", "q2"]);
    expect(renewed(there, "a1")).toMatchObject({ title: "Sums", current_id: "q2" });
    expect(renewed(there, "a1")?.messages[1]).toEqual(done);
    const late = { ...there, messages: [...there.messages.map((one) => (one === done ? running : one)), message("q2", "a1")] };
    expect(renewed(late, "q2")?.messages[1]?.last_event).toBe(3); // events have brought more since
    expect(renewed(late, "q2")?.current_id).toBe("q3");
    expect(renewed(late, "a1")?.current_id).toBe("q2"); // another branch was picked here
    expect(renewed({ ...late, id: "other" }, "q2")).toBe(here);
  });
  test("the better of two answers becomes the branch shown; a tie changes nothing", () => {
    const comparison: Comparison = { id: "x", parent_id: "q1", answers: ["a1", "a2"], choice: null, text: "", created_at: 0 };
    const before = { ...conversation([message("q1", null), running, message("a2", "q1")], "a1"), comparisons: [comparison] };
    const chosen = (choice: Comparison["choice"]) => after(before, { type: "chosen", comparison: { ...comparison, choice } });
    expect(chosen("b")?.current_id).toBe("a2");
    expect(chosen("tie")?.current_id).toBe("a1");
    expect(chosen("both_bad")?.comparisons[0]?.choice).toBe("both_bad");
  });
});
