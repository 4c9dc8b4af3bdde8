"""What a recipe will cost, before it is paid: tokens, parameters and minutes of each stage; and what it did cost.

A stage's seconds are ``fixed + products / (rate * efficiency) + tokens * t + sampled * s + plain * p``: its work comes
from `workload`, the rate is measured on this machine in a fraction of a second, the coefficients are in `COSTS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from chatwright.flow.manifest import Manifest
from chatwright.flow.recipe import Recipe
from chatwright.flow.workload import Work, workloads
from chatwright.stage import console

SECONDS = 0.2  # of each measurement of the machine

PLAN = "plan.json"


@dataclass(frozen=True)
class Speed:
    """What a machine does in a second: operations in matrix products, and words counted in plain Python."""

    products: float
    words: float


@dataclass(frozen=True)
class Cost:
    """Coefficients of a stage, in seconds on the machine `REFERENCE`.

    fixed: whatever its size. efficiency: its share of the rate of matrix products that `measure` finds. token: one that
    is learned from, whatever the model's size. sampled: one that a model writes. plain: a unit of work without a model
    (see `workload`).
    """

    fixed: float = 1.0
    efficiency: float = 0.5
    token: float = 0.0
    sampled: float = 0.0
    plain: float = 0.0


REFERENCE = Speed(products=4.4e11, words=1.5e7)  # two virtual server cores, no GPU

# Calibrated on runs of recipes/atlas.toml on that machine: what small matrices, attention, norms and optimisers leave.
COSTS = {
    "conversations": Cost(fixed=3),
    "corpus": Cost(fixed=30),
    "tokenizer": Cost(fixed=1, plain=2.0e-7),
    "shards": Cost(fixed=1, plain=2.0e-7),
    "pretrain": Cost(efficiency=0.39),
    "sft": Cost(efficiency=0.26),
    "compare": Cost(fixed=8, efficiency=0.3, sampled=9.0e-5),
    "reward": Cost(fixed=5, efficiency=0.5, token=1.1e-4),
    "examine": Cost(fixed=10),
    "import": Cost(fixed=3),
    "choose": Cost(fixed=8, efficiency=0.3, sampled=9.0e-5),
    "best_of_n": Cost(fixed=8, efficiency=0.3, sampled=9.0e-5),
    "dpo": Cost(fixed=5, efficiency=0.5, token=4.5e-4),  # 3.5 times the reward model's seconds, side by side
    "ppo": Cost(fixed=10, efficiency=0.5, token=3.1e-4, sampled=5.0e-4),
    "grpo": Cost(fixed=10, efficiency=0.5, token=2.2e-4, sampled=5.0e-4),
    "evaluate": Cost(fixed=10, efficiency=0.3, sampled=1.3e-4),
    "report": Cost(fixed=4),
    "offer": Cost(fixed=8, efficiency=0.3, sampled=9.0e-5),
    "people": Cost(fixed=1),
    "pool": Cost(fixed=1),
    "match": Cost(fixed=12),
    "best": Cost(fixed=1),
}


@dataclass(frozen=True)
class Step:
    """A row of the plan. ``seconds`` is None where nothing is known of a stage."""

    name: str
    summary: str
    work: Work
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """The plan of a run, in the order in which it runs."""

    steps: tuple[Step, ...]

    def seconds(self) -> dict[str, float]:
        """``plan.json``: the seconds that each stage is expected to take."""
        return {step.name: round(step.seconds, 1) for step in self.steps if step.seconds is not None}

    def details(self) -> dict[str, dict[str, Any]]:
        """All of the plan, for a program to read."""
        return {
            step.name: {
                "tokens": step.work.tokens + step.work.sampled,
                "parameters": step.work.parameters,
                "products": step.work.products,
                "minutes": None if step.seconds is None else round(step.seconds / 60, 2),
            }
            for step in self.steps
        }


def predict(recipe: Recipe) -> dict[str, float]:
    """The minutes that each stage of ``recipe`` is expected to take on this machine."""
    return {name: seconds / 60 for name, seconds in make_plan(recipe, measure()).seconds().items()}


def make_plan(recipe: Recipe, speed: Speed) -> Plan:
    """The plan of all of a recipe's stages on a machine of this speed."""
    works = workloads(recipe)
    return Plan(
        tuple(
            Step(i.name, i.stage.summary, works.get(i.name, Work()), _seconds(i.stage.name, works.get(i.name), speed))
            for i in recipe.instances
        )
    )


def _seconds(stage: str, work: Work | None, speed: Speed) -> float | None:
    if work is None or stage not in COSTS:
        return None
    cost = COSTS[stage]
    plain = cost.fixed + cost.plain * work.plain
    products = work.products / (speed.products * cost.efficiency)
    tokens = work.tokens * cost.token + work.sampled * cost.sampled
    return plain * REFERENCE.words / speed.words + products + tokens * REFERENCE.products / speed.products


def measure() -> Speed:
    """Measure this machine for about half a second, with matrices of the size that small models multiply."""
    import torch  # takes seconds to import, which the command line's help need not wait for

    from chatwright.training import runtime

    device = runtime.prepare()
    dtype = runtime.resolve("auto", device)
    rows_ND, weights_DD = (
        torch.ones(4096, 512, dtype=dtype, device=device),
        torch.ones(512, 512, dtype=dtype, device=device),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that wait for each other tell more of a busy neighbour than of the machine
    try:
        products = 2.0 * rows_ND.numel() * len(weights_DD)
        one = runtime.best_rate(lambda: float((rows_ND @ weights_DD)[0, 0]), products, SECONDS)
    finally:
        torch.set_num_threads(threads)
    text = "the quick brown fox jumps over the lazy dog " * 2000
    words = runtime.best_rate(lambda: Counter(text.split()), 9 * 2000, SECONDS)
    return Speed(one * (threads if device.type == "cpu" else 1), words)


def show(plan: Plan, wanted: Collection[str], done: Collection[str] = ()) -> None:
    """Print the plan of the stages in ``wanted``; those in ``done`` cost nothing more."""
    table = Table(title="The plan", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("what")
    for column in ("tokens", "parameters", "minutes"):
        table.add_column(column, justify="right")
    for step in plan.steps:
        if step.name in wanted:
            expected = "done" if step.name in done else _minutes(step.seconds)
            tokens = _short(step.work.tokens + step.work.sampled)
            table.add_row(step.name, step.summary, tokens, _short(step.work.parameters), expected)
    left = sum(s.seconds or 0.0 for s in plan.steps if s.name in wanted and s.name not in done)
    table.add_row("together", "", "", "", _minutes(left), style="bold")
    console.print(table)


def show_actual(plan: Plan, made: Mapping[str, Manifest]) -> None:
    """Print what was predicted beside what the stages in ``made`` really took."""
    table = Table(title="Minutes", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    for column in ("predicted", "actual", "peak memory"):
        table.add_column(column, justify="right")
    predicted = plan.seconds()
    for name, manifest in made.items():
        memory = f"{manifest.peak_memory_mib:,} MiB"
        table.add_row(name, _minutes(predicted.get(name)), _minutes(manifest.seconds), memory)
    expected = sum(predicted.get(name, 0.0) for name in made)
    most = max(manifest.peak_memory_mib for manifest in made.values())
    actual = sum(manifest.seconds for manifest in made.values())
    table.add_row("together", _minutes(expected), _minutes(actual), f"{most:,} MiB", style="bold")
    console.print(table)


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


def _short(number: float) -> str:
    """2.6M, 340k, or nothing for 0."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}" if number else ""
