"""The report's figures: every stage's curves, the corpus funnel, the mixture, the PTX tax, drawn with matplotlib.

Figures have a transparent ground. `inline_svg` makes one part of a page; ``figure.savefig("x.png", facecolor="white")``
makes a picture of it.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from chatwright.evaluation.checks import SEEDS, WITHOUT_PTX
from chatwright.evaluation.palette import FAINT, HUES, INK, hue, variables
from chatwright.evaluation.runs import StageRun, curve
from chatwright.evaluation.words import number
from chatwright.storage import read_json

WIDTH = 7.6  # inches; the page shows it at about 100 px an inch
POINTS = 240  # of a curve; more cannot be seen at this width and would only make the page heavy
KEPT = "kept"
DROP_HUES = [light for name, (light, _) in HUES.items() if name.startswith("drop")]

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.hspace": 0.04,
    "figure.constrained_layout.wspace": 0.04,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
}


@dataclass(frozen=True)
class Line:
    """A curve: points, and how it is drawn."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str
    style: str | tuple[int, tuple[int, int]] = "-"
    alpha: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One small plot: its title says what is on the y axis, ``better`` which way is good."""

    title: str
    lines: Sequence[Line]
    level: tuple[float, str] | None = None
    percent: bool = False


def curves(panels: Sequence[Panel], *, columns: int = 2, height: float = 2.1, points: int = POINTS) -> Figure:
    """Small plots side by side, with one legend for all of them when their lines share names."""
    panels = [panel for panel in panels if any(len(line.steps) for line in panel.lines)]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, points)
        for axis in list(axes)[len(panels) :]:
            axis.set_axis_off()
        for axis in figure.axes[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel("step")
        handles = {
            line.get_label(): line
            for axis in figure.axes
            for line in axis.get_lines()
            if not str(line.get_label()).startswith("_")
        }
        if len(handles) > 1:
            names = [str(name) for name in handles]
            figure.legend(list(handles.values()), names, loc="outside upper left", ncols=len(names), handlelength=1.8)
    return figure


def _draw(axis: Axes, panel: Panel, points: int) -> None:
    for line in panel.lines:
        steps, values = thin(line.steps, line.values, points)
        axis.plot(steps, values, color=line.color, linestyle=line.style, alpha=line.alpha, label=line.label)
    if panel.level is not None:
        value, label = panel.level
        axis.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        axis.annotate(
            label, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right"
        )
    axis.set_title(panel.title)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.margins(x=0.01, y=0.12)
    if panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def thin(steps: Sequence[float], values: Sequence[float], points: int) -> tuple[list[float], list[float]]:
    """At most ``points`` points of a curve, each the mean of a block; the last block keeps the curve's end."""
    size = max(1, -(-len(steps) // points))
    blocks = [range(start, min(start + size, len(steps))) for start in range(0, len(steps), size)]
    return (
        [steps[block[-1]] for block in blocks],
        [sum(values[i] for i in block) / len(block) for block in blocks],
    )


def funnel(rows: Mapping[str, Mapping[str, int]]) -> Figure:
    """One bar a source: what was kept, then what was dropped for each reason, as shares of its documents."""
    reasons = sorted(
        {reason for counts in rows.values() for reason in counts} - {KEPT},
        key=lambda reason: -sum(counts.get(reason, 0) for counts in rows.values()),
    )
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(rows)), layout="constrained")
        axis = figure.subplots()
        names = list(rows)
        left = [0.0] * len(names)
        for i, reason in enumerate([KEPT, *reasons]):
            shares = [rows[name].get(reason, 0) / max(1, sum(rows[name].values())) for name in names]
            color = hue("corpus") if reason == KEPT else DROP_HUES[(i - 1) % len(DROP_HUES)]
            axis.barh(names, shares, left=left, height=0.62, color=color, label=reason)
            left = [a + b for a, b in zip(left, shares, strict=True)]
        for y, name in enumerate(names):
            total, good = sum(rows[name].values()), rows[name].get(KEPT, 0)
            axis.text(1.015, y, f"{good:,} of {total:,}", va="center")
        axis.set_xlim(0, 1.2)
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        figure.legend(loc="outside upper left", ncols=4, handlelength=1, handleheight=1)
    return figure


@dataclass(frozen=True)
class Bar:
    """A horizontal bar and the words at its end."""

    name: str
    value: float
    color: str
    words: str


def bars(rows: Sequence[Bar], *, start: float = 0.0, level: tuple[float, str] | None = None) -> Figure:
    """Horizontal bars that begin at ``start``; ``level`` is a value that they should not pass, and its name."""
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(WIDTH, 0.2 + 0.3 * len(rows) + 0.2 * (level is not None)), layout="constrained")
        axis = figure.subplots()
        axis.barh(
            [row.name for row in rows],
            [row.value - start for row in rows],
            left=start,
            height=0.6,
            color=[row.color for row in rows],
        )
        ends = [row.value for row in rows] + [start] + ([level[0]] if level else [])
        span = max(ends) - min(ends)
        for y, row in enumerate(rows):
            axis.text(max(row.value, start) + 0.012 * span, y, row.words, va="center")
        if level is not None:
            axis.axvline(level[0], color=INK, linewidth=1, linestyle=(0, (2, 2)))
            axis.set_title(level[1], x=(level[0] - min(ends)) / (1.16 * span), fontsize=8, fontweight="normal", pad=3)
        axis.set_xlim(min(ends), min(ends) + 1.16 * span)
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
    return figure


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for a page: its colours become the page's, its text the page's font.

    ``name`` keeps the ids of several figures on one page apart; ``description`` is read to who cannot see it.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), io.StringIO() as stream:
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r"(font: [^;\"]*?)\s*'DejaVu Sans'[^;\"]*", r"\1 var(--sans)", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for color, variable in variables().items():
        svg = svg.replace(color, variable)
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    head = f'<svg role="img" aria-label="{description}" {size.group()} xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :].strip()


