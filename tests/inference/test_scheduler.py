"""The scheduler against random arrivals, lengths, cancels and memory: nothing leaks, nobody starves."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.inference import blocks, scheduler
from chatwright.inference.blocks import BLOCK, BlockPool, digests
from chatwright.inference.scheduler import QueueFull, Scheduler, Sequence


def sequence(prompt: int, answer: int, family: int = 0, draft: int = 0) -> Sequence:
    """A prompt of so many tokens, whose beginning all of its family share."""
    tokens = [family] * (prompt // 2) + [1000 + i for i in range(prompt - prompt // 2)]
    made = Sequence(tokens, limit=prompt + answer, reusable=prompt + answer)
    made.draft = [7] * draft
    return made


class Driver:
    """Runs a scheduler as the engine does, with made-up tokens, and checks what must always hold."""

    def __init__(self, blocks: int, rows: int, budget: int) -> None:
        self.pool = BlockPool(blocks)
        self.line = Scheduler(self.pool, rows, budget)
        self.content: dict[int, list[int]] = {}  # of each block, as far as it was written
        self.alive: list[Sequence] = []
        self.finished: list[Sequence] = []

    def add(self, made: Sequence) -> None:
        self.line.add(made)
        self.alive.append(made)

    def cancel(self, made: Sequence) -> None:
        self.line.remove(made)
        self.alive.remove(made)

    def step(self, accepted: int = 0) -> None:
        work = self.line.step()
        assert bool(work) == bool(self.alive)
        assert len({id(part.sequence) for part in work}) == len(work) <= self.line.rows
        assert sum(part.count for part in work) <= self.line.budget
        for part in work:
            made = part.sequence
            assert part.start == made.computed
            assert part.count >= 1
            known = made.tokens + made.draft
            assert len(made.blocks) * BLOCK >= part.start + part.count
            # what is before the part must be there, as this sequence has it
            for place in range(part.start):
                assert self.content[made.blocks[place // BLOCK]][place % BLOCK] == made.tokens[place]
        for part in work:
            known = part.sequence.tokens + part.sequence.draft
            for place in range(part.start, part.start + part.count):
                block = self.content.setdefault(part.sequence.blocks[place // BLOCK], [-1] * BLOCK)
                block[place % BLOCK] = known[place]
        self.check_blocks()
        self.line.done(work)
        for part in work:
            made = part.sequence
            if part.start + part.count >= len(made.tokens):
                drafted = part.start + part.count - len(made.tokens)
                for token in [7] * min(drafted, accepted) + [part.start]:
                    made.tokens.append(token)
                    if len(made.tokens) >= made.limit:
                        break
                made.computed = len(made.tokens) - 1
                if len(made.tokens) >= made.limit:
                    self.line.remove(made)
                    self.alive.remove(made)
                    self.finished.append(made)

    def check_blocks(self) -> None:
        held = [0] * self.pool.total
        for made in self.line.running:
            assert len(set(made.blocks)) == len(made.blocks)
            for block in made.blocks:
                held[block] += 1
        assert held == self.pool._held
        assert self.pool.free == held.count(0)
        assert all(not made.blocks and made.computed == 0 for made in self.line.waiting)


requests = st.tuples(st.integers(1, 150), st.integers(1, 60), st.integers(0, 2), st.integers(0, 5))
events = st.lists(
    st.one_of(
        requests, st.tuples(st.just("cancel"), st.integers(0, 20)), st.tuples(st.just("steps"), st.integers(1, 9))
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=300)
@given(
    events=events,
    memory=st.integers(7, 30),
    rows=st.integers(1, 5),
    more=st.integers(0, 60),
    accepted=st.integers(0, 5),
)
def test_nothing_leaks_and_nobody_starves(events: list, memory: int, rows: int, more: int, accepted: int) -> None:
    driver = Driver(memory, rows, rows + more)
    added = 0
    for event in events:
        if event[0] == "cancel":
            if driver.alive:
                driver.cancel(driver.alive[event[1] % len(driver.alive)])
                added -= 1
        elif event[0] == "steps":
            for _ in range(event[1]):
                if driver.alive:
                    driver.step(accepted)
        else:
            driver.add(sequence(*event))
            added += 1
    steps = 0
    while driver.alive:
        driver.step(accepted)
        steps += 1
        assert steps < 30_000
    assert len(driver.finished) == added
    assert driver.pool.free == driver.pool.total
    assert not driver.line._coming
    assert driver.line.step() == []


def test_the_first_to_come_is_never_put_back_and_is_the_first_to_begin() -> None:
    driver = Driver(blocks=8, rows=4, budget=64)
    for family in range(4):
        driver.add(sequence(40, 150, family))
    while driver.alive:
        driver.step()
    assert driver.line.preempted > 0
    assert [made.number for made in driver.finished] == [0, 1, 2, 3]


def test_a_long_prompt_delays_a_running_answer_by_no_more_than_the_budget() -> None:
    line = Scheduler(BlockPool(200), rows=4, budget=32)
    first, long = sequence(5, 100), sequence(500, 10, family=1)
    line.add(first)
    line.done(line.step())
    first.tokens.append(9)
    line.add(long)
    work = line.step()
    assert [(part.sequence, part.count) for part in work] == [(first, 1), (long, 31)]


def test_the_next_turn_computes_only_what_is_new() -> None:
    line = Scheduler(BlockPool(50), rows=4, budget=512)
    first = sequence(100, 60)
    line.add(first)
    for token in range(60):
        line.done(line.step())
        first.tokens.append(token)
    line.remove(first)
    second = Sequence([*first.tokens, *range(30)], limit=250, reusable=250)
    line.add(second)
    (part,) = line.step()
    assert second.cached == part.start == 159 // BLOCK * BLOCK
    assert part.start + part.count == 190


def test_requests_with_one_beginning_wait_for_it_and_share_it() -> None:
    line = Scheduler(BlockPool(50), rows=4, budget=80)
    same = [Sequence([1] * 128 + [number], limit=150, reusable=150) for number in range(3)]
    other = sequence(20, 5, family=3)
    for made in (*same, other):
        line.add(made)
    computed = dict.fromkeys((*same, other), 0)
    for _ in range(3):
        work = line.step()
        for part in work:
            computed[part.sequence] += part.count
        line.done(work)
        for part in work:
            if part.start + part.count == len(part.sequence.tokens):
                part.sequence.tokens.append(5)
    assert computed[same[0]] >= 129
    assert computed[other] >= 20
    assert computed[same[1]] <= 3
    assert same[1].cached == same[2].cached == 128
    assert len({made.blocks[0] for made in same}) == 1


def test_cancelling_the_one_that_computes_the_beginning_lets_the_next_do_it() -> None:
    line = Scheduler(BlockPool(50), rows=4, budget=32)
    first, second = (Sequence([1] * 100 + [number], limit=120, reusable=120) for number in range(2))
    line.add(first)
    line.add(second)
    line.done(line.step())
    assert second in line.waiting
    line.remove(first)
    assert line.step()[0].sequence is second


def test_a_full_queue_and_what_never_fits_are_refused() -> None:
    line = Scheduler(BlockPool(2), rows=1, budget=8, waiting=1)
    with pytest.raises(ValueError, match="do not fit into a cache of 64"):
        line.add(sequence(60, 5))
    line.add(sequence(10, 5))
    with pytest.raises(QueueFull):
        line.add(sequence(10, 5))


def test_equal_beginnings_have_equal_digests_and_no_others() -> None:
    a, b = list(range(100)), [*range(64), 0, *range(65, 100)]
    assert digests(a)[:2] == digests(b)[:2]
    assert digests(a)[2] != digests(b)[2]
    assert digests(a[1:])[0] != digests(a)[0]
    assert len(digests(a)) == 3
    assert digests([2**40] * BLOCK) != digests([2**40 + 1] * BLOCK)


def test_a_forgetful_pool_finds_nothing_and_a_full_one_takes_the_oldest() -> None:
    pool = BlockPool(3)
    held = [pool.take() for _ in range(3)]
    for block, name in zip(held, (b"a", b"b", b"c"), strict=True):
        pool.name(block, name)
    pool.release(held)  # the end of a text goes before its beginning
    assert pool.take() == held[2]
    assert pool.find([b"a", b"b", b"c"]) == held[:2]
    pool.forget()
    assert pool.find([b"a"]) == []


def test_worked_examples_hold() -> None:
    assert doctest.testmod(blocks).failed == 0
    assert doctest.testmod(scheduler).failed == 0
