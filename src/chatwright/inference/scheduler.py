"""What to compute next: which requests are in the batch, how many tokens of each, and who waits. No tensors here.

First come, first served. A step has a budget of tokens: each running answer has its next one, what is left goes to
prompts in the order of their arrival, so that a long prompt delays nobody by more than a step. When blocks run out, the
request that came last gives its own back and waits, at the front, to be computed again; the first one never does.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from chatwright.inference.blocks import BLOCK, BlockPool, Digest, next_digest


class QueueFull(Exception):
    """As many requests wait as may wait."""


@dataclass(eq=False)
class Sequence:
    """A text in the cache, or on its way there.

    tokens: all known so far, the answer's included. computed: of how many the cache has keys and values. prompt: how
    many were given. limit: the most tokens that ``tokens`` can come to. reusable: how many of the first may be taken
    from the cache in place of being computed. draft: guesses at the tokens that follow. cached: how many were found.
    named: how many of its blocks, all full, others can find.
    """

    tokens: list[int]
    limit: int
    reusable: int
    prompt: int = 0
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    named: int = 0
    draft: list[int] = field(default_factory=list)
    number: int = -1  # order of arrival
    _digests: list[Digest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    def digest(self, block: int) -> Digest:
        """The hash of the first ``block`` + 1 blocks of tokens."""
        while len(self._digests) <= block:
            first = len(self._digests) * BLOCK
            before = self._digests[-1] if self._digests else b""
            self._digests.append(next_digest(before, self.tokens[first : first + BLOCK]))
        return self._digests[block]


@dataclass(frozen=True)
class Work:
    """Tokens ``start`` to ``start + count`` of a sequence, to be computed in this step; the last may be drafts."""

    sequence: Sequence
    start: int
    count: int


class Scheduler:
    """Waiting and running sequences over a pool of blocks.

    rows: the most sequences in a batch. budget: the most tokens of a step. waiting: the most that may wait, or None.
    """

    def __init__(self, pool: BlockPool, rows: int, budget: int, waiting: int | None = None) -> None:
        assert budget >= rows >= 1
        self.pool, self.rows, self.budget, self.most_waiting = pool, rows, budget, waiting
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of arrival
        self.preempted = 0
        self._numbers = itertools.count()
        self._coming: dict[Digest, Sequence] = {}  # blocks that a running prompt is about to fill

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. QueueFull when too many wait; ValueError when it could never fit."""
        if self.most_waiting is not None and len(self.waiting) >= self.most_waiting:
            raise QueueFull
        if self._blocks_for(sequence.limit) > self.pool.total:
            raise ValueError(
                f"{sequence.limit} tokens do not fit into a cache of {self.pool.total * BLOCK}; shorten the prompt or "
                "the answer, or give the cache more memory"
            )
        sequence.number = next(self._numbers)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        else:
            self.waiting.remove(sequence)

    def step(self) -> list[Work]:
        """What to compute now; every part has its blocks. Empty only when nothing runs or waits."""
        work: list[Work] = []
        left = self.budget
        spare = self.budget - max(len(self.running), 1)  # for drafts; everyone who runs gets a token first
        index = 0
        while index < len(self.running):  # answers, one token each and what is guessed
            sequence = self.running[index]
            if sequence.computed + 1 == len(sequence.tokens):
                count = 1 + min(len(sequence.draft), spare, max(0, sequence.limit - len(sequence.tokens) - 1))
                if not self._reserve(sequence, sequence.computed + count, preempt=True):
                    continue  # it was itself put back
                work.append(Work(sequence, sequence.computed, count))
                left -= count
                spare -= count - 1
            index += 1
        for sequence in list(self.running):  # prompts under way
            missing = len(sequence.tokens) - sequence.computed
            if missing > 1 and left > 0 and sequence in self.running:
                left -= self._prefill(sequence, min(missing, left), work)
        work = [part for part in work if part.sequence in self.running]
        self._admit(left, work)
        return work

    def done(self, work: Iterable[Work]) -> None:
        """Note that these parts are computed; full blocks can be found from now on. Drafts are not noted."""
        for part in work:
            sequence = part.sequence
            sequence.computed = min(part.start + part.count, len(sequence.tokens))
            while sequence.named < sequence.computed // BLOCK:
                digest = sequence.digest(sequence.named)
                self._coming.pop(digest, None)
                self.pool.name(sequence.blocks[sequence.named], digest)
                sequence.named += 1

    def _prefill(self, sequence: Sequence, count: int, work: list[Work]) -> int:
        """Compute up to ``count`` more tokens of a prompt, as far as there are blocks; returns how many."""
        if not self._reserve(sequence, sequence.computed + count, preempt=sequence is self.running[0]):
            room = len(sequence.blocks) * BLOCK - sequence.computed + self.pool.free * BLOCK
            count = min(count, room)
            if count <= 0:
                return 0
            self._reserve(sequence, sequence.computed + count, preempt=False)
        work.append(Work(sequence, sequence.computed, count))
        return count

    def _admit(self, left: int, work: list[Work]) -> None:
        """Let waiting sequences in, in order, as far as rows, tokens and blocks go."""
        passed: list[Sequence] = []
        while self.waiting and left > 0 and len(self.running) < self.rows:
            sequence = self.waiting[0]
            found = self._find(sequence)
            if self._is_coming(sequence, len(found)):  # another computes what this one could share
                passed.append(self.waiting.popleft())
                continue
            missing = self._blocks_for(len(sequence.tokens)) - len(found)
            # Room for the whole prompt, so that admitting it puts nobody else back soon.
            taken = sum(1 for block in found if self.pool.is_free(block))
            if self.running and missing + taken > self.pool.free:
                break
            self.waiting.popleft()
            self.pool.share(found)
            sequence.blocks, sequence.named = found, len(found)
            sequence.computed = sequence.cached = len(found) * BLOCK
            _insert(self.running, sequence)
            for block in range(len(found), len(sequence.tokens) // BLOCK):
                self._coming.setdefault(sequence.digest(block), sequence)
            left -= self._prefill(sequence, min(len(sequence.tokens) - sequence.computed, left), work)
        self.waiting.extendleft(reversed(passed))

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks that hold the beginning of a sequence, of as much as may be reused."""
        blocks = min(sequence.reusable, len(sequence.tokens) - 1) // BLOCK
        return self.pool.find([sequence.digest(block) for block in range(blocks)])

    def _is_coming(self, sequence: Sequence, found: int) -> bool:
        """Whether the first block that is not found is being computed by another."""
        if (found + 1) * BLOCK > min(sequence.reusable, len(sequence.tokens) - 1):
            return False
        return self._coming.get(sequence.digest(found)) is not None

    def _reserve(self, sequence: Sequence, tokens: int, *, preempt: bool) -> bool:
        """Give a sequence blocks for so many tokens, taking them from later ones where it must. All or nothing."""
        missing = self._blocks_for(tokens) - len(sequence.blocks)
        while missing > self.pool.free:
            if not preempt:
                return False
            last = self.running[-1]
            self._put_back(last)
            if last is sequence:
                return False
        sequence.blocks += [self.pool.take() for _ in range(missing)]
        return True

    def _put_back(self, sequence: Sequence) -> None:
        """Let a running sequence wait again, before all that came later."""
        self.running.remove(sequence)
        self._give_back(sequence)
        self.preempted += 1
        _insert(self.waiting, sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.named = 0
        sequence.draft = []
        for digest in [digest for digest, owner in self._coming.items() if owner is sequence]:
            del self._coming[digest]

    @staticmethod
    def _blocks_for(tokens: int) -> int:
        return -(-tokens // BLOCK)


def _insert(line: list[Sequence] | deque[Sequence], sequence: Sequence) -> None:
    """Put a sequence where its arrival places it."""
    place = next((i for i, other in enumerate(line) if other.number > sequence.number), len(line))
    line.insert(place, sequence)
