"""One answer as it is made: text without a trace of a stop string, then how it ended and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
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


class StopStrings:
    """Passes text on, up to the first stop string; holds back what may be the beginning of one.

    >>> stops = StopStrings(["END"])
    >>> stops.feed("the E"), stops.feed("nglish EN"), stops.feed("D of it")
    ('the ', 'English ', '')
    >>> stops.found
    True
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of `stops`, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What can be said now that `text` has come."""
        if self.found:
            return ""
        self._held += text
        places = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            _, place = min(places)  # the one complete first, so that it does not matter how the text comes in pieces
            said, self._held = self._held[:place], ""
            return said
        kept = max((_beginning_at_end(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        said, self._held = self._held[:cut], self._held[cut:]
        return said

    def rest(self) -> str:
        """What was held back, now that no more text comes."""
        said, self._held = self._held, ""
        return said


def _beginning_at_end(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` with which `text` ends."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def answer(
    model: LoadedModel,
    prompt: list[int],
    sampling: Sampling,
    stops: Sequence[str] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[str | End]:
    """Yield the answer's text in pieces, none empty, and last its `End`. Ends early when `stopped()`."""
    scanner = StopStrings(stops)
    pieces = _Returning(model.engine.stream(prompt, sampling, lambda: scanner.found or stopped()))
    for piece in pieces:
        if said := scanner.feed(piece):
            yield said
    if said := scanner.rest():
        yield said
    completion = pieces.returned
    yield End("stop" if scanner.found else completion.finish_reason, len(completion.tokens))


class _Returning:
    """Iterates over a generator and keeps what it returns."""

    returned: Completion

    def __init__(self, generator: Generator[str, None, Completion]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[str]:
        self.returned = yield from self._generator
