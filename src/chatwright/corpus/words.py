"""Text as the words that deduplication and decontamination compare: lower-case, without punctuation.

Words are delimited by white space (GPT-3 appendix C). Chinese and Japanese write none, so there every character is a
word of its own; that is a choice of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")
_PUNCTUATION = re.compile(r"[^\w\s]+|_+")


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("Don't stop -- 你好!")
    ['dont', 'stop', '你', '好']
    """
    return _TOKEN.findall(_PUNCTUATION.sub("", text).casefold())  # casefold: unlike lower, blind to what is around


def words_with_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text, each with the place in `text` where it begins and ends, punctuation included."""
    for match in _TOKEN.finditer(text):
        word = _PUNCTUATION.sub("", match.group()).casefold()
        if word:
            yield word, match.start(), match.end()
