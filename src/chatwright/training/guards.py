"""What stops a run, or makes it look twice: numbers that are not finite, a loss that leaps, a signal to end."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RunStopped(Exception):
    """A run that went wrong and stopped itself; the message names the step and the likely cause (exit status 1)."""


class Interrupted(KeyboardInterrupt):
    """A run that was asked to end, and has saved itself. ``signal``: by which signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


class SpikeConfig(BaseModel):
    """When a loss counts as a spike, and what then. Ours.

    deviations: how many standard deviations above its moving average a step's loss must be. history: steps that the
    average looks back, and how many must be done before any spike is seen. skip: leave the step's batch out of
    training instead of learning from it (PaLM, 5.1, went back and left batches out by hand).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    deviations: float = Field(default=6.0, gt=0)
    history: int = Field(default=50, gt=1)
    skip: bool = False


MOST_SPIKES = 5  # in a row: more are a new level of the loss


class Spikes:
    """Moving mean and variance of the loss. Its ``state`` is part of a checkpoint."""

    def __init__(self, config: SpikeConfig) -> None:
        self.config = config
        self.state: dict[str, float] = {"count": 0.0, "mean": 0.0, "variance": 0.0, "row": 0.0}

    def is_spike(self, loss: float) -> bool:
        """Whether ``loss`` leaps out of what came before; one that does not is taken into the average.

        After `MOST_SPIKES` in a row the average begins anew.
        """
        state, history = self.state, self.config.history
        above = loss - state["mean"]
        # A loss that hardly varies must not make a spike of a ripple: at least a hundredth of its size counts as one.
        deviation = max(math.sqrt(state["variance"]), 0.01 * abs(state["mean"]))
        if state["count"] >= history and above > self.config.deviations * deviation:
            state["row"] += 1
            if state["row"] > MOST_SPIKES:
                state.update(count=0.0, mean=0.0, variance=0.0, row=0.0)
            return True
        state["row"] = 0.0
        state["count"] += 1
        weight = 1 / min(state["count"], history)
        state["mean"] += weight * above
        state["variance"] = (1 - weight) * (state["variance"] + weight * above * above)
        return False


def check_finite(
    title: str, step: int, loss: float, grad_norm: float, documents: Callable[[], Sequence[str]] = tuple
) -> None:
    """Raise RunStopped when the loss or the gradient is not a number; steps count from 1.

    documents: returns what the step learned from, for whoever looks for the cause.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4g} but its gradient is {grad_norm}"
    )
    cause = (
        "the weights it started from or its data hold numbers that are not finite"
        if step == 1
        else "the learning rate is too high: lower optim.lr and optim.matrix_lr, or lengthen schedule.warmup"
    )
    names = documents()
    learned = f" The step learned from {named(names)}." if names else ""
    raise RunStopped(f"{title} stopped at step {step}: {what}. Most likely {cause}.{learned}")


def named(documents: Sequence[str], most: int = 8) -> str:
    """A few of the documents by name, and how many more.

    >>> named(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = ", ".join(documents[:most])
    return names if len(documents) <= most else f"{names} and {len(documents) - most} more"


class Stop:
    """Becomes true, with the signal's number, when the process is asked to end."""

    def __init__(self) -> None:
        self.signal = 0


@contextmanager
def stop_at_signals() -> Iterator[Stop]:
    """SIGTERM and the first Ctrl-C only set the flag, so that a step can end and be saved; the next one acts at once.

    Elsewhere than in the main thread, where Python takes no signals, the flag is never set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def asked(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, before[number])

    for number in before:
        if before[number] is not signal.SIG_IGN:  # as nohup and shells' background jobs have it
            signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
