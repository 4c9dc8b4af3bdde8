"""Batches: windows of a token shard, and conversations packed into rows. A step's batch follows from (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = -1  # document number of the slots that hold no token
ROUNDS = 8  # of the Feistel network; four suffice with good round functions (Luby and Rackoff 1988)


@dataclass(frozen=True)
class Batch:
    """B rows of T slots. Each slot has a token, the token it should predict, and whether that prediction counts.

    documents_BT: which document each slot belongs to, `PADDING` for none; None where a row is one piece of text.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    documents_BT: Tensor | None = None

    def rows(self, chosen: slice | Tensor) -> Batch:
        """Some of the rows."""
        documents_BT = None if self.documents_BT is None else self.documents_BT[chosen]
        return Batch(self.tokens_BT[chosen], self.targets_BT[chosen], self.mask_BT[chosen], documents_BT)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        documents_BT = None if self.documents_BT is None else self.documents_BT.to(device)
        return Batch(self.tokens_BT.to(device), self.targets_BT.to(device), self.mask_BT.to(device), documents_BT)


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


class Windows:
    """Windows of a row of tokens, without overlap, in shuffled order: an epoch shows every token once (GPT-3, 2.2).

    Documents run through the windows with end-of-text between them and no mask across. The few tokens that do not fill
    a window are left out at the two ends; how many at which end is drawn anew each epoch, and so where windows are cut.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        assert len(tokens) > length, "a shard must hold more than one window"
        self.tokens = tokens
        self.length = length
        self.seed = seed
        self.order = Shuffled((len(tokens) - 1) // length, seed)

    def batch(self, first: int, count: int) -> Batch:
        """Windows ``first`` .. ``first + count - 1`` of the order; step s of batch B begins at ``s * B``."""
        rows = []
        for epoch, number in self.order.take(first, count):
            start = self._offset(epoch) + number * self.length
            rows.append(self.tokens[start : start + self.length + 1].astype(np.int64))
        rows_BT = torch.from_numpy(np.stack(rows))
        tokens_BT, targets_BT = rows_BT[:, :-1], rows_BT[:, 1:]
        return Batch(tokens_BT, targets_BT, torch.ones_like(targets_BT, dtype=torch.bool))

    def _offset(self, epoch: int) -> int:
        spare = (len(self.tokens) - 1) % self.length
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(spare + 1))


@dataclass(frozen=True)
class Example:
    """A conversation as ids, and which of them are to be learned."""

    ids: list[int]
    mask: list[bool]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few rows of ``capacity`` as first-fit, longest first, needs; each item whole, in one row.

    >>> pack([3, 5, 2, 4], capacity=7)
    [[1, 2], [3, 0]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[item] <= capacity, "an item is longer than a row"
        row = next((r for r, left in enumerate(room) if left >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


class Packed:
    """Conversations packed into rows of ``length`` slots, the rows in shuffled order: an epoch shows each one once.

    A conversation of n ids takes n - 1 slots, one for each prediction within it. With `masks.document_mask` and
    restarted positions its logits are those it has alone.
    """

    def __init__(self, examples: Sequence[Example], length: int, pad: int, seed: int) -> None:
        self.examples = examples
        self.length = length
        self.pad = pad
        self.contents = pack([len(example.ids) - 1 for example in examples], length)
        self.order = Shuffled(len(self.contents), seed)

    def __len__(self) -> int:
        """Number of rows of an epoch."""
        return len(self.contents)

    def batch(self, first: int, count: int) -> Batch:
        """Rows ``first`` .. ``first + count - 1`` of the order."""
        return self.rows([number for _, number in self.order.take(first, count)])

    def rows(self, numbers: Sequence[int]) -> Batch:
        """The given rows."""
        shape = (len(numbers), self.length)
        tokens, targets = np.full(shape, self.pad), np.full(shape, self.pad)
        mask, documents = np.zeros(shape, dtype=bool), np.full(shape, PADDING)
        for row, number in enumerate(numbers):
            start = 0
            for document, item in enumerate(self.contents[number]):
                example = self.examples[item]
                slots = slice(start, start + len(example.ids) - 1)
                tokens[row, slots], targets[row, slots] = example.ids[:-1], example.ids[1:]
                mask[row, slots], documents[row, slots] = example.mask[1:], document
                start = slots.stop
        arrays = (tokens, targets, mask, documents)
        return Batch(*(torch.from_numpy(array) for array in arrays))