def corpus_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """What became of the raw documents of each source."""
    if "corpus" not in runs:
        return None
    columns = ["id", "source", "dropped_by", "piece_of"]
    rows = pq.read_table(runs["corpus"].folder / "documents.parquet", columns=columns).to_pylist()
    cut = {row["piece_of"] for row in rows}
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        if row["piece_of"] is None:  # pieces are not documents that came in
            fate = "kept in part" if row["id"] in cut else (row["dropped_by"] or KEPT).replace("_", " ")
            counts.setdefault(row["source"], Counter())[fate] += 1
    return funnel({source: counts[source] for source in sorted(counts, key=lambda source: -counts[source].total())})


def mixture_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """Each source's share of the training tokens, and how often they go through it."""
    if "shards" not in runs:
        return None
    sources = read_json(runs["shards"].folder / "index.json")["sources"]
    total = sum(source["tokens"] for source in sources.values())
    ordered = sorted(sources.items(), key=lambda item: -item[1]["tokens"])
    return bars(
        [
            Bar(
                name,
                source["tokens"] / total,
                hue("tokenizer"),
                f"{source['tokens'] / total:.0%}, {number(source['epochs'])}×",
            )
            for name, source in ordered
            if source["tokens"]
        ]
    )


def pretrain_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """The loss, and bits per byte of text that training never sees."""
    return _losses(runs, "pretrain", [("loss", "Training loss"), ("bits_per_byte", "Held-out bits per byte")])


def sft_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """Loss on the assistant’s words, in training and on conversations that training never sees."""
    return _losses(
        runs,
        "sft",
        [
            ("loss", "Training loss"),
            ("heldout_loss", "Loss on held-out answers"),
            ("bits_per_byte", "Held-out bits per byte"),
        ],
    )


def reward_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """Ranking loss, and how often the better of two held-out answers gets the higher reward."""
    return _losses(runs, "reward", [("loss", "Ranking loss"), ("heldout_accuracy", "Held-out pairs ordered right")])


def _losses(runs: Mapping[str, StageRun], stage: str, metrics: Sequence[tuple[str, str]]) -> Figure | None:
    """A panel for each metric of a stage."""
    if stage not in runs:
        return None
    lines = runs[stage].metrics()
    return curves(
        [
            Panel(title, [Line("", *curve(lines, name), hue(stage))], percent="accuracy" in name)
            for name, title in metrics
        ],
        columns=len(metrics),
    )


PPO_PANELS = (
    ("gold", "Gold reward"),
    ("proxy", "Proxy reward"),
    ("kl", "KL of an answer (nats)"),
    ("length", "Tokens of an answer"),
    ("eos_rate", "Answers that end"),
    ("entropy", "Entropy of a token (nats)"),
)


def ppo_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """PPO over its steps, a line a seed, without the pretraining mix dashed."""
    lines = {name: runs[name].metrics() for name in (*SEEDS, WITHOUT_PTX) if name in runs}
    if not lines:
        return None

    def draw(name: str, metric: str) -> Line:
        steps, values = curve(lines[name], metric)
        if name == WITHOUT_PTX:
            return Line("without PTX", steps, values, INK, (0, (3, 2)), 0.75)
        seed = SEEDS.index(name)
        return Line(f"seed {seed + 1}", steps, values, hue("ppo"), alpha=(1.0, 0.62, 0.36)[seed])

    return curves(
        [
            Panel(title, [draw(name, metric) for name in lines], percent=metric == "eos_rate")
            for metric, title in PPO_PANELS
        ],
        columns=3,
        height=1.75,
        points=40,  # rewards of small batches are noisy: means of a few steps show where they go
    )


def tax_figure(runs: Mapping[str, StageRun]) -> Figure | None:
    """Held-out bits per byte after PPO over before, of every PPO run that measured them."""
    names = [name for name in (*SEEDS, WITHOUT_PTX) if name in runs and "ptx_tax" in runs[name].headline]
    if not names:
        return None
    taxes = {name: runs[name].headline["ptx_tax"] for name in names}
    return bars(
        [
            Bar(
                "without PTX" if name == WITHOUT_PTX else f"with PTX, seed {SEEDS.index(name) + 1}",
                tax,
                FAINT if name == WITHOUT_PTX else hue("ppo"),
                f"{tax:.3f}",
            )
            for name, tax in taxes.items()
        ],
        start=1.0,
        level=(1.03, "at most 1.03"),
    )


FIGURES: Mapping[str, tuple[Callable[[Mapping[str, StageRun]], Figure | None], str]] = {
    "corpus": (corpus_figure, "Documents kept and dropped, by source and reason"),
    "mixture": (mixture_figure, "Share of the training tokens and number of repetitions, by source"),
    "pretrain": (pretrain_figure, "Training loss and held-out bits per byte over the steps of pretraining"),
    "sft": (sft_figure, "Training and held-out loss over the steps of fine-tuning"),
    "reward": (reward_figure, "Ranking loss and held-out accuracy over the steps of the reward model"),
    "ppo": (ppo_figure, "Gold reward, proxy reward, KL, length, end-of-turn rate and entropy over the steps of PPO"),
    "tax": (tax_figure, "Bits per byte after PPO over before, with and without the pretraining mix"),
}
