"""Learning-rate schedules: pure functions of the step that return a multiplier of the learning rate."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


def constant_with_warmup(step: int, warmup: int, start: float = 0.0) -> float:
    """``start`` rising to 1 over ``warmup`` steps, then 1. ``step`` counts from 0, here and below.

    >>> [constant_with_warmup(step, warmup=4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, start + (1.0 - start) * (step + 1) / warmup) if warmup else 1.0


def cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.1) -> float:
    """Warm-up, then half a cosine from 1 to ``floor`` (GPT-3: to 10%), reached on the last step.

    >>> [round(cosine(step, steps=5), 3) for step in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup:
        return constant_with_warmup(step, warmup)
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def trapezoid(step: int, steps: int, warmup: int, cooldown: int, floor: float = 0.0) -> float:
    """Warm-up, stable, then a straight line down over the last ``cooldown`` steps to just above ``floor``.

    >>> [trapezoid(step, steps=8, warmup=2, cooldown=4) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    left = min(1.0, max(0, steps - step) / cooldown) if cooldown else 1.0
    return min(constant_with_warmup(step, warmup), floor + (1.0 - floor) * left)


def grown(step: int, ramp: int, start: int, end: int) -> int:
    """A batch that grows evenly from ``start`` to ``end`` rows over the first ``ramp`` steps (GPT-3, appendix B).

    >>> [grown(step, ramp=4, start=2, end=10) for step in range(6)]
    [2, 4, 6, 8, 10, 10]
    """
    return end if step >= ramp else start + (end - start) * step // ramp


def warmed_momentum(step: int, warmup: int, start: float, end: float) -> float:
    """Muon's momentum, rising evenly from ``start`` over ``warmup`` steps (Keller Jordan: 0.85 to 0.95 over 300).

    >>> [round(warmed_momentum(step, warmup=2, start=0.85, end=0.95), 2) for step in range(4)]
    [0.85, 0.9, 0.95, 0.95]
    """
    return end if step >= warmup else start + (end - start) * step / warmup


class ScheduleConfig(BaseModel):
    """Which schedule. ``warmup`` and ``cooldown`` are shares of all steps, so that a longer run keeps its shape.

    floor: the multiplier that the learning rate falls to; by default 0.1 for cosine (GPT-3) and 0 for trapezoid. decay:
    the share of all steps after which cosine has fallen, and stays (GPT-3: 260 of 300 billion tokens).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["constant", "cosine", "trapezoid"] = "trapezoid"
    warmup: float = Field(default=0.02, ge=0, le=1)
    cooldown: float = Field(default=0.5, ge=0, le=1)
    floor: float | None = Field(default=None, ge=0, le=1)
    decay: float = Field(default=1.0, gt=0, le=1)

    def multiplier(self, step: int, steps: int) -> float:
        """The learning rate's multiplier at ``step`` (from 0) of ``steps``."""
        warmup = math.ceil(self.warmup * steps)
        if self.kind == "constant":
            return constant_with_warmup(step, warmup)
        if self.kind == "cosine":
            return cosine(step, math.ceil(self.decay * steps), warmup, 0.1 if self.floor is None else self.floor)
        return trapezoid(step, steps, warmup, math.ceil(self.cooldown * steps), self.floor or 0.0)
