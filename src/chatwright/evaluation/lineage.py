"""The lineage of a run as a picture: its stages in order, and an arc from each to every stage that read it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from chatwright.evaluation.palette import variable
from chatwright.evaluation.runs import StageRun

ROW = 30  # height of a row
ARCS = 190  # width of the part with the arcs
WIDTH = 760


def lineage_svg(runs: Mapping[str, StageRun]) -> str:
    """An arc diagram: one row a stage with its key, arcs on the left from what was read to what read it."""
    y_of = {name: ROW * i + ROW / 2 for i, name in enumerate(runs)}
    longest = max((y_of[name] - y_of[source] for name in runs for source in _sources(name, runs)), default=ROW)
    arcs = [
        _arc(source, y_of[source], y_of[name], longest, f"{source} → {name}")
        for name in runs
        for source in _sources(name, runs)
    ]
    rows = [
        _row(
            stage, y_of[name], "all of the above" if _reads_all(name, runs) else ", ".join(stage.inputs) or "raw input"
        )
        for name, stage in runs.items()
    ]
    height = ROW * len(runs)
    return (
        f'<svg class="lineage" role="img" aria-label="Which stage read which" viewBox="0 0 {WIDTH} {height}">'
        + "".join(arcs + rows)
        + "</svg>"
    )


def _sources(name: str, runs: Mapping[str, StageRun]) -> list[str]:
    """What a stage read; nothing for one that reads all before it: an arc from everywhere tells nothing."""
    return [] if _reads_all(name, runs) else [source for source in runs[name].inputs if source in runs]


def _reads_all(name: str, runs: Mapping[str, StageRun]) -> bool:
    before = list(runs)[: list(runs).index(name)]
    return len(before) > 2 and set(before) <= set(runs[name].inputs)


def _arc(source: str, top: float, bottom: float, longest: float, title: str) -> str:
    # Sizes grow with the root of the distance: short arcs stay visible, long ones stay inside.
    left = ARCS - 12 - (ARCS - 20) * ((bottom - top) / longest) ** 0.6 * 4 / 3
    return (
        f'<path d="M {ARCS} {top:.0f} C {left:.1f} {top:.0f}, {left:.1f} {bottom:.0f}, {ARCS} {bottom:.0f}" '
        f'fill="none" stroke="{variable(source)}" stroke-width="1.6" stroke-opacity="0.55">'
        f"<title>{escape(title)}</title></path>"
    )


def _row(stage: StageRun, y: float, reads: str) -> str:
    return (
        f'<circle cx="{ARCS}" cy="{y:.0f}" r="5.5" fill="{variable(stage.name)}"/>'
        f'<text x="{ARCS + 16}" y="{y + 4:.0f}"><tspan class="name">{escape(stage.name)}</tspan></text>'
        f'<text x="{ARCS + 130}" y="{y + 4:.0f}" class="key">{escape(stage.key[:16])}</text>'
        f'<text x="{ARCS + 270}" y="{y + 4:.0f}" class="reads">reads {escape(reads)}</text>'
    )
