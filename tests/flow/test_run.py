"""Runs: done is skipped, broken is resumed, changed is made anew, and a foreign folder is left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.flow.folder import finished
from chatwright.flow.manifest import read_in_progress, read_manifest
from chatwright.flow.recipe import read_recipe
from chatwright.flow.run import Outcome, run_recipe
from chatwright.storage import file_digest
from tests.flow.conftest import FakeRoad

ALL = ["text", "train", "other", "tune", "tune@seed2", "evaluate", "report"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(
    road: FakeRoad, recipe: Path, out: Path, *overrides: str, until: str | None = None, from_: str | None = None
) -> list[str]:
    """Run, and give the stages that were called."""
    road.ran.clear()
    run_recipe(read_recipe(recipe, overrides, road.stages()), out, until, from_)
    return list(road.ran)


def test_every_stage_runs_once_and_then_never_again(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    assert run(road, recipe_file, out) == ALL
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    assert run(road, recipe_file, out) == []
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}


def test_a_manifest_says_all_that_a_stage_was_made_from(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    run(road, recipe_file, out)
    tune, train, text = (read_manifest(out / name) for name in ("tune@seed2", "train", "text"))
    assert tune is not None
    assert train is not None
    assert text is not None
    assert (tune.stage, tune.instance, tune.seed, tune.version, tune.attempts) == ("tune", "tune@seed2", 2, 1, 1)
    assert tune.inputs == {"train": train.key, "text": text.key}
    assert train.inputs == {"text": text.key}
    assert tune.config["model"] == {"seed": 1, "layers": 2, "wide": True}
    assert tune.headline == {"inputs": ["text", "train"], "found": []}
    assert tune.files == {
        name: file_digest(out / "tune@seed2" / name) for name in ("deep/log.txt", "first.txt", "result.txt")
    }
    assert tune.started <= tune.ended
    assert tune.peak_memory_mib > 0
    assert {"python", "torch", "chatwright"} <= tune.versions.keys()
    assert {"cpu", "cores", "memory_gib", "gpu"} == tune.hardware.keys()
    assert not (out / "tune@seed2" / "in_progress.json").exists()


def test_a_changed_key_makes_anew_what_depends_on_it_and_clears_what_was_there(
    road: FakeRoad, recipe_file: Path, out: Path
) -> None:
    run(road, recipe_file, out)
    assert run(road, recipe_file, out, "other.steps=1") == ["other", "evaluate", "report"]
    made = read_manifest(out / "other")
    assert made is not None
    assert made.headline["found"] == []


def test_a_broken_stage_is_called_again_with_what_it_left(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    road.die_in = "train"
    with pytest.raises(KeyboardInterrupt):
        run(road, recipe_file, out)
    assert finished(out)["train"] is None
    (out / "train" / ".result.txt.99.partial").write_text("half")
    road.die_in = None
    assert run(road, recipe_file, out) == ALL[1:]
    made = read_manifest(out / "train")
    assert made is not None
    assert made.headline["found"] == ["first.txt", "parts"]
    assert made.attempts == 2


def test_a_broken_stage_of_another_key_starts_from_nothing(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    road.die_in = "train"
    with pytest.raises(KeyboardInterrupt):
        run(road, recipe_file, out)
    road.die_in = None
    run(road, recipe_file, out, "train.steps=2")
    made = read_manifest(out / "train")
    assert made is not None
    assert made.headline["found"] == []
    assert made.attempts == 1


def test_seconds_count_every_attempt(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    road.die_in = "text"
    with pytest.raises(KeyboardInterrupt):
        run(road, recipe_file, out)
    progress = read_in_progress(out / "text")
    assert progress is not None
    later = time.time() + 50
    os.utime(out / "text" / "first.txt", (later, later))
    road.die_in = None
    run(road, recipe_file, out)
    made = read_manifest(out / "text")
    assert made is not None
    assert 49 < made.seconds < 60


def test_a_removed_file_makes_its_stage_undone(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    run(road, recipe_file, out)
    (out / "train" / "result.txt").unlink()
    assert run(road, recipe_file, out) == ["train"]


def test_until_runs_what_a_stage_needs_and_no_more(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    assert run(road, recipe_file, out, until="tune") == ["text", "train", "tune", "tune@seed2"]
    assert run(road, recipe_file, out) == ["other", "evaluate", "report"]


def test_from_makes_a_stage_and_all_made_from_it_anew(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    run(road, recipe_file, out)
    assert run(road, recipe_file, out, from_="train") == ["train", "tune", "tune@seed2", "evaluate", "report"]
    assert run(road, recipe_file, out, from_="train", until="train") == ["train"]
    assert run(road, recipe_file, out) == ["tune", "tune@seed2", "evaluate", "report"]


def test_a_folder_of_another_recipe_or_of_nobody_is_refused_untouched(
    road: FakeRoad, recipe_file: Path, out: Path
) -> None:
    run(road, recipe_file, out)
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="holds a run of the recipe 'tiny', not of 'second'"):
        run(road, recipe_file, out, 'name="second"')
    assert sorted(out.rglob("*")) == before

    foreign = out.parent / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and is not the folder of a run"):
        run(road, recipe_file, foreign)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        run(road, recipe_file, foreign / "thesis.txt")


def _hold(out: Path, recipe: Path, held: object, release: object) -> None:
    road = FakeRoad()
    stages = road.stages()
    holding = stages["text"]

    def wait(*arguments: object) -> dict[str, object]:
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]
        return {}

    stages["text"] = type(holding)("text", 1, holding.config, (), wait, "waits")  # type: ignore[arg-type]
    run_recipe(read_recipe(recipe, (), stages), out, until="text")


def test_two_processes_cannot_run_in_one_folder_but_a_dead_one_does_not_bar_it(
    road: FakeRoad, recipe_file: Path, out: Path
) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(out, recipe_file, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(UserError, match=rf"Another run \(process {other.pid}\) works in"):
            run(road, recipe_file, out)
        other.kill()
        other.join()
        assert run(road, recipe_file, out) == ALL
    finally:
        other.kill()


def test_the_plan_is_left_for_the_report(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    run(road, recipe_file, out)
    assert json.loads((out / "plan.json").read_text()) == {}  # nothing is known of these stages
    assert json.loads((out / "run.json").read_text())["questions"] == [["Hello!"], ["One?", "Two?"]]


def test_outcomes_tell_what_was_done(road: FakeRoad, recipe_file: Path, out: Path) -> None:
    recipe = read_recipe(recipe_file, (), road.stages())
    first: list[Outcome] = run_recipe(recipe, out, until="text")
    second = run_recipe(recipe, out, until="train")
    assert [(o.name, o.state) for o in first] == [("text", "made")]
    assert [(o.name, o.state) for o in second] == [("text", "done before"), ("train", "made")]
