"""The training loop of every stage: accumulate, clip, step, log, checkpoint; stop when wrong, resume to equal bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from chatwright.stage import MetricsLog, progress_bar, say
from chatwright.storage import keyed_uniform
from chatwright.training.checkpoint import load_checkpoint, restore, save_checkpoint, training_state
from chatwright.training.optim import clip_gradients, set_lr


class RunStopped(Exception):
    """A run that went wrong and stopped itself; the message names the step and the likely cause (exit status 1)."""


@dataclass(frozen=True)
class Part:
    """A part of a step's batch, small enough for memory. Losses, tokens and metrics of a step's parts are summed.

    loss: scalar with a graph, already weighted so that the sum over the parts is the loss of the step.
    tokens: how many tokens went through the model, for the rate. metrics: more scalars for the log.
    """

    loss: Tensor
    tokens: int
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)


@dataclass
class Trained:
    """What is trained and by what: modules by name, and the optimisers of their parameters."""

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that the optimisers update."""
        return [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]

    def save(self, folder: Path, **meta: object) -> None:
        """Write a checkpoint with ``meta`` in its header."""
        save_checkpoint(folder, training_state(self.modules, self.optimizers), meta)

    def resume(self, folder: Path, identity: str) -> int:
        """Load the checkpoint in ``folder`` when there is one of this ``identity``; returns the steps it had done."""
        found = load_checkpoint(folder)
        if found is None or found[1]["identity"] != identity:
            return 0
        tensors, meta = found
        restore(tensors, self.modules, self.optimizers)
        return int(meta["step"])


def train(
    trained: Trained,
    losses: Callable[[int], Iterable[Part]],
    *,
    title: str,
    out: Path,
    steps: int,
    multiplier: Callable[[int], float],
    clip: float,
    seed: int,
    checkpoint_every: int,
    identity: str,
    measure: Callable[[int], Mapping[str, float]] = lambda done: {},
) -> None:
    """Run ``steps`` optimiser steps, from the checkpoint in ``out/checkpoint`` when a kill left one.

    losses: ``step -> parts`` with steps counted from 0; all its randomness must come from the step. PyTorch's own
    generator (dropout) is seeded from (seed, step) before each step.
    multiplier: ``step -> factor`` of the learning rates. identity: names the config; another's checkpoint is not used.
    measure: called with the number of steps done, before the first and after each; what it returns goes to the log.

    ``metrics.jsonl`` gets step, loss, lr, grad_norm, tokens_per_second, the parts' and the measured metrics. The caller
    removes ``out/checkpoint`` after it has written the model.
    """
    checkpoint = out / "checkpoint"
    start = trained.resume(checkpoint, identity)
    if start:
        say(f"  {title}: going on after step {start} of {steps}")
    log = MetricsLog(out, start)
    first = measure(0) if start == 0 else {}
    if first:
        log.log(0, **first)
    with progress_bar(title, steps) as bar:
        for step in range(start, steps):
            began = time.perf_counter()
            torch.manual_seed(int(keyed_uniform("step", seed, step) * 2**63))
            factor = multiplier(step)
            sums = accumulate(losses(step))
            tokens = sums.pop("tokens")
            sums["grad_norm"] = update(trained, factor, clip)
            check_finite(title, step + 1, sums["loss"], sums["grad_norm"])
            rate = tokens / (time.perf_counter() - began)
            lr = max(group["lr"] for optimizer in trained.optimizers for group in optimizer.param_groups)
            log.log(step + 1, **sums, lr=lr, tokens=int(tokens), tokens_per_second=round(rate), **measure(step + 1))
            bar.update(step + 1, f"loss {sums['loss']:.3f}, {rate / 1000:.1f}k tokens/s")
            if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                trained.save(checkpoint, step=step + 1, identity=identity)
    # Kept until the stage has its output, so that a kill while that is written costs no training.
    trained.save(checkpoint, step=steps, identity=identity)


def accumulate(parts: Iterable[Part]) -> dict[str, float]:
    """Back-propagate each part; the sums of their ``loss``, ``tokens`` and metrics."""
    sums: dict[str, float | Tensor] = {"loss": 0.0, "tokens": 0.0}
    for part in parts:
        part.loss.backward()
        for name, value in {"loss": part.loss, "tokens": part.tokens, **part.metrics}.items():
            sums[name] = sums.get(name, 0.0) + (value.detach() if isinstance(value, Tensor) else value)
    return {name: float(value) for name, value in sums.items()}


def update(trained: Trained, factor: float, clip: float) -> float:
    """One step of every optimiser at ``factor`` times its learning rate; gradients are clipped before and freed after.

    Returns the gradients' global norm before clipping. When it is not finite nothing is changed.
    """
    norm = float(clip_gradients(trained.parameters(), clip))
    if math.isfinite(norm):
        set_lr(trained.optimizers, factor)
        for optimizer in trained.optimizers:
            optimizer.step()
    for optimizer in trained.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return norm


def check_finite(title: str, step: int, loss: float, grad_norm: float) -> None:
    """Raise RunStopped when the loss or the gradient is not a number; steps count from 1."""
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
    raise RunStopped(f"{title} stopped at step {step}: {what}. Most likely {cause}.")
