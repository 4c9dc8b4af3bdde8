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
End = Completion | BaseException


class Choices:
    """Iterate over it for the pieces of all choices as they come; `cancel` it when nobody wants them any more."""

    def __init__(
        self, line: Line, model: LoadedModel, prompts: Sequence[list[int]], samplings: Sequence[Sampling]
    ) -> None:
        """Answer each prompt with its sampling, when the line comes to it. LineFull when there is no place."""
        self._line, self._model = line, model
        self._wanted = list(zip(prompts, samplings, strict=True))
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[tuple[int, Delta, End | None] | None] = asyncio.Queue()  # None: it never began
        self._left, self._ended = len(samplings), 0  # choices
        self._cancelled = False
        self._drops: list[Callable[[], None]] = []
        line.enter(self)

    @property
    def over(self) -> bool:
        """Whether what was yielded last came with the last end."""
        return not self._left

    def begin(self) -> None:
        """Hand everything to the engine; the line says when."""
        for index, (prompt, sampling) in enumerate(self._wanted):
            self._drops.append(self._model.engine.begin(prompt, sampling, self._listener(index)))

    def cancel(self) -> None:
        """Drop what is not done. Harmless when all is."""
        if self._cancelled:
            return
        self._cancelled = True
        if not self._drops:
            self._made.put_nowait(None)
            self._line.leave(self)
        for drop in self._drops:
            drop()

    def drop(self, index: int) -> None:
        """Drop one choice under way; the others go on. Harmless when it is done."""
        self._drops[index]()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces, and of each choice at last its completion; raises what the engine raised. Ends when cancelled."""
        while self._left and (made := await self._made.get()) is not None:
            index, delta, end = made
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

    def _listener(self, index: int) -> Callable[[Delta, End | None], None]:
        def listen(delta: Delta, end: End | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is there any more
                self._loop.call_soon_threadsafe(self._hear, index, delta, end)

        return listen

    def _hear(self, index: int, delta: Delta, end: End | None) -> None:
        self._made.put_nowait((index, delta, end))
        if end is not None:
            self._ended += 1
            if self._ended == len(self._wanted):
                self._line.leave(self)
