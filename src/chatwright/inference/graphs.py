"""Steps on a GPU as CUDA graphs. A step of one token a text is a thousand small kernels, and launching them one by one
takes far longer than running them; recorded once for its shape, a step is launched as one.

Axes: N tokens of a step, R rows of a recorded one, J blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chatwright.inference.blocks import BLOCK
from chatwright.inference.cache import Gathered, PagedCache, rows_of, tables_of
from chatwright.inference.scheduler import Work
from chatwright.model.decoder import Decoder

# Of a record function: the step, to what launches it again and the tensor that its result is always in.
Recorded = tuple[Callable[[], object], Tensor]
TABLES = 4  # blocks of the shortest tables


def shape_of(rows: int, blocks: int) -> tuple[int, int]:
    """Rows and blocks that a step is filled up to: a power of two, and a power of two or half as much again.

    >>> [shape_of(n, n) for n in (1, 5, 9, 13, 33)]
    [(1, 4), (8, 8), (16, 12), (16, 16), (64, 48)]
    """
    unit = max(TABLES, 1 << max(0, (blocks - 1).bit_length() - 2))
    return 1 << (rows - 1).bit_length(), -(-blocks // unit) * unit


class StepGraphs:
    """Steps of short parts alone, recorded as they come up.

    A step is filled up to a `shape_of` few; rows that nobody asked for write to the cache's spare block. Weights must
    stay where they are in memory; what they are may change.
    """

    def __init__(
        self, model: Decoder, cache: PagedCache, record: Callable[[Callable[[], Tensor]], Recorded] | None = None
    ) -> None:
        self._model, self._cache = model, cache
        self._record = record or _recorder()
        self._steps: dict[tuple[int, int], tuple[Tensor, Recorded]] = {}

    def hidden(self, work: Sequence[Work], tokens: Sequence[int]) -> Tensor:
        """The final states of the tokens of these parts, [N, D]."""
        rows = rows_of(work)
        count, most = len(rows.at), max(len(table) for table in rows.tables)
        shape = R, J = shape_of(count, most)
        spare = self._cache.spare
        places = [length - 1 for length in rows.lengths]
        numbers: list[int] = []
        for own, idle in ((tokens, 0), (places, 0), (rows.at, spare * BLOCK), (rows.lengths, 1)):
            numbers += [*own, *[idle] * (R - count)]
        numbers += tables_of(rows, J, spare) + [spare] * (J * (R - count))
        given = torch.tensor(numbers)
        if shape not in self._steps:
            static = given.to(self._cache.device)
            self._steps[shape] = static, self._record(self._step(static, R, J))
        static, (launch, states_RD) = self._steps[shape]
        static.copy_(given)
        launch()
        return states_RD[:count].clone()  # the next launch writes over it

    def _step(self, static: Tensor, R: int, J: int) -> Callable[[], Tensor]:
        tokens_R, positions_R, at_R, lengths_R, tables = static.split((R, R, R, R, R * J))

        def step() -> Tensor:
            self._cache.use(Gathered(at_R, tables.view(R, J), lengths_R, []))
            return self._model.hidden(tokens_R[None], positions_BT=positions_R[None], cache=self._cache)[0]

        return step


def _recorder() -> Callable[[Callable[[], Tensor]], Recorded]:
    """What records on this GPU; all that it records share their memory."""
    pool: Any = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], Tensor]) -> Recorded:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries choose their kernels and take their memory before the recording
            step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            states_RD = step()
        return graph.replay, states_RD

    return record
