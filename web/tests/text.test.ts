import { describe, expect, test } from "vitest";
import { pause } from "../src/api/events";
import { query } from "../src/api/http";
import { duration, figure, seconds } from "../src/admin/Overview";
import { mathText } from "../src/chat/mathText";
import { safeAddress } from "../src/chat/safeAddress";
import { partsOf } from "../src/router";
import { age } from "../src/ui/dates";

describe("formulas", () => {
  test.each([
    ["\\(x^2\\) and $y$", "$x^2$ and $y$"],
    ["It costs $5 and not $10.", "It costs \\$5 and not \\$10."],
    ["from $5 to $x$", "from \\$5 to $x$"],
    ["already \\$5", "already \\$5"],
    ["\\[a\n+b\\]", "\n$$\na\n+b\n$$\n"],
    ["$$x$$", "\n$$\nx\n$$\n"],
    ["$$\nx\n$$", "$$\nx\n$$"],
  ])("%j becomes %j", (written, read) => expect(mathText(written)).toBe(read));

  test.each(["`\\(x\\) $5`", "```sh\necho $5 \\(x\\)\n```", "~~~\n$1 and $2\n~~~\n", "``a ` $5 $6``", "```py\nunfinished $5"])(
    "code stays as it is: %j",
    (code) => expect(mathText(code)).toBe(code),
  );

  test("text around code is still read", () => {
    expect(mathText("$5 `$6` \\(x\\)")).toBe("\\$5 `$6` $x$");
    expect(mathText("a\n```\n$1\n```\n\\(b\\)")).toBe("a\n```\n$1\n```\n$b$");
  });

  test("hostile text ends soon", () => {
    const began = performance.now();
    for (const piece of ["$", "`", "\\(", "\\[", "```\n", "$a", "$$"]) mathText(piece.repeat(5000));
    expect(performance.now() - began).toBeLessThan(5000);
  });
});

test.each([
  ["https://example.org/a", true],
  ["http://example.org", true],
  ["mailto:a@example.org", true],
  ["#note", true],
  ["javascript:alert(1)", false],
  ["JAVASCRIPT:alert(1)", false],
  [" javascript:alert(1)", false],
  ["java\nscript:alert(1)", false],
  ["data:text/html,x", false],
  ["vbscript:x", false],
  ["//example.org", false],
  ["/api/account/export", false],
  ["blob:https://example.org/1", false],
])("%j may be a link: %s", (address, allowed) => expect(safeAddress(address) !== "").toBe(allowed));

test("a conversation is as old as its day here", () => {
  const now = new Date(2026, 2, 10, 15);
  const at = (day: number, hour: number) => new Date(2026, 2, day, hour).getTime() / 1000;
  expect([at(10, 0), at(9, 23), at(9, 0), at(4, 12), at(3, 23)].map((then) => age(then, now))).toEqual([
    "today",
    "yesterday",
    "yesterday",
    "week",
    "older",
  ]);
});

test("a path has parts, whatever stands in them", () => {
  expect(partsOf("/c/a%2Fb")).toEqual(["c", "a/b"]);
  expect(partsOf("/c/%E0%A4%A")).toEqual(["c", "%E0%A4%A"]);
});

test("tries to connect again come ever more slowly, to a limit", () => {
  expect([0, 1, 2, 3, 4, 10].map(pause)).toEqual([500, 1000, 2000, 4000, 8000, 8000]);
});

test("a query has what has a value", () => {
  expect(query({ search: "a b&c", page: 1, none: null, empty: "", no: false })).toBe("?search=a+b%26c&page=1&no=false");
  expect(query({ none: undefined })).toBe("");
});

test("figures are short", () => {
  expect([null, 3, 12.345, 0.04567, 123456].map(figure)).toEqual(["–", "3", "12.3", "0.0457", "123,456"]);
  expect([null, 0.00709, 2.5].map(seconds)).toEqual(["–", "7.09 ms", "2.50 s"]);
  expect([30, 3700, 93784].map(duration)).toEqual(["0 min", "1 h 1 min", "1 d 2 h"]);
});
