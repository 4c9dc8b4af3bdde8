"""The training loop of every stage: learn, log, checkpoint; stop when wrong or asked to, resume to equal bits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from chatwright.model.config import ModelConfig
from chatwright.model.cost import train_flops
from chatwright.stage import MetricsLog, progress_bar, say
from chatwright.storage import keyed_uniform
from chatwright.training import world
from chatwright.training.checkpoint import Checkpoints, restore, training_state
from chatwright.training.config import CheckpointConfig, GradientConfig, TrainingConfig
from chatwright.training.guards import Interrupted, Spikes, check_finite, named, stop_at_signals
from chatwright.training.optim import clip_gradients, set_lr, set_momentum
from chatwright.training.parallel import Layout, finish_gradients
from chatwright.training.runtime import matmul_rate

SPIKES = "spikes.jsonl"


@dataclass(frozen=True)
class Part:
    """A part of a step's batch, small enough for memory. Losses, tokens and metrics of a step's parts are summed.

    loss: scalar with a graph, already weighted so that the sum over the parts of all processes is the loss of the step.
    tokens: how many tokens went through the model, for the rate. metrics: more scalars for the log.
    """

    loss: Tensor
    tokens: int
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)


@dataclass
class Trained:
    """What is trained and by what: modules by name, the optimisers of their parameters, and how both are spread.

    counters: numbers beside the tensors that the next step depends on; they travel in the checkpoint.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]
    layout: Layout
    counters: dict[str, float] = field(default_factory=dict)

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that the optimisers update."""
        return [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The largest learning rate of the last step."""
        return max(group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups)


@dataclass(frozen=True)
class Plan:
    """How long a run is and what goes with it.

    title: names it on the screen. out: its folder. identity: what it learns from and by, as names and hashes.
    flops: operations a token, for the model FLOPs utilisation; 0 where that is not known.
    """

    title: str
    out: Path
    steps: int
    seed: int
    checkpoint: CheckpointConfig
    identity: Mapping[str, str]
    flops: float = 0.0

    @classmethod
    def of(
        cls,
        title: str,
        config: TrainingConfig,
        out: Path,
        steps: int,
        identity: Mapping[str, str],
        model: ModelConfig | None = None,
    ) -> Plan:
        """The plan of a stage: its config is a part of the identity.

        ``model``: tells the operations a token, where rows are as long as its context and all of it learns.
        """
        flops = train_flops(model, model.context) / model.context if model else 0.0
        return cls(title, out, steps, config.seed, config.checkpoint, {"config": config.hash(), **identity}, flops)


Step = Callable[[int], dict[str, float]]


def train(
    trained: Trained,
    learn: Step,
    plan: Plan,
    *,
    measure: Callable[[int], Mapping[str, float]] = lambda done: {},
    score: Callable[[Mapping[str, float]], float | None] = lambda measured: None,
    note: Callable[[Mapping[str, float]], str] = lambda metrics: f"loss {metrics['loss']:.3f}",
) -> None:
    """Run ``plan.steps`` steps, from the last checkpoint in ``out/checkpoint`` when a broken run left one.

    learn: ``step -> metrics``, steps counted from 0: goes one optimiser step, or in PPO one batch of them, down. All
    its randomness must come from the step; PyTorch's own generator (dropout) is seeded from (seed, step) before each.
    measure: called with the number of steps done, before the first and after each; what it returns goes to the log.
    score: of what was measured, the number that is lowest for the best checkpoint. note: a step's few words beside the
    bar. The caller removes ``out/checkpoint`` after it has written the model.

    Interrupted, once the step is saved, when the process was asked to end; RunStopped when the run went wrong.
    """
    checkpoints = Checkpoints(plan.out / "checkpoint", plan.identity, plan.checkpoint.keep)
    start = resume(trained, checkpoints)
    if start:
        say(f"  {plan.title}: going on after step {start} of {plan.steps}")
    log = MetricsLog(plan.out, start, write=world.is_first())
    first = measure(0) if start == 0 else {}
    if first:
        log.log(0, **first)
    peak = matmul_rate(trained.layout.device, trained.layout.dtype) * world.size() if plan.flops else 0.0
    saved = start

    def save(done: int, measured: Mapping[str, float]) -> None:
        nonlocal saved
        if saved != done:
            state = training_state(trained.modules, trained.optimizers)
            checkpoints.save(done, state, trained.counters, score(measured))
            saved = done

    with progress_bar(plan.title, plan.steps) as bar, stop_at_signals() as stop:
        for step in range(start, plan.steps):
            began = time.perf_counter()
            torch.manual_seed(int(keyed_uniform("step", plan.seed, step) * 2**63))
            metrics = learn(step)
            rate = metrics.get("tokens", 0.0) / (time.perf_counter() - began)
            speed = {"tokens_per_second": round(rate)}
            if peak:
                speed["mfu"] = round(rate * plan.flops / peak, 4)  # type: ignore[assignment]
            measured = measure(step + 1)
            log.log(step + 1, **{**metrics, "tokens": int(metrics.get("tokens", 0))}, **speed, **measured)
            used = f", MFU {speed['mfu']:.0%}" if peak else ""
            bar.update(step + 1, f"{note(metrics)}, {rate / 1000:.1f}k tokens/s{used}")
            asked = world.most(stop.signal)
            # The last is kept until the stage has its output, so that a kill while that is written costs no training.
            if asked or step + 1 == plan.steps or (step + 1) % plan.checkpoint.every == 0:
                save(step + 1, measured)
            if asked and step + 1 < plan.steps:
                checkpoints.wait()
                say(f"  {plan.title}: saved after step {step + 1} of {plan.steps}")
                raise Interrupted(asked)
    checkpoints.wait()


