"""Threads that do for an event loop what would hold it up."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """A few threads, first come, first served: a job gets to one in half the time that `asyncio.to_thread` takes."""

    def __init__(self, name: str, count: int) -> None:
        """name: of the threads."""
        self._jobs = queue.SimpleQueue[Callable[[], None] | None]()
        self._count = count
        for _ in range(count):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], Result]) -> asyncio.Future[Result]:
        """What the job returns or raises, for the loop that runs here. A job whose future is cancelled is done, too."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def done() -> None:
            settle: Callable[[Any], None]
            result: Any
            try:
                settle, result = future.set_result, job()
            except BaseException as error:
                settle, result = future.set_exception, error
            with suppress(RuntimeError):  # the loop is closed: nobody is there any more
                loop.call_soon_threadsafe(partial(_unless_done, future, settle, result))

        self._jobs.put(done)
        return future

    def close(self) -> None:
        """End the threads, each after the job that it does."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds should not live until the next comes


def _unless_done(future: asyncio.Future[Any], settle: Callable[[Any], None], result: Any) -> None:
    """Settle a future that nobody has cancelled."""
    if not future.done():
        settle(result)
