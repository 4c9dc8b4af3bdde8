"""One answer as it is made: its text in pieces, then how it ended and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.service.models import LoadedModel


@dataclass(frozen=True)
class End:
    """How an answer ended. tokens: how many the model generated, the end of the turn and a stop string included."""

    reason: Literal["stop", "length"]
    tokens: int


def answer(
    model: LoadedModel, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
) -> Iterator[str | End]:
    """Yield the answer's text in pieces, none empty, and last its `End`. Ends early when `stopped()`."""
    pieces = _Returning(model.engine.stream(prompt, sampling, stopped))
    yield from pieces
    completion = pieces.returned
    yield End("stop" if completion.finish_reason == "stop" else "length", len(completion.tokens))


class _Returning:
    """Iterates over a generator and keeps what it returns."""

    returned: Completion

    def __init__(self, generator: Generator[str, None, Completion]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[str]:
        self.returned = yield from self._generator