def resume(trained: Trained, checkpoints: Checkpoints) -> int:
    """Load the last whole checkpoint, when there is one; returns the steps it had done."""
    found = checkpoints.last()
    if found is None:
        return 0
    restore(found.folder, trained.modules, trained.optimizers)
    trained.counters.clear()
    trained.counters.update(found.meta)
    return found.step


def restore_best(trained: Trained, plan: Plan) -> None:
    """Give the modules the weights of the run's best checkpoint, where one was measured."""
    found = Checkpoints(plan.out / "checkpoint", plan.identity).best()
    if found is not None:
        say(f"  {plan.title}: the weights after step {found.step} are kept, the best of the checkpoints")
        restore(found.folder, trained.modules)


def gradient_steps(
    trained: Trained,
    losses: Callable[[int], Iterable[Part]],
    plan: Plan,
    config: GradientConfig,
    documents: Callable[[int], Sequence[str]],
) -> Step:
    """What `train` calls where a step is one gradient: accumulate, look twice, clip, update.

    losses: ``step -> parts``. documents: ``step -> names`` of all that the step learns from; asked for when something
    is wrong with it. A loss that leaps goes to ``spikes.jsonl``.
    """
    guard = Spikes(config.spikes)

    def learn(step: int) -> dict[str, float]:
        guard.state.update({k.removeprefix("spike_"): v for k, v in trained.counters.items() if k.startswith("spike_")})
        sums, norm = gradient(trained, losses(step), config.optim.clip)
        check_finite(plan.title, step + 1, sums["loss"], norm, lambda: documents(step))
        metrics = sums | {"grad_norm": norm}
        if guard.is_spike(sums["loss"]):
            _tell_spike(plan, step + 1, metrics, documents(step), skipped=config.spikes.skip)
            metrics["spike"] = 1.0
        trained.counters.update({f"spike_{name}": value for name, value in guard.state.items()})
        if config.spikes.skip and "spike" in metrics:
            forget_gradients(trained)
        else:
            set_momentum(trained.optimizers, config.optim, step)
            update(trained, config.schedule.multiplier(step, plan.steps))
        return metrics | {"lr": trained.lr}

    return learn


def gradient(trained: Trained, parts: Iterable[Part], clip: float) -> tuple[dict[str, float], float]:
    """Back-propagate the parts and clip. Their summed loss, tokens and metrics, and the gradient's norm before.

    All processes get the same numbers. They leave a GPU together, once a step.
    """
    layout = trained.layout
    sums = accumulate(parts, layout)
    parameters = trained.parameters()
    finish_gradients(parameters, layout)
    norm = clip_gradients(parameters, clip)
    *totals, total_norm = layout.total([*sums.values(), norm / layout.ranks])  # the norm is the same everywhere
    return dict(zip(sums, totals, strict=True)), total_norm


def accumulate(parts: Iterable[Part], layout: Layout) -> dict[str, float | Tensor]:
    """Back-propagate each part; this process's sums of their ``loss``, ``tokens`` and metrics."""
    sums: dict[str, float | Tensor] = {"loss": 0.0, "tokens": 0.0}
    for part in parts:
        # FSDP takes means over processes, of what is to be a sum.
        (part.loss * layout.ranks if layout.ranks > 1 else part.loss).backward()
        for name, value in {"loss": part.loss, "tokens": part.tokens, **part.metrics}.items():
            sums[name] = sums.get(name, 0.0) + (value.detach() if isinstance(value, Tensor) else value)
    return sums


def update(trained: Trained, factor: float) -> None:
    """One step of every optimiser at ``factor`` times its learning rate; gradients are freed after."""
    set_lr(trained.optimizers, factor)
    for optimizer in trained.optimizers:
        optimizer.step()
    forget_gradients(trained)


def forget_gradients(trained: Trained) -> None:
    """Free the gradients."""
    for optimizer in trained.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _tell_spike(
    plan: Plan, step: int, metrics: Mapping[str, float], documents: Sequence[str], *, skipped: bool
) -> None:
    """Note a leap of the loss, with what the step learned from."""
    what = "left out" if skipped else "learned from all the same"
    say(f"  {plan.title}: the loss leapt to {metrics['loss']:.3f} at step {step}; {what}: {named(documents)}")
    if world.is_first():
        record = {"step": step, "loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "skipped": skipped}
        with (plan.out / SPIKES).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record | {"documents": list(documents)}, ensure_ascii=False) + "\n")
