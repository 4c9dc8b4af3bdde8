"""How busy the chat is and has been in the last minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

WINDOW_SECONDS = 60


class Meter:
    """Counts pieces of answers and how long answers took, over the last `WINDOW_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pieces: deque[tuple[int, int]] = deque()  # second, pieces in it
        self._first: deque[tuple[float, float]] = deque()  # when, how long
        self._whole: deque[tuple[float, float]] = deque()

    def piece(self) -> None:
        """An engine made a piece of an answer: a token, or some."""
        second = int(self._clock())
        count = self._pieces.pop()[1] if self._pieces and self._pieces[-1][0] == second else 0
        self._pieces.append((second, count + 1))
        while self._pieces[0][0] <= second - WINDOW_SECONDS:
            self._pieces.popleft()

    def first(self, seconds: float) -> None:
        """An answer began so long after it was asked for."""
        self._add(self._first, seconds)

    def ended(self, seconds: float) -> None:
        """An answer was whole so long after it was asked for."""
        self._add(self._whole, seconds)

    @property
    def rate(self) -> float:
        """Pieces a second."""
        begin = int(self._clock()) - WINDOW_SECONDS
        return sum(count for second, count in self._pieces if second > begin) / WINDOW_SECONDS

    @property
    def first_seconds(self) -> dict[str, float | None]:
        """Time to the first piece: its middle and its 95th percentile."""
        return self._percentiles(self._first)

    @property
    def whole_seconds(self) -> dict[str, float | None]:
        """Time to the end."""
        return self._percentiles(self._whole)

    def _add(self, values: deque[tuple[float, float]], seconds: float) -> None:
        values.append((self._clock(), seconds))
        self._forget(values)

    def _forget(self, values: deque[tuple[float, float]]) -> None:
        while values and values[0][0] <= self._clock() - WINDOW_SECONDS:
            values.popleft()

    def _percentiles(self, values: deque[tuple[float, float]]) -> dict[str, float | None]:
        self._forget(values)
        ordered = sorted(seconds for _, seconds in values)
        return {"p50": _percentile(ordered, 0.5), "p95": _percentile(ordered, 0.95)}


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank; None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
