// Formulas in a model's Markdown: the ways models write them, made into the one that the parser reads.

const CODE = /(^ {0,3}(`{3,}|~{3,})[^\n]*\n[\s\S]*?(?:^ {0,3}\2[`~]*[ \t]*$|(?![\s\S]))|(`+)(?!`)[\s\S]*?(?<!`)\3(?!`))/m;
const BLOCK = /\\\[([\s\S]+?)\\\]|^[ \t]*\$\$([^$\n]+)\$\$[ \t]*$/gm;
const INLINE = /\\\((.+?)\\\)/g;
const DOLLAR = /\\\$|\$\$|\$(?=\S)((?:[^$\n\\]|\\[^\n])+?)(?<=\S)\$(?!\d)|\$/g; // Pandoc's rule: "$5 and $10" is no formula

/** `\(x\)`, `\[x\]` and `$$x$$` on a line as `$x$` and a block; a dollar that begins no formula escaped; code as it is. */
export function mathText(markdown: string): string {
  let rest = markdown;
  let made = "";
  while (rest) {
    const code = CODE.exec(rest);
    const until = code ? code.index : rest.length;
    made += outsideCode(rest.slice(0, until)) + (code ? code[0] : "");
    rest = rest.slice(until + (code ? code[0].length : 0));
  }
  return made;
}

function outsideCode(text: string): string {
  return text
    .replace(BLOCK, (_, bracketed?: string, dollars?: string) => `\n$$\n${(bracketed ?? dollars ?? "").trim()}\n$$\n`)
    .replace(INLINE, (_, formula: string) => `$${formula.trim()}$`)
    .replace(DOLLAR, (found) => (found === "$" ? "\\$" : found));
}
