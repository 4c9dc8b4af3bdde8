// A model's text as elements: paragraphs, lists, code, bold. Only text nodes are made of it, so nothing in it can act.

const FENCE = /^```\s*\S*\s*$/;
const BULLET = /^\s*[-*•]\s+/;
const NUMBER = /^\s*\d+[.)]\s+/;
const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*)/;

/** An element named `tag` around `children` (elements or text). */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** The elements for `text`; a code block that is not closed yet reaches to the end. */
export function elements(text) {
  const made = [];
  const lines = text.trim().split("\n");
  while (lines.length) {
    if (FENCE.test(lines[0])) {
      lines.shift();
      const code = takeWhile(lines, (line) => !FENCE.test(line));
      lines.shift();
      made.push(make("pre", {}, make("code", {}, code.join("\n"))));
    } else if (BULLET.test(lines[0])) {
      made.push(make("ul", {}, ...items(lines, BULLET)));
    } else if (NUMBER.test(lines[0])) {
      const start = parseInt(lines[0], 10);
      made.push(make("ol", { start }, ...items(lines, NUMBER)));
    } else {
      const paragraph = takeWhile(lines, (line) => line.trim() && ![FENCE, BULLET, NUMBER].some((mark) => mark.test(line)));
      if (paragraph.length) made.push(make("p", { dir: "auto" }, ...inline(paragraph.join("\n"))));
      else lines.shift();
    }
  }
  return made;
}

function items(lines, mark) {
  return takeWhile(lines, (line) => mark.test(line)).map((line) => make("li", { dir: "auto" }, ...inline(line.replace(mark, ""))));
}

function takeWhile(lines, wanted) {
  const end = lines.findIndex((line) => !wanted(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function inline(text) {
  return text.split(INLINE).map((part) => {
    if (/^`.+`$/.test(part)) return make("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return make("strong", {}, part.slice(2, -2));
    return part;
  });
}
