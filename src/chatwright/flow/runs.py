"""``chatwright runs``: the runs in a folder at a glance, and two or more of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatwright.errors import UserError
from chatwright.flow.folder import LOCK, RUN, finished, read_run
from chatwright.flow.manifest import Manifest, read_in_progress
from chatwright.stage import read_metrics

SHOWN = ("bits_per_byte", "heldout_loss", "accuracy", "gold_gain", "holds", "fails")  # of the headlines, in the list


@dataclass(frozen=True)
class Run:
    """A run's folder and what is in it."""

    folder: Path
    recipe: str
    stages: dict[str, Manifest | None]
    at: str | None  # the stage that was begun and is not finished
    step: int | None  # how far that stage's log goes
    seconds: float
    changed: datetime

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder. UserError when it is none."""
        stages = finished(folder)
        undone = [name for name, made in stages.items() if made is None]
        at = next((name for name in undone if read_in_progress(folder / name) is not None), None)
        lines = read_metrics(folder / at) if at else []
        newest = max(path.stat().st_mtime for path in folder.rglob("*") if path.name != LOCK)
        return cls(
            folder=folder,
            recipe=read_run(folder)["recipe"],
            stages=stages,
            at=at,
            step=lines[-1]["step"] if lines else None,
            seconds=sum(made.seconds for made in stages.values() if made is not None),
            changed=datetime.fromtimestamp(newest, UTC),
        )

    @property
    def done(self) -> list[str]:
        """The stages that are finished."""
        return [name for name, made in self.stages.items() if made is not None]

    def headlines(self) -> dict[str, Any]:
        """``stage.metric`` of every finished stage."""
        return {
            f"{name}.{metric}": value
            for name, made in self.stages.items()
            if made is not None
            for metric, value in made.headline.items()
        }

    def configs(self) -> dict[str, Any]:
        """``stage.key`` of every finished stage's config."""
        flat: dict[str, Any] = {}
        for name, made in self.stages.items():
            if made is not None:
                _flatten(name, made.config, flat)
        return flat

    def as_json(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "folder": str(self.folder),
            "recipe": self.recipe,
            "done": self.done,
            "stages": list(self.stages),
            "at": self.at,
            "step": self.step,
            "seconds": self.seconds,
            "changed": self.changed.isoformat(timespec="seconds"),
            "headlines": self.headlines(),
        }


def find(folders: Sequence[Path]) -> list[Run]:
    """The runs that are, or lie directly in, the folders, the newest last. UserError when there are none."""
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; make a run with: chatwright run RECIPE")
        inside = [folder] if (folder / RUN).is_file() else [f.parent for f in sorted(folder.glob(f"*/{RUN}"))]
        if not inside:
            raise UserError(f"There is no run in {folder}; make one with: chatwright run RECIPE")
        found |= {run: Run.read(run) for run in inside}
    return sorted(found.values(), key=lambda run: run.changed)


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Where the configs of runs differ, and every headline number beside the others'."""
    configs, headlines = [run.configs() for run in runs], [run.headlines() for run in runs]
    settings = {key: [config.get(key) for config in configs] for config in configs for key in config}
    return {
        "runs": [str(run.folder) for run in runs],
        "settings": {key: values for key, values in settings.items() if any(value != values[0] for value in values)},
        "headlines": {key: [line.get(key) for line in headlines] for headline in headlines for key in headline},
    }


def show_list(runs: Sequence[Run]) -> None:
    """Print the runs, one a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "recipe", "done", "now at", "minutes", "changed (UTC)", "so far"):
        table.add_column(column)
    for run in runs:
        numbers = [
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in run.headlines().items()
            if key.partition(".")[2] in SHOWN and "@" not in key and not key.startswith("report.")
        ]
        at = "" if run.at is None else run.at if run.step is None else f"{run.at}, step {run.step}"
        table.add_row(
            str(run.folder),
            run.recipe,
            f"{len(run.done)} of {len(run.stages)}",
            at,
            f"{run.seconds / 60:.1f}",
            f"{run.changed:%Y-%m-%d %H:%M}",
            ", ".join(numbers),
        )
    Console(highlight=False).print(table)


def show_comparison(compared: dict[str, Any]) -> None:
    """Print the runs side by side: first where their settings differ, then the numbers that came out."""
    console = Console(highlight=False)
    for title, part in (("settings that differ", "settings"), ("results", "headlines")):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("")
        for folder in compared["runs"]:
            table.add_column(folder, justify="right")
        for key, values in compared[part].items():
            table.add_row(key, *(_cell(value) for value in values))
        if table.row_count:
            console.print(table)
        else:
            console.print(f"{title}: none")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flatten(prefix: str, value: object, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(f"{prefix}.{key}", inner, into)
    else:
        into[prefix] = value
