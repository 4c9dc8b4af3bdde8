"""Keys and values in blocks, and attention over them for a batch of texts of any lengths, laid end to end.

Axes: N tokens of a step, R rows (queries of their own length of text), J blocks of a row, and those of
`chatwright.model.decoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright import native
from chatwright.inference.blocks import BLOCK
from chatwright.inference.scheduler import Work
from chatwright.model.config import ModelConfig
from chatwright.model.decoder import attention

SHORT = 8  # without our kernels: tokens of a part up to which each is a row of its own; longer parts are prompts


@dataclass(frozen=True)
class Prompt:
    """A part of a text that is computed together: tokens ``first`` to ``last`` of the step, after ``start`` others."""

    first: int
    last: int
    start: int
    blocks_J: Tensor


@dataclass(frozen=True)
class Rows:
    """Tokens of short parts, each a row of its own: where its key and value belong, block times its size plus the
    place in it; the blocks of its text; how much of that it sees.
    """

    at: list[int]
    tables: list[Sequence[int]]
    lengths: list[int]


def rows_of(work: Sequence[Work]) -> Rows:
    """All tokens of these parts as rows."""
    rows = Rows([], [], [])
    for part in work:
        end = part.start + part.count
        rows.at.extend(_places(part))
        rows.tables.extend([part.sequence.blocks[: -(-end // BLOCK)]] * part.count)
        rows.lengths.extend(range(part.start + 1, end + 1))
    return rows


def tables_of(rows: Rows, length: int, spare: int) -> list[int]:
    """The rows' tables one after another, each filled up to a length with a block that nobody reads."""
    return [block for table in rows.tables for block in (*table, *[spare] * (length - len(table)))]


