import { describe, expect, test } from "vitest";
import type { Message } from "../src/api/types";
import { branch, newestLeaf, versions, withMessage } from "../src/state/tree";
import { message } from "./samples";

// q1 ─ a1 ─ q2      and q3 is q1 edited, with two answers
//    └ a2           q3 ─ a3, a4
const TREE: Message[] = [
  message("q1", null),
  message("a1", "q1"),
  message("a2", "q1"),
  message("q2", "a1"),
  message("q3", null),
  message("a3", "q3"),
  message("a4", "q3"),
];
const ids = (messages: readonly Message[]) => messages.map(({ id }) => id);

describe("the tree", () => {
  test("a branch goes from the root to the leaf", () => {
    expect(ids(branch(TREE, "q2"))).toEqual(["q1", "a1", "q2"]);
    expect(branch(TREE, null)).toEqual([]);
    expect(branch(TREE, "gone")).toEqual([]);
  });
  test("versions are all with the same parent, also of the first message", () => {
    expect(ids(versions(TREE, TREE[2]!))).toEqual(["a1", "a2"]);
    expect(ids(versions(TREE, TREE[0]!))).toEqual(["q1", "q3"]);
  });
  test("picking a message leads to the newest leaf under it", () => {
    expect(newestLeaf(TREE, "q1")).toBe("a2");
    expect(newestLeaf(TREE, "a1")).toBe("q2");
    expect(newestLeaf(TREE, "q3")).toBe("a4");
    expect(newestLeaf(TREE, "a2")).toBe("a2");
  });
  test("a changed message stays in its place, a new one comes last", () => {
    const changed = { ...TREE[1]!, content: "changed" };
    expect(ids(withMessage(TREE, changed))).toEqual(ids(TREE));
    expect(withMessage(TREE, changed)[1]!.content).toBe("changed");
    expect(ids(withMessage(TREE, message("a5", "q3")))).toEqual([...ids(TREE), "a5"]);
  });
});
