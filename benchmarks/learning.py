"""How fast models learn, in tokens: two recipes at equal FLOPs, and bfloat16 beside float32. Three seeds each.

    chatwright run recipes/atlas.toml --until shards
    python benchmarks/learning.py speed --run runs/atlas --plot docs/images/learning.png   # half an hour, two cores
    python benchmarks/learning.py precision --run runs/atlas                               # twenty minutes

``speed``: `gpt2` with AdamW, its learning rate chosen among three on half as many steps, against `modern` with Muon as
the atlas recipe has it, trained for a part of the tokens. Both have 4 layers, width 192, equally many weights in their
blocks and the same tokens in the same order; each length has a learning-rate schedule of its own, since a loss in
the middle of a schedule is no model's final one. ``precision``: 300 steps of one recipe in bfloat16 and in float32.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from chatwright.model.config import parameter_count
from chatwright.model.cost import train_flops
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.batches import Ahead
from chatwright.training.heldout import bits_per_byte
from chatwright.training.language import language_parts
from chatwright.training.loop import gradient, update
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import ParallelConfig, lay_out
from chatwright.training.pretrain import new_model, open_shard, open_windows
from chatwright.training.runtime import Precision, prepare, resolve
from chatwright.training.schedules import ScheduleConfig
from measure import outcome

ROWS, CONTEXT, STEPS = 16, 256, 400
SIZES: dict[str, Any] = {"context": CONTEXT, "layers": 4, "d_model": 192}
MODERN: dict[str, Any] = {"preset": "modern", **SIZES, "heads": 3, "kv_heads": 1, "d_head": 64, "d_ff": 512}
GPT2: dict[str, Any] = {"preset": "gpt2", **SIZES, "heads": 3, "d_ff": 640}
MUON = OptimConfig(kind="muon")
RATES = (1e-3, 2e-3, 4e-3)
SHARES = (0.4, 0.6)
SEEDS = (1, 2, 3)
TARGET = 1 / 0.6

Curve = list[tuple[int, float]]


def train(run: Path, table: dict[str, Any], optim: OptimConfig, precision: Precision, seed: int, steps: int) -> Curve:
    """(tokens, held-out bits per byte) along a training of ``steps`` steps."""
    device = prepare()
    layout = lay_out(ParallelConfig(), device, resolve(precision, device))
    tokenizer = Tokenizer.load(run / "tokenizer")
    heldout = open_shard(run / "shards", "heldout", tokenizer).tokens
    rows = Ahead(open_windows(open_shard(run / "shards", "train", tokenizer), CONTEXT, seed), pin=False)
    config = preset(
        table["preset"], vocab_size=tokenizer.vocab_size, **{k: v for k, v in table.items() if k != "preset"}
    )
    model, trained = new_model(config, optim, layout, seed)
    schedule = ScheduleConfig()
    curve: Curve = []
    for step in range(steps):
        parts = language_parts(model, rows, step * ROWS, ROWS, micro_batch=ROWS, precision=precision, layout=layout)
        gradient(trained, parts, optim.clip)
        update(trained, schedule.multiplier(step, steps))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            bits = bits_per_byte(model, tokenizer, heldout, sample=32_768, precision=precision)
            curve.append(((step + 1) * ROWS * CONTEXT, bits))
    name = f"{table['preset']} {optim.kind} {optim.lr:g} {precision} seed {seed}, {steps} steps"
    per_token = train_flops(config, 1) / 1e6
    print(
        f"  {name}: {curve[-1][1]:.4f} bits per byte; {parameter_count(config):,} parameters, "
        f"{per_token:.1f} MFLOP a token",
        file=sys.stderr,
        flush=True,
    )
    return curve


def speed(run: Path, plot: Path | None) -> list[dict[str, object]]:
    """The share of the tokens in which the modern model gets as low as GPT-2 ends."""

    def gpt2(rate: float, seed: int, steps: int) -> Curve:
        return train(run, GPT2, OptimConfig(kind="adamw", lr=rate), "auto", seed, steps)

    tried = {rate: gpt2(rate, SEEDS[0], STEPS // 2)[-1][1] for rate in RATES}
    best = min(tried, key=lambda rate: tried[rate])
    baseline = [gpt2(best, seed, STEPS) for seed in SEEDS]
    modern = {
        share: [train(run, MODERN, MUON, "auto", seed, round(share * STEPS)) for seed in SEEDS] for share in SHARES
    }
    needed = []
    for number, reference in enumerate(baseline):
        ends = [(share, modern[share][number][-1][1]) for share in SHARES]
        needed.append(_share_at(ends, reference[-1][1]))
        print(f"  seed {SEEDS[number]}: GPT-2 {reference[-1][1]:.4f}; modern {ends}; share {needed[-1]:.2f}")
    if plot is not None:
        draw(plot, baseline, modern, best)
    worst = max(needed)
    name = f"tokens to the loss of gpt2 + AdamW (lr {best:g}), worst of {len(SEEDS)} seeds"
    return [
        {
            "name": name,
            "ours": round(worst * STEPS * ROWS * CONTEXT),
            "peer": STEPS * ROWS * CONTEXT,
            "peer_version": f"torch {torch.__version__}",
            "ratio": 1 / worst,
            "target": TARGET,
            "ok": worst <= 1 / TARGET,
        }
    ]


def _share_at(ends: Sequence[tuple[float, float]], goal: float) -> float:
    """The share at which the line through (share, final loss) falls to ``goal``; inf when it does not."""
    if ends[0][1] <= goal:
        return ends[0][0]
    for (a, high), (b, low) in itertools.pairwise(ends):
        if low <= goal:
            return a + (b - a) * (high - goal) / (high - low)
    return float("inf")


def precision(run: Path, plot: Path | None) -> list[dict[str, object]]:
    """Whether bfloat16 ends where float32 ends, within the spread of the seeds; AdamW, 300 steps of real text."""
    del plot
    optim = OptimConfig(kind="adamw", lr=2e-3)
    curves = {
        kind: [train(run, GPT2, optim, kind, seed, 300) for seed in SEEDS]  # type: ignore[arg-type]
        for kind in ("float32", "bfloat16")
    }
    worst = 0.0
    for place in range(len(curves["float32"][0])):
        exact, low = ([curve[place][1] for curve in curves[kind]] for kind in ("float32", "bfloat16"))
        apart = abs(statistics.mean(exact) - statistics.mean(low))
        noise = statistics.stdev(exact)
        worst = max(worst, apart / noise)
        print(
            f"  step {(place + 1) * 50}: float32 {exact}, bfloat16 {low}: {apart / noise:.2f} of the seeds' deviation"
        )
    return [
        {
            "name": "bfloat16: distance of the loss curve from float32's, in standard deviations over seeds",
            "ours": worst,
            "peer": 1.0,
            "peer_version": f"torch {torch.__version__}",
            "ratio": 1 / worst,
            "target": 1.0,
            "ok": worst <= 1.0,
        }
    ]


def draw(path: Path, baseline: Sequence[Curve], modern: dict[float, list[Curve]], rate: float) -> None:
    """Held-out bits per byte by tokens, every seed a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130)
    for number, curve in enumerate(baseline):
        label = f"gpt2 + AdamW (lr {rate:g})" if number == 0 else None
        axes.plot(*zip(*((t / 1e6, b) for t, b in curve), strict=True), color="#888888", label=label)
    for shade, (share, curves) in zip(("#6baed6", "#08519c"), modern.items(), strict=True):
        for number, curve in enumerate(curves):
            label = f"modern + Muon, {share:.0%} of the tokens" if number == 0 else None
            axes.plot(*zip(*((t / 1e6, b) for t, b in curve), strict=True), color=shade, label=label)
    goal = statistics.mean(curve[-1][1] for curve in baseline)
    axes.axhline(goal, color="#888888", linestyle=":", linewidth=1)
    axes.set(xlabel="training tokens, millions", ylabel="held-out bits per byte")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


EXPERIMENTS: dict[str, Callable[[Path, Path | None], list[dict[str, object]]]] = {
    "speed": speed,
    "precision": precision,
}


def main() -> None:
    """Train, print, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--run", type=Path, required=True, help="a run folder with tokenizer and shards")
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    options = parser.parse_args()
    results = EXPERIMENTS[options.experiment](options.run, options.plot)
    outcome("learning", results)


if __name__ == "__main__":
    main()
