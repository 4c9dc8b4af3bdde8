from __future__ import annotations

import doctest
from itertools import pairwise

import pytest

from chatwright.training import schedules
from chatwright.training.schedules import ScheduleConfig, constant_with_warmup, cosine, trapezoid


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
