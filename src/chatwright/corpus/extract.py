"""Raw text to clean prose: no markup, no broken encodings, no stray white space."""

from __future__ import annotations

import re
from typing import Literal

import ftfy
from selectolax.lexbor import LexborHTMLParser, LexborNode

Format = Literal["html", "rst", "text"]

# Full-width punctuation and curly quotes are right in Chinese and in print: only what is broken is mended.
_FTFY = ftfy.TextFixerConfig(fix_character_width=False, uncurl_quotes=False)
# fmt: off
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav",
    "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))
# fmt: on
_SILENT = frozenset(("script", "style", "noscript", "template", "iframe", "object", "svg", "math", "head", "title"))
_CELLS = frozenset(("td", "th"))


def clean(raw: str, form: Format) -> str:
    """Clean text of a raw document written as `form`; "" when nothing is left."""
    if form == "html":
        return tidy(html_to_text(raw), entities=True)  # what is left of them was escaped twice
    if form == "rst":
        return tidy(rst_to_text(raw), entities=False)
    return tidy(raw)


def html_to_text(html: str) -> str:
    """The text that a reader of an HTML page sees: a line a block, list items with a dash, no scripts or styles.

    >>> html_to_text("<p>One<br>two</p><ul><li>a<li>b</ul><script>x()</script>")
    'One\\ntwo\\n\\n- a\\n- b'
    """
    body = LexborHTMLParser(html).body
    if body is None:
        return ""
    parts: list[str] = []
    _write_text(body, parts)
    text = "".join(parts)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _write_text(root: LexborNode, parts: list[str]) -> None:
    """Append the text below `root` in document order. A loop, not recursion: pages nest deeper than Python may."""
    stack: list[LexborNode | str] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
        elif node.tag == "-text":
            parts.append(re.sub(r"\s+", " ", node.text_content or ""))
        elif node.tag not in _SILENT:
            opening, closing = _frame(node.tag or "")
            parts.append(opening)
            stack.append(closing)
            stack.extend(reversed(list(node.iter(include_text=True))))


def _frame(tag: str) -> tuple[str, str]:
    """What stands before and after the text of an element."""
    if tag == "li":
        return "\n- ", ""
    if tag in ("p", "ul", "ol", "table", "blockquote", "pre") or re.fullmatch(r"h[1-6]", tag):
        return "\n\n", "\n\n"
    if tag in _CELLS:
        return " ", " "
    return ("\n", "\n") if tag in _BLOCKS and tag != "br" else ("\n", "") if tag == "br" else ("", "")


def rst_to_text(text: str) -> str:
    """Docstrings and help topics without their reStructuredText marks.

    >>> rst_to_text("Title\\n*****\\n\\nUse ``f(x)`` of :class:`Foo`, *not* **g**.")
    'Title\\n\\nUse f(x) of Foo, not g.'
    """
    text = re.sub(r"^[ \t]*([=\-~^\"'*+#`:.])\1{2,}[ \t]*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[ \t]*\.\. [\w-]+::.*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", text)
    text = re.sub(r"``(.+?)``", r"\1", text)
    text = re.sub(r"`([^`\n]+)`_{0,2}", r"\1", text)
    text = re.sub(r"(?<![\w*])(\*{1,2})(?=\S)([^*\n]+?)(?<=\S)\1(?![\w*])", r"\2", text)
    return re.sub(r"::(?=\s*\n|\s*$)", ":", text)


def tidy(text: str, entities: bool | Literal["auto"] = "auto") -> str:
    """Text with its encoding mended (ftfy) and its white space plain; leading blanks of lines stay, as in code.

    entities: whether to resolve HTML entities; "auto" does so where the text has no tag.

    >>> tidy("schÃ¶n   und\\u00a0gut \\r\\n\\n\\n\\n ok")
    'schön und gut\\n\\n ok'
    """
    if not text.isascii() or "&" in text or "\x1b" in text:  # ftfy leaves other text as it is, slowly
        text = ftfy.fix_text(text, _FTFY._replace(unescape_html=entities))
    text = re.sub(r"[\u200b\u2060\ufeff\u00ad]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
    text = re.sub(r"[^\S\n ]", " ", text)
    lines = [re.sub(r"(?<=\S) +", " ", line).rstrip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
