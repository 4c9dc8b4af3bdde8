"""A picture of each experiment, in the style of the report's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from chatwright.evaluation.palette import FAINT, INK, hue
from chatwright.evaluation.plots import STYLE, WIDTH

SIZES = {"many": ("reward", "1,500 comparisons"), "few": ("sft", "100 comparisons")}
METHODS = {"ppo": "PPO, no KL penalty", "best_of_n": "Best of n"}


def _figure(columns: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False).flat)


def _level(axis: Axes, value: float, label: str) -> None:
    axis.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    where = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
    axis.annotate(label, (1, value), ha="right", color=FAINT, **where)


def overoptimisation(results: Mapping[str, Any]) -> Figure:
    """Gold (whole lines, with Gao's fit) and proxy (dashed) over sqrt(KL)."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2, 3.1)
        for axis, (method, title) in zip(axes, METHODS.items(), strict=True):
            for size, (stage, label) in SIZES.items():
                found = results[size][method]
                for number, curve in enumerate(found["curves"]):
                    d = [p["d"] for p in curve]
                    first = number == 0
                    name = f"gold, {label}" if first else None
                    axis.plot(d, [p["gold"] for p in curve], color=hue(stage), alpha=0.55, linewidth=1, label=name)
                    name = f"proxy, {label}" if first else None
                    dashed = {"linestyle": (0, (2, 2)), "linewidth": 1, "alpha": 0.55}
                    axis.plot(d, [p["proxy"] for p in curve], color=hue(stage), label=name, **dashed)
                _fit(axis, method, found, hue(stage))
            axis.set_title(f"{title}: SFT’s standard deviations")
            axis.set_xlabel("square root of the KL from SFT (nats)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=4, handlelength=1.8)
    return figure


def _fit(axis: Axes, method: str, found: Mapping[str, Any], color: str) -> None:
    end = max(p["d"] for curve in found["curves"] for p in curve)
    d = np.linspace(1e-3, end, 200)
    alpha, beta = found["fit"]["alpha"], found["fit"]["beta"]
    fitted = d * (alpha - beta * np.log(d)) + found["fit"]["zero"] if method == "ppo" else d * (alpha - beta * d)
    axis.plot(d, fitted, color=color, linewidth=2.4)


def tax(results: Mapping[str, Any]) -> Figure:
    """What was gained against what was lost, a point a seed."""
    styles = {
        "plain": ("sft", "o", "β 0.05, no mix"),
        "ptx": ("ppo", "D", "β 0.05, γ 1"),
        "kl 0.25": ("pretrain", "^", "β 0.25, no mix"),
        "kl 1": ("reward", "s", "β 1, no mix"),
    }
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure, (axis,) = _figure(1, 3.2)
        for name, (stage, marker, label) in styles.items():
            taxes = [value - 1 for value in results[name]["ptx_tax"]["seeds"]]
            gains = results[name]["gold_gain"]["seeds"]
            axis.plot(taxes, gains, marker, color=hue(stage), markersize=5, label=label)
            mean = results[name]["ptx_tax"]["mean"] - 1, results[name]["gold_gain"]["mean"]
            axis.plot(*mean, marker, color=hue(stage), markersize=11, fillstyle="none")
        axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axis.set_title("Gold reward gained, in SFT’s standard deviations (large marks: means of three seeds)")
        axis.set_xlabel("alignment tax: rise of the bits per byte of held-out pretraining text")
        figure.legend(loc="outside upper left", ncols=4, handlelength=1)
    return figure


def in_rounds(results: Mapping[str, Any]) -> Figure:
    """Gold, wins over SFT and accuracy after each round, by the comparisons so far."""
    panels = (
        ("gold", "Gold reward"),
        ("win_rate_sft", "Wins over SFT"),
        ("reward_accuracy", "Reward model’s accuracy"),
    )
    three = [value for name, value in results.items() if name.startswith("three, round")]
    one = results["one, round 1"]
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3, 2.4)
        for axis, (key, title) in zip(axes, panels, strict=True):
            for seed in range(len(one[key]["seeds"])):
                x = [row["comparisons"]["seeds"][seed] for row in three]
                y = [row[key]["seeds"][seed] for row in three]
                axis.plot(x, y, "o-", color=hue("ppo"), alpha=0.45, markersize=3, linewidth=1)
            x = [row["comparisons"]["mean"] for row in three]
            y = [row[key]["mean"] for row in three]
            axis.plot(x, y, "o-", color=hue("ppo"), markersize=5, label="three rounds")
            at = one["comparisons"]["seeds"]
            axis.plot(at, one[key]["seeds"], "D", color=hue("sft"), alpha=0.45, markersize=3)
            at = one["comparisons"]["mean"]
            axis.plot([at], [one[key]["mean"]], "D", color=hue("sft"), markersize=7, label="one round of all")
            axis.set_title(title)
            axis.set_xlabel("prompts compared so far")
            if key != "gold":
                axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, handlelength=1.8)
    return figure


def small_vs_large(results: Mapping[str, Any]) -> Figure:
    """Wins of each model over the larger one."""
    names = {"small": "small, few-shot", "sft": "small, SFT", "ppo": "small, SFT and PPO"}
    hues = {"small": "pretrain", "sft": "sft", "ppo": "ppo"}
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x", "axes.spines.bottom": False}):
        figure, axes = _figure(2, 1.9)
        for axis, temperature in zip(axes, ("0", "1"), strict=True):
            rows = results[f"temperature {temperature}"]
            for y, name in enumerate(names):
                wins = rows[name]["wins_over_large"]
                axis.barh(y, wins["mean"], height=0.55, color=hue(hues[name]))
                axis.plot(wins["seeds"], [y] * len(wins["seeds"]), "|", color=INK, markersize=9)
            axis.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (2, 2)))
            axis.set_yticks(range(len(names)), list(names.values()))
            axis.invert_yaxis()
            axis.set_xlim(0, 1)
            axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
            axis.set_title(f"Temperature {temperature}")
            axis.set_xlabel("wins over the large model, few-shot")
    return figure


def demonstrations(results: Mapping[str, Any]) -> Figure:
    """Gold and wins over the recipe's SFT model by the number of demonstrations."""
    counts = [int(count) for count in results]
    panels = (("wins", "Wins over SFT on all demonstrations", 0.5), ("gold", "Gold reward", None))
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2, 2.5)
        for axis, (key, title, level) in zip(axes, panels, strict=True):
            rows = [results[str(count)][key] for count in counts]
            for count, row in zip(counts, rows, strict=True):
                axis.plot([count] * len(row["seeds"]), row["seeds"], "o", color=hue("sft"), alpha=0.45, markersize=4)
            axis.plot(counts, [row["mean"] for row in rows], color=hue("sft"))
            axis.set_xscale("log")
            axis.set_xticks(counts)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel("demonstrations")
            axis.set_title(title)
            if level is not None:
                _level(axis, level, "no difference")
                axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "overoptimisation": overoptimisation,
    "tax": tax,
    "rounds": in_rounds,
    "small_vs_large": small_vs_large,
    "demonstrations": demonstrations,
}
