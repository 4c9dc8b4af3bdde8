// Colours for code, as elements with classes. Loaded when the first code block is shown.
import { common, createLowlight } from "lowlight";
import { createElement, type ReactNode } from "react";

const lowlight = createLowlight(common);
const LONGEST = 50_000; // characters; more is shown without colours, which would take seconds

type Node = ReturnType<typeof lowlight.highlight>["children"][number];

/** The code in colours; null when the language is not known or the code is very long. */
export function highlighted(language: string, code: string): ReactNode[] | null {
  if (!lowlight.registered(language) || code.length > LONGEST) return null;
  return lowlight.highlight(language, code).children.map(element);
}

function element(node: Node, key: number): ReactNode {
  if (node.type === "text") return node.value;
  if (node.type !== "element") return null;
  return createElement("span", { key, className: (node.properties.className as string[]).join(" ") }, node.children.map(element));
}
