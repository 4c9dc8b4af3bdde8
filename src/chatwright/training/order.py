"""In which order a run sees its rows: any place of the order is computed by itself, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ROUNDS = 8  # of the Feistel network; four suffice with good round functions (Luby and Rackoff 1988)
CYCLE = 1 << 16  # rows after which every source has had its weight's share, to half a row


class Shuffled:
    """The numbers 0..n-1 in an endless order: all of them, newly shuffled, once an epoch.

    Any place of the order is computed by itself: a Feistel network is a bijection of 0..4^k-1, and what it maps beyond
    n goes through it again until it is below (cycle walking; Black and Rogaway 2002). So nothing is kept, however large
    n is, and a place is all that a checkpoint needs.
    """

    def __init__(self, n: int, seed: int) -> None:
        assert n > 0
        self.n = n
        self.seed = seed
        self._half = np.uint64(max(1, math.ceil((n - 1).bit_length() / 2)))  # bits of each half

    def take(self, first: int, count: int) -> list[tuple[int, int]]:
        """(epoch, number) of places ``first`` .. ``first + count - 1`` of the order."""
        found: list[tuple[int, int]] = []
        while len(found) < count:
            epoch, place = divmod(first + len(found), self.n)
            places = np.arange(place, min(self.n, place + count - len(found)), dtype=np.uint64)
            found += [(epoch, number) for number in self._shuffled(epoch, places).tolist()]
        return found

    def _shuffled(self, epoch: int, places: np.ndarray) -> np.ndarray:
        keys = np.random.default_rng([self.seed, epoch]).integers(2**64, size=ROUNDS, dtype=np.uint64)
        numbers = self._feistel(places, keys)
        while (beyond := numbers >= self.n).any():
            numbers[beyond] = self._feistel(numbers[beyond], keys)
        return numbers

    def _feistel(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << self._half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of x changes half of the bits that come out."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Woven:
    """Rows of several sources in one endless order, each as often as its weight says: to half a row in `CYCLE` of them.

    Where in a cycle a source's rows stand is drawn from the seed. A source's rows come one after another in that
    source's own order, so each of its epochs shows all of it once.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        assert weights
        assert all(weight > 0 for weight in weights)
        shares = np.asarray(weights, dtype=np.float64) / sum(weights) * CYCLE
        self.counts = np.floor(shares).astype(np.int64)
        rest = CYCLE - int(self.counts.sum())
        self.counts[np.argsort(self.counts - shares, kind="stable")[:rest]] += 1  # largest remainders
        self._sources = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(shares)), self.counts))
        self._places = np.empty(CYCLE, dtype=np.int64)  # of each slot among those of its source
        for source, count in enumerate(self.counts):
            self._places[self._sources == source] = np.arange(count)

    def take(self, first: int, count: int) -> list[tuple[int, int]]:
        """(source, place in that source's order) of places ``first`` .. ``first + count - 1``."""
        cycles, slots = np.divmod(np.arange(first, first + count), CYCLE)
        sources = self._sources[slots]
        places = cycles * self.counts[sources] + self._places[slots]
        return list(zip(sources.tolist(), places.tolist(), strict=True))
