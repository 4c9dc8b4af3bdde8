"""How often something was tried lately: brakes on guessing passwords and on making accounts."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from chatwright.service.refusal import Refusal

REMEMBERED = 20_000  # keys; the one longest untouched is forgotten first


class Attempts:
    """At most `most` attempts a key in any `seconds`."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, key: str) -> None:
        """Refusal 429 while the key has used up its attempts."""
        with self._lock:
            times = self._recent(key)
            if len(times) >= self._most:
                wait = times[0] + self._seconds - self._clock()
                raise Refusal(429, "too_many_attempts", "Too many attempts; please wait.", retry_after=wait)

    def count(self, key: str) -> None:
        """One more attempt."""
        with self._lock:
            self._times.setdefault(key, deque(maxlen=self._most)).append(self._clock())
            self._times.move_to_end(key)
            if len(self._times) > REMEMBERED:
                self._times.popitem(last=False)

    def forget(self, key: str) -> None:
        """The key did well: its attempts do not count."""
        with self._lock:
            self._times.pop(key, None)

    def _recent(self, key: str) -> deque[float]:
        times = self._times.get(key) or deque()
        while times and times[0] <= self._clock() - self._seconds:
            times.popleft()
        return times
