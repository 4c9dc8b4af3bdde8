"""Batches: windows of a token shard, and conversations packed into rows. A step's batch follows from (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from chatwright.training.order import Shuffled, Woven

PADDING = -1  # document number of the slots that hold no token


@dataclass(frozen=True)
class Batch:
    """B rows of T slots. Each slot has a token, the token it should predict, and whether that prediction counts.

    documents_BT: which document each slot belongs to, `PADDING` for none; None where a row is one piece of text.
    places_N: where in the flattened rows the counted targets are, when that is known (see `located`).
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    documents_BT: Tensor | None = None
    places_N: Tensor | None = None

    def rows(self, chosen: slice | Tensor) -> Batch:
        """Some of the rows."""
        documents_BT = None if self.documents_BT is None else self.documents_BT[chosen]
        return Batch(self.tokens_BT[chosen], self.targets_BT[chosen], self.mask_BT[chosen], documents_BT)

    def located(self) -> Batch:
        """The batch with the places of its counted targets: a GPU that had to find them would be waited for."""
        return replace(self, places_N=self.mask_BT.flatten().nonzero().squeeze(1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        documents_BT = None if self.documents_BT is None else change(self.documents_BT)
        places_N = None if self.places_N is None else change(self.places_N)
        return Batch(change(self.tokens_BT), change(self.targets_BT), change(self.mask_BT), documents_BT, places_N)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; a pinned one travels while the device works."""
        return self._each(lambda x_BT: x_BT.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in memory that a GPU can read while this process does something else."""
        return self._each(Tensor.pin_memory)

    def filled(self, count: int) -> Batch:
        """The batch with as many rows as wanted; those that it lacks repeat its first and count for nothing."""
        lacking = count - len(self.tokens_BT)
        if lacking == 0:
            return self
        rows = self.rows(torch.tensor([*range(len(self.tokens_BT)), *[0] * lacking]))
        mask_BT = rows.mask_BT.clone()
        mask_BT[len(self.tokens_BT) :] = False
        return Batch(rows.tokens_BT, rows.targets_BT, mask_BT, rows.documents_BT)


class Rows(Protocol):
    """Rows in an endless order, any of which can be had by its place."""

    def batch(self, first: int, count: int) -> Batch:
        """Rows ``first`` .. ``first + count - 1`` of the order."""

    def counted(self, first: int, count: int) -> int:
        """How many of their targets count."""

    def documents(self, first: int, count: int) -> list[str]:
        """The names of what those rows hold."""


class Windows:
    """Windows of a row of tokens, without overlap, in shuffled order: an epoch shows every token once (GPT-3, 2.2).

    Documents run through the windows with end-of-text between them and no mask across. The few tokens that do not fill
    a window are left out at the two ends; how many at which end is drawn anew each epoch, and so where windows are cut.
    """

    def __init__(
        self, tokens: np.ndarray, length: int, seed: int, name: Callable[[int, int], list[str]] = lambda start, end: []
    ) -> None:
        """``name``: the documents that the tokens between two places belong to."""
        assert len(tokens) > length, "a shard must hold more than one window"
        self.tokens = tokens
        self.length = length
        self.seed = seed
        self.order = Shuffled((len(tokens) - 1) // length, seed)
        self._name = name

    def batch(self, first: int, count: int) -> Batch:
        """Windows ``first`` .. ``first + count - 1`` of the order; step s of batch B begins at ``s * B``."""
        rows = [self.tokens[start : start + self.length + 1].astype(np.int64) for start in self._starts(first, count)]
        rows_BT = torch.from_numpy(np.stack(rows))
        tokens_BT, targets_BT = rows_BT[:, :-1], rows_BT[:, 1:]
        return Batch(tokens_BT, targets_BT, torch.ones_like(targets_BT, dtype=torch.bool))

    def counted(self, first: int, count: int) -> int:
        """Every target counts."""
        return count * self.length

    def documents(self, first: int, count: int) -> list[str]:
        """The documents that the windows are of."""
        found = [name for start in self._starts(first, count) for name in self._name(start, start + self.length)]
        return list(dict.fromkeys(found))

    def _starts(self, first: int, count: int) -> list[int]:
        return [self._offset(epoch) + number * self.length for epoch, number in self.order.take(first, count)]

    def _offset(self, epoch: int) -> int:
        spare = (len(self.tokens) - 1) % self.length
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(spare + 1))


class Mixed:
    """Rows of several sources, each as often as its weight says (see `Woven`)."""

    def __init__(self, sources: Sequence[Rows], weights: Sequence[float], seed: int) -> None:
        self.sources = sources
        self.order = Woven(weights, seed)

    def batch(self, first: int, count: int) -> Batch:
        """Rows ``first`` .. ``first + count - 1`` of the order."""
        rows = [self.sources[source].batch(place, 1) for source, place in self.order.take(first, count)]
        return Batch(
            *(torch.cat(parts) for parts in zip(*((r.tokens_BT, r.targets_BT, r.mask_BT) for r in rows), strict=True))
        )

    def counted(self, first: int, count: int) -> int:
        """How many targets of those rows count."""
        return sum(self.sources[source].counted(place, 1) for source, place in self.order.take(first, count))

    def documents(self, first: int, count: int) -> list[str]:
        """The documents that the rows are of."""
        places = self.order.take(first, count)
        return list(
            dict.fromkeys(name for source, place in places for name in self.sources[source].documents(place, 1))
        )


@dataclass(frozen=True)
class Example:
    """A conversation as ids, and which of them are to be learned. name: its id."""

    ids: list[int]
    mask: list[bool]
    name: str = ""


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
        self._counts = [sum(sum(examples[item].mask[1:]) for item in row) for row in self.contents]

    def __len__(self) -> int:
        """Number of rows of an epoch."""
        return len(self.contents)

    def batch(self, first: int, count: int) -> Batch:
        """Rows ``first`` .. ``first + count - 1`` of the order."""
        return self.rows(self._numbers(first, count))

    def counted(self, first: int, count: int) -> int:
        """How many targets of those rows are to be learned."""
        return sum(self._counts[number] for number in self._numbers(first, count))

    def documents(self, first: int, count: int) -> list[str]:
        """The conversations in those rows."""
        return [self.examples[item].name for number in self._numbers(first, count) for item in self.contents[number]]

    def _numbers(self, first: int, count: int) -> list[int]:
        return [number for _, number in self.order.take(first, count)]

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


class Ahead:
    """Rows, with the next batch made while the model works on this one."""

    def __init__(self, rows: Rows, *, pin: bool) -> None:
        self.rows = rows
        self.pin = pin
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[tuple[int, int, int], Future[Batch]] | None = None

    def batch(self, first: int, count: int, size: int, then: tuple[int, int, int]) -> Batch:
        """``count`` rows from ``first`` on, filled up to ``size``. ``then``: what will be asked for next."""
        asked = (first, count, size)
        made, self._next = self._next, None
        batch = made[1].result() if made is not None and made[0] == asked else self._make(*asked)
        self._next = then, self._worker.submit(self._make, *then)
        return batch

    def _make(self, first: int, count: int, size: int) -> Batch:
        batch = self.rows.batch(first, max(1, count))
        if count == 0:  # a share beyond the last row: one row that counts for nothing
            batch = Batch(batch.tokens_BT, batch.targets_BT, torch.zeros_like(batch.mask_BT), batch.documents_BT)
        batch = batch.filled(size).located()
        return batch.pinned() if self.pin else batch
