from __future__ import annotations

import doctest
from itertools import pairwise

import pytest

from chatwright.training import schedules
from chatwright.training.schedules import (
    ScheduleConfig,
    constant_with_warmup,
    cosine,
    grown,
    trapezoid,
    warmed_momentum,
)


def test_worked_examples_hold() -> None:
    assert doctest.testmod(schedules).failed == 0


def test_warmup_from_a_tenth_reaches_one_after_ten_steps() -> None:
    values = [constant_with_warmup(step, warmup=10, start=0.1) for step in range(12)]
    assert values[0] == pytest.approx(0.19)
    assert values[9:] == [1.0, 1.0, 1.0]


def test_cosine_never_rises_after_warmup_and_ends_at_its_floor() -> None:
    values = [cosine(step, steps=50, warmup=5, floor=0.1) for step in range(60)]
    assert values[4] == 1.0
    assert all(a >= b for a, b in pairwise(values[4:]))
    assert values[49:] == pytest.approx([0.1] * 11)


@pytest.mark.parametrize("kind", ["constant", "cosine", "trapezoid"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_every_step_of_every_schedule_learns_something(kind: str, steps: int) -> None:
    schedule = ScheduleConfig(kind=kind)
    assert all(0 < schedule.multiplier(step, steps) <= 1 for step in range(steps))


def test_trapezoid_without_warmup_and_cooldown_is_constant() -> None:
    assert {trapezoid(step, steps=5, warmup=0, cooldown=0) for step in range(5)} == {1.0}


def test_gpt3_s_cosine_falls_over_260_of_300_and_stays() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup=0.0, decay=260 / 300)
    multipliers = [schedule.multiplier(step, 300) for step in range(300)]
    assert multipliers[0] == 1.0
    assert multipliers[130] == pytest.approx(0.55, abs=0.01)
    assert multipliers[259:] == pytest.approx([0.1] * 41)


def test_the_batch_grows_to_its_size_and_momentum_to_its_own() -> None:
    sizes = [grown(step, 10, 4, 32) for step in range(20)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[10:]) == (4, [32] * 10)
    assert [warmed_momentum(step, 0, 0.85, 0.95) for step in (0, 5)] == [0.95, 0.95]
