import { describe, expect, test } from "vitest";
import type { Summary } from "../src/api/types";
import { renewed } from "../src/state/list";

const item = (id: string, updated_at: number): Summary => ({ id, title: id, archived: false, created_at: 0, updated_at, running: false });
const before = [item("c", 3), item("b", 2), item("a", 1)];

describe("the list when its beginning is read anew", () => {
  test("without more behind it, it is all there is", () => {
    expect(renewed(before, [item("a", 1)], false)).toEqual([item("a", 1)]);
    expect(renewed(before, [], false)).toEqual([]);
  });
  test("what was read behind the first page stays, what is not on it any more goes", () => {
    const first = [item("d", 4), item("b", 2)]; // c was deleted, d is new
    expect(renewed(before, first, true).map(({ id }) => id)).toEqual(["d", "b", "a"]);
  });
  test("what was used again comes to the front, once", () => {
    const first = [item("a", 5), item("c", 3)];
    expect(renewed(before, first, true).map(({ id }) => id)).toEqual(["a", "c", "b"]);
  });
});
