"""A road of small stages that do next to nothing, and a recipe for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chatwright.flow import planner
from chatwright.stage import Stage, StageConfig


class TextConfig(StageConfig):
    """Of the first stage."""

    words: int = 3
    files: tuple[Path, ...] = ()


class ModelConfig(StageConfig):
    """A table within a table."""

    layers: int = 2
    wide: bool = False


class TrainConfig(StageConfig):
    """Of the others."""

    steps: int = 10
    rate: float = 0.1
    model: ModelConfig = ModelConfig()


class FakeRoad:
    """Stages that write down that they ran, and of which one can be broken off."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.die_in: str | None = None
        self.versions: dict[str, int] = {}

    def stages(self) -> dict[str, Stage]:
        """text -> train -> tune -> evaluate -> report; ``other`` stands beside train."""
        return {
            stage.name: stage
            for stage in (
                self._stage("text", TextConfig, ()),
                self._stage("train", TrainConfig, ("text",)),
                self._stage("other", TrainConfig, ("text",)),
                self._stage("tune", TrainConfig, ("train", "text")),
                self._stage("evaluate", StageConfig, ("train",)),
                self._stage("report", StageConfig, ()),
            )
        }

    def _stage(self, name: str, config: type[StageConfig], inputs: tuple[str, ...]) -> Stage:
        def run(settings: StageConfig, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
            self.ran.append(out.name)
            found = sorted(p.name for p in out.iterdir() if p.name != "in_progress.json")
            read = [f"{name}={(folder / 'result.txt').read_text()}" for name, folder in folders.items()]
            (out / "first.txt").write_text("\n".join(read))
            (out / "parts").mkdir(exist_ok=True)
            (out / "parts" / "00000000.jsonl").write_text("{}\n")
            if self.die_in == out.name:
                raise KeyboardInterrupt
            (out / "deep").mkdir(exist_ok=True)
            (out / "deep" / "log.txt").write_text("some lines")
            (out / "result.txt").write_text(f"{out.name} of {settings.seed}")
            return {"inputs": sorted(folders), "found": found}

        return Stage(name, self.versions.get(name, 1), config, inputs, run, f"the stage {name}")


@pytest.fixture
def road(monkeypatch: pytest.MonkeyPatch) -> FakeRoad:
    """The road, with a machine that need not be measured."""
    monkeypatch.setattr(planner, "measure", lambda: planner.REFERENCE)
    return FakeRoad()


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe with two tables and a variant."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nseed = 7\nquestions = [["Hello!"], ["One?", "Two?"]]\n\n'
        "[train]\nsteps = 20\nmodel.layers = 3\n\n"
        "[tune]\nseed = 1\n\n[tune.variants.seed2]\nseed = 2\nmodel.wide = true\n"
    )
    return path