def _places(part: Work) -> list[int]:
    blocks = part.sequence.blocks
    return [blocks[i // BLOCK] * BLOCK + i % BLOCK for i in range(part.start, part.start + part.count)]


@dataclass(frozen=True)
class Gathered:
    """A step where our kernels cannot be used: rows of one token whose blocks are copied side by side, then prompts."""

    at_N: Tensor  # see `Rows`
    tables_RJ: Tensor
    lengths_R: Tensor
    prompts: list[Prompt]

    @classmethod
    def of(cls, work: Sequence[Work], spare: int, device: torch.device) -> Gathered:
        """Long parts must come after all short ones. spare: a block of no text's."""
        short = [part for part in work if part.count <= SHORT]
        rows = rows_of(short)
        at = rows.at
        prompts: list[Prompt] = []
        for part in work[len(short) :]:
            assert part.count > SHORT, "short parts come first"
            used = part.sequence.blocks[: -(-(part.start + part.count) // BLOCK)]
            prompts.append(Prompt(len(at), len(at) + part.count, part.start, torch.tensor(used, device=device)))
            at += _places(part)
        most = max((len(table) for table in rows.tables), default=0)
        return cls(
            torch.tensor(at, device=device),
            torch.tensor(tables_of(rows, most, spare), device=device).view(len(rows.tables), most),
            torch.tensor(rows.lengths, device=device),
            prompts,
        )


class PagedCache:
    """Room for keys and values, [blocks, K, BLOCK, E] a layer, and where the tokens of the present step belong in it.

    `chatwright.model.decoder.Attention` hands it the step's queries, keys and values. Memory of the system is used as
    blocks are.
    """

    def __init__(
        self, config: ModelConfig, blocks: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._native = native.usable(torch.empty(0, dtype=dtype, device=device))
        # Without the kernels what lies behind a text's end is read and weighed with 0, so it must be a number.
        make = torch.empty if self._native else torch.zeros
        self.spare = blocks  # a block of no text's, for what nobody reads
        shape = (blocks if self._native else blocks + 1, config.kv_heads, BLOCK, config.d_head)
        self.keys = [make(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [make(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.device = torch.device(device)
        self._heads_K = torch.arange(config.kv_heads, device=device)

    length = 0  # texts have lengths of their own

    def advance(self, tokens: int) -> None:
        """Nothing to count: the scheduler does."""

    def begin(self, work: Sequence[Work]) -> Tensor:
        """Make a step's parts known; their positions, [N]. Long parts must come after all short ones."""
        self._step: native.Step | Gathered
        if self._native:
            self._step = native.Step.of([(part.sequence.blocks, part.start, part.count) for part in work], BLOCK)
        else:
            self._step = Gathered.of(work, self.spare, self.device)
        positions = [place for part in work for place in range(part.start, part.start + part.count)]
        return torch.tensor(positions, device=self.device)

    def use(self, step: Gathered) -> None:
        """Take a step as it was laid out elsewhere, where our kernels are not used."""
        self._step = step

    def attend(
        self, layer: int, q_1HNE: Tensor, k_1KNE: Tensor, v_1KNE: Tensor, stride: int | None, mask: Tensor | None = None
    ) -> Tensor:
        """Take in the step's keys and values, and attend with each query to its own text, [1, H, N, E]."""
        keys, values = self.keys[layer], self.values[layer]
        if isinstance(self._step, native.Step):
            return native.attend(self._step, q_1HNE, k_1KNE, v_1KNE, keys, values, stride)
        step, parts = self._step, []
        block_N, place_N = step.at_N // BLOCK, step.at_N % BLOCK
        keys[block_N, :, place_N] = k_1KNE[0].transpose(0, 1)
        values[block_N, :, place_N] = v_1KNE[0].transpose(0, 1)
        if len(step.lengths_R):
            parts.append(self._attend_rows(step, layer, q_1HNE, stride))
        for prompt in step.prompts:
            own = slice(prompt.first, prompt.last)
            k, v = k_1KNE[:, :, own], v_1KNE[:, :, own]
            mask_1TS = None
            if prompt.start:
                end = prompt.start + prompt.last - prompt.first
                k, v = (self._gather(x, prompt.blocks_J[None])[:, :, :end] for x in (keys, values))
                mask_1TS = torch.ones(1, prompt.last - prompt.first, end, dtype=torch.bool, device=self.device)
                mask_1TS = mask_1TS.tril(prompt.start)
            parts.append(attention(q_1HNE[:, :, own], k, v, stride, mask_1TS))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def copy(self, source: int, target: int) -> None:
        """Give a block the content of another."""
        for buffer in (*self.keys, *self.values):
            buffer[target] = buffer[source]

    def _attend_rows(self, step: Gathered, layer: int, q_1HNE: Tensor, stride: int | None) -> Tensor:
        """The rows' attention, [1, H, R, E]."""
        k_RKSE, v_RKSE = (self._gather(x, step.tables_RJ) for x in (self.keys[layer], self.values[layer]))
        R, K, S, E = k_RKSE.shape
        distance_RS = step.lengths_R[:, None] - 1 - torch.arange(S, device=self.device)
        seen_RS = distance_RS >= 0
        if stride is not None:
            seen_RS &= (distance_RS <= stride) | (distance_RS % stride == 0)
        q_RKGE = q_1HNE[0, :, :R].transpose(0, 1).reshape(R, K, -1, E)
        y_RKGE = F.scaled_dot_product_attention(q_RKGE, k_RKSE, v_RKSE, attn_mask=seen_RS[:, None, None])
        return y_RKGE.reshape(R, -1, E).transpose(0, 1)[None]

    def _gather(self, buffer: Tensor, blocks_RJ: Tensor) -> Tensor:
        """The rows' blocks side by side, [R, K, J * BLOCK, E]."""
        found = buffer[blocks_RJ[:, None], self._heads_K[:, None]]
        return found.flatten(2, 3)


def block_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory of a block over all layers."""
    return 2 * config.layers * config.kv_heads * config.d_head * BLOCK * dtype.itemsize
