"""A text as hashed n-grams: words and pieces of words where words have spaces, characters where they have none."""

from __future__ import annotations

import re
from itertools import pairwise
from zlib import crc32

import numpy as np

from chatwright.service.moderation.text import normal

FEATURES = 2**18  # as the corpus's quality filter has
WORD_NGRAMS = 2  # of words; of Chinese characters one more
PIECES = (3, 4)  # characters, of words: spelling is often changed on purpose
LONGEST_WORD = 24  # what is longer is no word

_NO_WORDS = re.compile(r"https?://\S+|@\w+|&\w+;|\brt\b")
_TOKEN = re.compile("[\u3400-\u9fff\uf900-\ufaff]|[^\\W\\d_]+(?:'[^\\W\\d_]+)?|\\d+|[!?！？]")


def features(text: str) -> np.ndarray:
    """The columns of a text's n-grams, each once, sorted.

    >>> len(features("hello world"))
    21
    """
    tokens = [token[:LONGEST_WORD] for token in _TOKEN.findall(_NO_WORDS.sub(" ", normal(text)))]
    grams = set(tokens)
    grams.update(f"{a} {b}" for a, b in pairwise(tokens))
    grams.update(f"{a} {b} {c}" for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False) if not b.isascii())
    for token in set(tokens):
        if token.isascii() and token.isalpha():
            marked = f"<{token}>"
            for size in PIECES:
                grams.update(marked[i : i + size] for i in range(len(marked) - size + 1))
    columns = {crc32(gram.encode("utf-8", errors="replace")) % FEATURES for gram in grams}
    return np.array(sorted(columns), dtype=np.int64)
