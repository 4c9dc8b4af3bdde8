"""Exact and near duplicates: which documents say the same, and which one of them stays.

Exact: equal words. Near: MinHash over word 5-grams, banded into an LSH table; every candidate pair is then checked by
its exact Jaccard similarity, so that the table can only miss a pair, never invent one. Pairs are joined into clusters,
and a cluster keeps its document of lowest rank; the result depends on the documents alone, never on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from rensa import RMinHash

from chatwright.corpus.words import words

SHINGLE_WORDS = 5
# 20 bands of 5 rows: a pair becomes a candidate with P = 1 - (1 - s^5)^20 = .47/.97/.9996 at similarity s = .5/.7/.8.
# Ours: GPT-3 used 10 hashes and does not print its bands or its threshold.
BANDS = 20
ROWS = 5

Shingles = frozenset[str]


def exact_key(text: str) -> bytes:
    """Equal for texts of equal words. A text without words stands for itself."""
    normal = " ".join(words(text)) or text
    return hashlib.sha256(normal.encode()).digest()


def shingles(text: str) -> Shingles:
    """The word 5-grams of a text; of a shorter one, the text itself."""
    tokens = words(text)
    if len(tokens) < SHINGLE_WORDS:
        return frozenset([" ".join(tokens) or text])
    return frozenset(map(" ".join, zip(*(tokens[i:] for i in range(SHINGLE_WORDS)), strict=False)))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared shingles over all shingles.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class _Clusters:
    """Union-find: which ids belong together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The id that stands for the cluster of `name`."""
        parent = self._parent
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        """Make the clusters of `a` and `b` one."""
        self._parent[self.root(a)] = self.root(b)

    def groups(self) -> list[list[str]]:
        """The clusters of more than one id, ids and clusters in order."""
        members: dict[str, list[str]] = {}
        for name in sorted(self._parent):
            members.setdefault(self.root(name), []).append(name)
        return [group for group in members.values() if len(group) > 1]


def exact_clusters(texts: Mapping[str, str]) -> list[list[str]]:
    """Ids of equal texts, in groups of two or more."""
    groups: dict[bytes, list[str]] = {}
    for name in sorted(texts):
        groups.setdefault(exact_key(texts[name]), []).append(name)
    return [members for members in groups.values() if len(members) > 1]


def near_clusters(texts: Mapping[str, str], threshold: float) -> list[list[str]]:
    """Ids joined by a chain of pairs of Jaccard similarity `threshold` or more, in groups of two or more.

    Shingles are made again when a pair is checked: few are, and all of them at once would not fit in memory.
    """
    shingles_of = lru_cache(maxsize=4096)(lambda name: shingles(texts[name]))
    found = _Clusters()
    for members in _buckets(texts):
        for a, b in combinations(members, 2):
            if found.root(a) != found.root(b) and jaccard(shingles_of(a), shingles_of(b)) >= threshold:
                found.join(a, b)
    return found.groups()


def _buckets(texts: Mapping[str, str]) -> Iterator[list[str]]:
    """Groups of ids that share a band of their MinHash signatures."""
    tables: list[dict[bytes, list[str]]] = [{} for _ in range(BANDS)]
    for name in sorted(texts):
        minhash = RMinHash(num_perm=BANDS * ROWS, seed=1)
        minhash.update(sorted(shingles(texts[name])))
        signature = np.array(minhash.digest(), np.uint64).reshape(BANDS, ROWS)
        for table, band in zip(tables, signature, strict=True):
            table.setdefault(band.tobytes(), []).append(name)
    for table in tables:
        yield from (members for members in table.values() if len(members) > 1)


def representatives(groups: Iterable[Sequence[str]], rank: Mapping[str, tuple]) -> dict[str, str]:
    """{duplicate: the document kept in its place}: of every group the member of lowest rank stays."""
    kept_instead = {}
    for members in groups:
        best = min(members, key=lambda name: rank[name])
        kept_instead.update({name: best for name in members if name != best})
    return kept_instead
