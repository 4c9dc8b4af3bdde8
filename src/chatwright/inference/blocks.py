"""Blocks of the key-value cache: who holds them, and which hold the beginning of what will be asked again.

A block is room for `BLOCK` tokens' keys and values. Full blocks are found again by a hash of all tokens up to their
end, so that texts with one beginning share it; one that nobody holds stays findable until its room is needed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 32  # tokens

Digest = bytes


def digests(tokens: Sequence[int]) -> list[Digest]:
    """For each full block of ``tokens``, a hash of everything up to its end."""
    found: list[Digest] = []
    before = b""
    for first in range(0, len(tokens) - BLOCK + 1, BLOCK):
        before = next_digest(before, tokens[first : first + BLOCK])
        found.append(before)
    return found


def next_digest(before: Digest, tokens: Sequence[int]) -> Digest:
    """The hash of a full block after the hash of the one before it; nothing comes before the first."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Blocks 0, 1, ..., each free, or held by one or more texts.

    >>> pool = BlockPool(2)
    >>> a = pool.take()
    >>> pool.name(a, b"hash of its tokens")
    >>> pool.release([a])
    >>> pool.find([b"hash of its tokens"])
    [0]
    """

    def __init__(self, blocks: int) -> None:
        self._held = [0] * blocks  # by how many
        self._names: list[Digest | None] = [None] * blocks
        self._by_name: dict[Digest, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))  # the first is the next to be taken

    @property
    def total(self) -> int:
        """How many blocks there are."""
        return len(self._held)

    @property
    def free(self) -> int:
        """How many blocks nobody holds."""
        return len(self._free)

    def is_free(self, block: int) -> bool:
        """Whether nobody holds a block."""
        return self._held[block] == 0

    def take(self) -> int:
        """A block whose content is forgotten. IndexError when none is free."""
        if not self._free:
            raise IndexError("no block is free")
        block, _ = self._free.popitem(last=False)
        if (name := self._names[block]) is not None:
            del self._by_name[name]
            self._names[block] = None
        self._held[block] = 1
        return block

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks once more."""
        for block in blocks:
            if self._held[block] == 0:
                del self._free[block]
            self._held[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Hold blocks once less. Of those then free, the ones at a text's end are taken first."""
        for block in reversed(blocks):
            assert self._held[block] > 0, f"block {block} is released more often than it is held"
            self._held[block] -= 1
            if self._held[block] == 0:
                self._free[block] = None
                if self._names[block] is None:  # nothing to be found in it
                    self._free.move_to_end(block, last=False)

    def name(self, block: int, digest: Digest) -> None:
        """Let a full block be found. Where another has the same content, that one stays the one that is found."""
        if digest not in self._by_name:
            self._by_name[digest] = block
            self._names[block] = digest

    def find(self, names: Sequence[Digest]) -> list[int]:
        """The blocks of the longest known beginning; they are not yet held."""
        found = []
        for digest in names:
            if (block := self._by_name.get(digest)) is None:
                break
            found.append(block)
        return found

    def forget(self) -> None:
        """Let nothing be found any more, because what wrote it has changed."""
        self._by_name.clear()
        self._names = [None] * self.total
