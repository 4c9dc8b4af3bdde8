"""The line of requests before the threads that wait for the engine, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
Produce = Callable[[Callable[[], bool]], Iterator[T]]


class Cancellable(Protocol):
    """What is in the line."""

    def cancel(self) -> None:
        """End it soon; it leaves the line then."""


class LineFull(Exception):
    """As many requests wait as may wait."""


class Job(Generic[T]):
    """A request in line or in work, by one producer or several at once.

    Iterate over it for what they produce; `cancel` it when nobody wants it any more.
    """

    def __init__(self, producers: int) -> None:
        """Made by `Line.join`."""
        self._left = producers
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[T | BaseException | None] = asyncio.Queue()  # None: that was all of one producer
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop producing as soon as may be. Harmless when the job is done."""
        self._cancelled.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        """What the job produces, as it comes; raises what the producer raised."""
        while self._left:
            item = await self._made.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                self._left -= 1
            else:
                yield item

    def _work(self, produce: Produce[T]) -> None:
        """Run a producer to its end; in a worker thread."""
        try:
            if not self._cancelled.is_set():
                for item in produce(self._cancelled.is_set):
                    self._put(item)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: T | BaseException | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._made.put_nowait, item)


class Line:
    """First come, first served, `at_once` producers at a time; at most `places` requests wait."""

    def __init__(self, places: int, at_once: int) -> None:
        """A line with nobody in it."""
        self._places, self._at_once = places, at_once
        self._thread = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="generate")
        self._inside: set[Cancellable] = set()  # waiting or in work

    @property
    def length(self) -> int:
        """How many requests wait or are being answered."""
        return len(self._inside)

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
        """How many producers work at a time."""
        return self._at_once

    def join(self, *producers: Produce[T]) -> Job[T]:
        """Queue a request: each `produce(cancelled)` yields some of its results, looking at `cancelled()` often."""
        job: Job[T] = Job(len(producers))
        self.enter(job)
        works = [asyncio.wrap_future(self._thread.submit(job._work, produce)) for produce in producers]
        asyncio.gather(*works, return_exceptions=True).add_done_callback(lambda _: self.leave(job))
        return job

    def enter(self, request: Cancellable) -> None:
        """Take a place, without a thread of the line's. LineFull when there is none."""
        if self.full:
            raise LineFull
        self._inside.add(request)

    def leave(self, request: Cancellable) -> None:
        """Give the place back."""
        self._inside.discard(request)

    def cancel_all(self) -> None:
        """Cancel every job."""
        for job in list(self._inside):
            job.cancel()

    async def close(self) -> None:
        """Cancel every job and wait until the thread has noticed, while there still is a loop to tell."""
        self.cancel_all()
        await asyncio.to_thread(self._thread.shutdown)
