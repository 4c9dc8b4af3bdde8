"""The line of requests before the engine: how many are answered at once, and how many may wait."""

from __future__ import annotations

from typing import Protocol


class Cancellable(Protocol):
    """What is under way."""

    def cancel(self) -> None:
        """End it soon."""


class Waiting(Cancellable, Protocol):
    """What stands in the line; when it is over, it leaves."""

    def begin(self) -> None:
        """Its turn has come."""


class LineFull(Exception):
    """As many requests wait as may wait."""


class Line:
    """First come, first served, `at_once` requests at a time; at most `places` wait. For one event loop's thread."""

    def __init__(self, places: int, at_once: int) -> None:
        """A line with nobody in it."""
        self._places, self._at_once = places, at_once
        self._waiting: dict[Waiting, None] = {}  # in the order they came
        self._working: set[Waiting] = set()

    @property
    def length(self) -> int:
        """How many requests wait or are being answered."""
        return len(self._waiting) + len(self._working)

    @property
    def full(self) -> bool:
        """Whether the next request would be turned away."""
        return self.length >= self._places + self._at_once

    @property
    def busy(self) -> bool:
        """Whether the next request would have to wait."""
        return self.length >= self._at_once

    @property
    def places(self) -> int:
        """How many requests may wait."""
        return self._places

    @property
    def at_once(self) -> int:
        """How many requests are answered at a time."""
        return self._at_once

    def enter(self, request: Waiting) -> None:
        """Take a place; the request begins now, or when its turn comes. LineFull when there is none."""
        if self.full:
            raise LineFull
        self._waiting[request] = None
        self._advance()

    def leave(self, request: Waiting) -> None:
        """Give the place back, and let the next begin. Harmless when it is given back already."""
        self._waiting.pop(request, None)
        self._working.discard(request)
        self._advance()

    def cancel_all(self) -> None:
        """Cancel every request."""
        for request in [*self._waiting, *self._working]:  # those that wait first, so that none of them begins
            request.cancel()

    def _advance(self) -> None:
        while self._waiting and len(self._working) < self._at_once:
            request = next(iter(self._waiting))
            del self._waiting[request]
            self._working.add(request)
            request.begin()
