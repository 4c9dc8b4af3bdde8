"""What the stages of a run left, read back: manifests, headline metrics, curves. A missing stage is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatwright.stage import Inputs, read_metrics
from chatwright.storage import read_json


@dataclass(frozen=True)
class StageRun:
    """A finished stage: its folder and its manifest."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The stage's key: a hash of its config, its inputs' keys and its version."""
        return self.manifest["key"]

    @property
    def inputs(self) -> Mapping[str, str]:
        """The keys of the stages that it read, by their names."""
        return self.manifest["inputs"]

    @property
    def headline(self) -> dict[str, Any]:
        """Its headline metrics."""
        return self.manifest["headline"]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of its metrics.jsonl."""
        return read_metrics(self.folder)


def stage_runs(inputs: Inputs) -> dict[str, StageRun]:
    """The finished stages among ``inputs``, in the order in which each comes after what it read."""
    found = {
        name: StageRun(name, folder, read_json(folder / "manifest.json"))
        for name, folder in inputs.items()
        if (folder / "manifest.json").is_file()
    }
    ordered: dict[str, StageRun] = {}

    def visit(name: str) -> None:
        if name in found and name not in ordered:
            for source in found[name].inputs:
                visit(source)
            ordered[name] = found[name]

    for name in found:
        visit(name)
    return ordered


def curve(metrics: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, from the lines that have it."""
    points = [(line["step"], line[name]) for line in metrics if name in line]
    return [step for step, _ in points], [value for _, value in points]
