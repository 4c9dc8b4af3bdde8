"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chatwright.service.workers import Workers


def test_what_a_job_returns_or_raises_comes_back_and_the_loop_goes_on_meanwhile():
    workers, free = Workers("test", 2), threading.Event()

    def wait() -> str:
        assert free.wait(30)
        return threading.current_thread().name

    def fail() -> None:
        raise ValueError("planted")

    async def use() -> str:
        waiting = workers.do(wait)
        with pytest.raises(ValueError, match="planted"):
            await workers.do(fail)
        assert not waiting.done()
        free.set()
        return await waiting

    assert asyncio.run(use()) == "test"
    workers.close()


def test_jobs_of_one_thread_are_done_in_order_also_those_that_nobody_waits_for():
    workers, did = Workers("test", 1), list[int]()

    async def use() -> None:
        jobs = [workers.do(lambda number=number: did.append(number)) for number in range(5)]
        jobs[3].cancel()
        await jobs[4]

    asyncio.run(use())
    workers.close()
    assert did == list(range(5))


def test_a_loop_that_is_closed_meanwhile_harms_no_thread():
    workers, free, did = Workers("test", 1), threading.Event(), threading.Event()

    async def leave() -> None:
        workers.do(lambda: free.wait(30))

    asyncio.run(leave())
    free.set()

    async def use() -> None:
        await workers.do(did.set)

    asyncio.run(use())
    assert did.is_set()
    workers.close()
