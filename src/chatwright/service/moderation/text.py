"""Text as rules and classifier read it: one form for all ways to write the same, and its language."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_SPACE = re.compile(r"\s+")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")


def normal(text: str) -> str:
    """Lower case, compatibility forms and invisible characters undone, spaces single.

    >>> normal("Ｋｉｌｌ \\u200b Time")
    'kill time'
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return _SPACE.sub(" ", _INVISIBLE.sub("", plain)).strip()


def is_chinese(text: str) -> bool:
    """Whether a person who writes this reads Chinese: a quarter of its letters is Chinese."""
    return 4 * len(_HAN.findall(text)) > len(_LETTER.findall(text))
