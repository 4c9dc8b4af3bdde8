"""The choices of one request as the engine makes them, told to the event loop without a thread in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from chatwright.inference.request import Completion, Delta
from chatwright.inference.sampling import Sampling
from chatwright.service.line import Line
from chatwright.service.models import LoadedModel

Piece = tuple[int, "Delta | Completion"]  # index of the choice, and what it grew by or its end


class Choices:
    """Iterate over it for the pieces of all choices as they come; `cancel` it when nobody wants them any more."""

    def __init__(
        self, line: Line, model: LoadedModel, prompts: Sequence[list[int]], samplings: Sequence[Sampling]
    ) -> None:
        """Begin to answer each prompt with its sampling, in a place of the line. LineFull when there is none."""
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[tuple[int, Delta, Completion | BaseException | None]] = asyncio.Queue()
        self._left, self._ended = len(samplings), 0  # choices
        self._cancelled = False
        self._line = line
        line.enter(self)
        both = zip(prompts, samplings, strict=True)
        self._drops = [model.engine.begin(*one, self._listener(index)) for index, one in enumerate(both)]

    def cancel(self) -> None:
        """Drop what is not done. Harmless when all is."""
        if not self._cancelled:
            self._cancelled = True
            for drop in self._drops:
                drop()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces, and of each choice at last its completion; raises what the engine raised. Ends when cancelled."""
        while self._left:
            index, delta, end = await self._made.get()
            if end is not None:
                self._left -= 1
            if isinstance(end, BaseException):
                raise end
            if self._cancelled:
                continue
            if delta.text or delta.tokens:
                yield index, delta
            if end is not None:
                yield index, end

    def _listener(self, index: int) -> Callable[[Delta, Completion | BaseException | None], None]:
        def listen(delta: Delta, end: Completion | BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is there any more
                self._loop.call_soon_threadsafe(self._hear, index, delta, end)

        return listen

    def _hear(self, index: int, delta: Delta, end: Completion | BaseException | None) -> None:
        self._made.put_nowait((index, delta, end))
        if end is not None:
            self._ended += 1
            if self._ended == len(self._drops):
                self._line.leave(self)
