"""Figures of the reward model's report: accuracy by source and length, calibration, probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from chatwright.evaluation.palette import FAINT, INK, hue
from chatwright.evaluation.plots import STYLE, WIDTH
from chatwright.evaluation.runs import StageRun
from chatwright.storage import read_json

REPORT = "report.json"  # in the folder of the stage examine


def accuracy_figure(report: Mapping[str, Any]) -> Figure:
    """Pairs in order with their intervals, of all, by source and by length; hollow: the rule "longer is better"."""
    rows = [("all pairs", report["accuracy"]), *report["by_source"].items(), *report["by_length"].items()]
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.27 * len(rows)), layout="constrained")
        axis = figure.subplots()
        names = [f"{name or 'no source'} ({part['pairs']:,})" for name, part in rows]
        _points(axis, [part for _, part in rows], hue("reward"), "o", "reward model")
        values = [part["length_rule"]["value"] for _, part in rows]
        axis.scatter(
            values, range(len(rows)), s=22, facecolor="none", edgecolor=INK, label="the longer answer", zorder=3
        )
        axis.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        axis.set_yticks(range(len(rows)), names)
        axis.invert_yaxis()
        axis.set_title("Pairs in the order of their label")
        axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def calibration_figure(report: Mapping[str, Any]) -> Figure:
    """Share of the pairs that are right by how sure the scores are; on the line they are as sure as they may be."""
    bins = report["calibration"]["bins"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 2, 2.7), layout="constrained")
        axis = figure.subplots()
        axis.plot([0.5, 1], [0.5, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        for part in bins:
            axis.plot([part["confidence"]] * 2, part["interval"], color=hue("reward"), linewidth=1, alpha=0.6)
        axis.plot([p["confidence"] for p in bins], [p["value"] for p in bins], color=hue("reward"), marker="o", ms=3.5)
        axis.set_title(f"Right, by confidence (ECE {report['calibration']['ece']:.3f})")
        axis.set_xlabel("sigmoid of the difference of scores")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(PercentFormatter(xmax=1))
    return figure


def probes_figure(report: Mapping[str, Any]) -> Figure | None:
    """What each probe adds to an answer's score."""
    probes = report["probes"]
    if not probes:
        return None
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(probes)), layout="constrained")
        axis = figure.subplots()
        _points(axis, list(probes.values()), hue("reward"), "o", "")
        axis.axvline(0, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        axis.set_yticks(range(len(probes)), list(probes))
        axis.margins(y=0.2)
        axis.invert_yaxis()
        axis.set_title("Added to the score, in standard deviations of answers")
    return figure


def _points(axis: Any, parts: Sequence[Mapping[str, Any]], color: str, marker: str, label: str) -> None:
    for y, part in enumerate(parts):
        if part["interval"] is not None:
            axis.plot(part["interval"], [y, y], color=color, linewidth=1.4)
    axis.scatter([part["value"] for part in parts], range(len(parts)), s=24, marker=marker, color=color, label=label)


FIGURES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Figure | None], str]] = {
    "accuracy": (accuracy_figure, "Accuracy of the reward model and of the length rule, by source and by length"),
    "calibration": (calibration_figure, "Share of pairs in order by the confidence of the scores"),
    "probes": (probes_figure, "What length, repetition, flattery and form add to a score"),
}


def of_runs(runs: Mapping[str, StageRun]) -> dict[str, tuple[Figure | None, str]]:
    """The figures for a page about a whole run, by name, each with its description."""
    if "examine" not in runs:
        return {}
    report = read_json(runs["examine"].folder / REPORT)
    return {f"reward_{name}": (draw(report), description) for name, (draw, description) in FIGURES.items()}
