"""The stage contract: what a stage is, and the log and progress that every stage writes.

A stage is a function ``(config, inputs, out) -> headline``. It reads the folders in ``inputs``, writes only into
``out``,
and returns its headline metrics. `chatwright.flow` decides when it runs, keeps its manifest and never calls it when its
key is already done. Called again after a kill with the same ``out``, it resumes from what it left there; the flow
removes `PARTS` once the stage is done.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chatwright.storage import digest

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PARTS = "parts"  # in a stage's folder: what it will not make again if it is killed (see `chatwright.training.parts`)

Inputs = Mapping[str, Path]
Headline = dict[str, Any]


class StageConfig(BaseModel):
    """Base of every stage's config: immutable, unknown keys and numbers that are not finite refused, written whole into
    the manifest.

    ``not_in_key`` names the fields that say how a stage is run and not what it makes; they do not change its key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    not_in_key: ClassVar[frozenset[str]] = frozenset()

    seed: int = 1

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Which of its stage's inputs a stage of this config reads; all of them, unless a config knows better."""
        return inputs

    def counted(self) -> dict[str, Any]:
        """The fields that change what the stage makes."""
        return self.model_dump(exclude=set(self.not_in_key))

    def reads(self, inputs: tuple[str, ...]) -> dict[str, str]:
        """For each of the inputs that are `wanted`, the instance that plays its part."""
        return {name: name for name in self.wanted(inputs)}

    def hash(self) -> str:
        """A hash of those fields, paths by their names."""
        return digest(self.model_dump(mode="json", exclude=set(self.not_in_key)))


@dataclass(frozen=True)
class Stage:
    """A stage of the road.

    name: also its command and its table in a recipe.
    version: raise it when the same config and inputs would give another result; it is part of the key.
    config: the stage's config class. inputs: names of the stages it reads. run: ``(config, inputs, out) -> headline``.
    summary: one line for the help and the plan. together: whether all the processes that torchrun started run it;
    otherwise the first one does, and the others wait. optional: whether only recipes that name it have it, in `stages`
    or with a table of its own.
    """

    name: str
    version: int
    config: type[StageConfig]
    inputs: tuple[str, ...]
    run: Callable[[Any, Inputs, Path], Headline]
    summary: str
    together: bool = False
    optional: bool = False


EVENTS = "tensorboard"  # a stage's folder of TensorBoard's event files


class MetricsLog:
    """``metrics.jsonl`` of a stage: one flat JSON object a line. A resumed stage first drops what it will log again.

    Where TensorBoard is installed, its event files are written too.
    """

    def __init__(self, out: Path, resume_step: int = 0, *, write: bool = True) -> None:
        """Open ``out/metrics.jsonl`` and keep only lines whose ``step`` is at most ``resume_step``.

        write: false in all but one of the processes that run a stage together.
        """
        self.path = out / "metrics.jsonl"
        self._write = write
        if not write:
            return
        kept = []
        if self.path.exists() and resume_step > 0:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break  # the kill hit the middle of a line
                if record.get("step", 0) <= resume_step:
                    kept.append(line + "\n")
        self.path.write_text("".join(kept), encoding="utf-8")
        self._events = _event_writer(out / EVENTS, resume_step)

    def log(self, step: int, **metrics: float | int | str) -> None:
        """Append one line; ``step`` counts from 1."""
        if not self._write:
            return
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(name, value, step)
            self._events.flush()


def _event_writer(folder: Path, resume_step: int) -> SummaryWriter | None:
    """A writer of TensorBoard's events that hides those after ``resume_step``; None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    if resume_step == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's ``metrics.jsonl``; empty when it has none."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # of many processes one speaks


class ProgressBar:
    """Moves a bar and the short text beside it."""

    def __init__(self, progress: Progress | None, total: int, title: str) -> None:
        self._progress = progress
        self._total = total
        self._title = title
        self._done = 0
        self._printed = time.monotonic()
        self._started = time.monotonic()
        self._first: int | None = None
        self._task = None if progress is None else progress.add_task(title, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done, with a short text such as the loss or the rate."""
        if self._first is None:
            self._first = self._done
        self._done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed > 15:  # no terminal: a line now and then
            self._printed = time.monotonic()
            elapsed = self._printed - self._started
            left = elapsed / max(1, done - self._first) * (self._total - done)
            console.print(
                f"  {self._title} {done}/{self._total} {note} ({elapsed:.0f} s, about {left:.0f} s left)",
                highlight=False,
            )


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[ProgressBar]:
    """A progress bar on standard error with rate and time left; plain lines where there is no terminal."""
    if not console.is_terminal or os.environ.get("CHATWRIGHT_QUIET"):
        yield ProgressBar(None, total, title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield ProgressBar(progress, total, title)


def say(message: str) -> None:
    """A line for the person at the terminal, on standard error."""
    console.print(message, highlight=False, soft_wrap=True)
    sys.stderr.flush()
