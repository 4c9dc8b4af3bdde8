from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from chatwright.service.line import Line, LineFull


async def everything(job) -> list:
    return [item async for item in job]


async def empty(line: Line) -> None:
    while line.length:
        await asyncio.sleep(0.01)


def test_jobs_run_one_at_a_time_in_order():
    running, most = 0, 0

    def produce(_: Callable[[], bool]) -> Iterator[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for i in range(3):
            time.sleep(0.005)
            yield i
        running -= 1

    async def main() -> list[list[int]]:
        line = Line(places=8, at_once=1)
        return await asyncio.gather(*(everything(line.join(produce)) for _ in range(4)))

    assert asyncio.run(main()) == [[0, 1, 2]] * 4
    assert most == 1


def test_a_full_line_turns_the_next_away_and_opens_again():
    gate = threading.Event()

    def produce(_: Callable[[], bool]) -> Iterator[str]:
        gate.wait(5)
        yield "done"

    async def main() -> None:
        line = Line(places=1, at_once=1)
        jobs = [line.join(produce), line.join(produce)]  # one is answered, one waits
        with pytest.raises(LineFull):
            line.join(produce)
        gate.set()
        assert [await everything(job) for job in jobs] == [["done"]] * 2
        await empty(line)
        assert await everything(line.join(produce)) == ["done"]

    asyncio.run(main())


def test_a_cancelled_job_ends_and_one_still_waiting_never_begins():
    begun = []

    def produce(name: str) -> Callable[[Callable[[], bool]], Iterator[str]]:
        def work(cancelled: Callable[[], bool]) -> Iterator[str]:
            begun.append(name)
            while not cancelled():
                time.sleep(0.005)
                yield name

        return work

    async def main() -> None:
        line = Line(places=2, at_once=1)
        first, second = line.join(produce("first")), line.join(produce("second"))
        async for _ in first:
            break
        second.cancel()
        first.cancel()
        assert await everything(second) == []
        await empty(line)

    asyncio.run(main())
    assert begun == ["first"]


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_awaited():
    def produce(_: Callable[[], bool]) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("planted")

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="planted"):
            await everything(Line(places=1, at_once=1).join(produce))

    asyncio.run(main())


def test_producers_of_one_job_work_side_by_side_and_the_job_ends_with_the_last():
    meet = threading.Barrier(2, timeout=5)

    def produce(name: str) -> Callable[[Callable[[], bool]], Iterator[str]]:
        def work(_: Callable[[], bool]) -> Iterator[str]:
            meet.wait()  # broken, were there no other
            yield name

        return work

    async def main() -> list[str]:
        return await everything(Line(places=0, at_once=2).join(produce("a"), produce("b")))

    assert sorted(asyncio.run(main())) == ["a", "b"]
