"""The graph: who reads whom, and which changes change which keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.flow import graph
from chatwright.flow.recipe import Recipe, read_recipe
from chatwright.stage import StageConfig
from tests.flow.conftest import FakeRoad


def read(path: Path, road: FakeRoad, *overrides: str) -> Recipe:
    return read_recipe(path, overrides, road.stages())


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_evaluate_and_report_read_everything_before_them(recipe_file: Path, road: FakeRoad) -> None:
    reads = graph.inputs(read(recipe_file, road))
    assert reads["tune@seed2"] == ("train", "text")
    assert reads["evaluate"] == ("text", "train", "other", "tune", "tune@seed2")
    assert reads["report"] == ("text", "train", "other", "tune", "tune@seed2", "evaluate")


def test_a_recipe_that_leaves_out_a_needed_stage_is_refused(tmp_path: Path, road: FakeRoad) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\nstages = ["text", "tune"]')
    with pytest.raises(UserError, match="tune reads train, which `stages` leaves out"):
        graph.inputs(read(path, road))


def test_a_config_may_do_without_an_input(tmp_path: Path, road: FakeRoad) -> None:
    class Frugal(StageConfig):
        """Reads less than its stage can."""

        def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in inputs if name != "train")

    stages = road.stages()
    stages["tune"] = replace(stages["tune"], config=Frugal)
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\nstages = ["text", "tune"]')
    assert graph.inputs(read_recipe(path, (), stages))["tune"] == ("text",)


def test_a_change_changes_the_keys_of_all_that_is_made_from_it(recipe_file: Path, road: FakeRoad) -> None:
    keys = graph.keys(read(recipe_file, road))
    assert changed(keys, graph.keys(read(recipe_file, road))) == set()
    last = {"evaluate", "report"}
    assert changed(keys, graph.keys(read(recipe_file, road, "tune.steps=3"))) == {"tune", "tune@seed2"} | last
    assert changed(keys, graph.keys(read(recipe_file, road, "tune@seed2.steps=3"))) == {"tune@seed2"} | last
    assert changed(keys, graph.keys(read(recipe_file, road, "text.words=1"))) == set(keys)
    road.versions["other"] = 2
    assert changed(keys, graph.keys(read(recipe_file, road))) == {"other"} | last


def test_two_configs_that_are_alike_in_two_stages_have_two_keys(recipe_file: Path, road: FakeRoad) -> None:
    keys = graph.keys(read(recipe_file, road))
    assert len(set(keys.values())) == len(keys)


def test_the_content_of_a_file_counts_and_not_its_place(tmp_path: Path, recipe_file: Path, road: FakeRoad) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("the same")
    first = graph.keys(read(recipe_file, road, f'text.files=["{tmp_path}/a", "{tmp_path}/a/text.txt"]'))
    moved = graph.keys(read(recipe_file, road, f'text.files=["{tmp_path}/b", "{tmp_path}/b/text.txt"]'))
    assert first == moved
    (tmp_path / "b" / "text.txt").write_text("another")
    assert changed(moved, graph.keys(read(recipe_file, road, f'text.files=["{tmp_path}/b"]'))) == set(first)


def test_all_files_that_a_pattern_matches_count(tmp_path: Path, recipe_file: Path, road: FakeRoad) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.txt", "deep/b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    override = f'text.files=["{tmp_path}/**/*.txt"]'
    first = graph.keys(read(recipe_file, road, override))
    (tmp_path / "c.md").write_text("not matched")
    assert changed(first, graph.keys(read(recipe_file, road, override))) == set()
    (tmp_path / "deep" / "b.txt").write_text("another")
    assert changed(first, graph.keys(read(recipe_file, road, override))) == set(first)


def test_what_a_stage_needs_and_what_is_made_from_it(recipe_file: Path, road: FakeRoad) -> None:
    recipe = read(recipe_file, road)
    assert graph.named(recipe, "tune") == ("tune", "tune@seed2")
    assert graph.named(recipe, "tune@seed2") == ("tune@seed2",)
    assert graph.needed_for(recipe, ("tune@seed2",)) == ("text", "train", "tune@seed2")
    assert graph.made_from(recipe, ("train",)) == ("train", "tune", "tune@seed2", "evaluate", "report")
    with pytest.raises(UserError, match="has no stage 'tuen'; the nearest is 'tune'"):
        graph.named(recipe, "tuen")


def test_an_instance_may_read_others_in_the_place_of_its_inputs(recipe_file: Path, road: FakeRoad) -> None:
    recipe = read(recipe_file, road)
    tune = next(instance for instance in recipe.instances if instance.name == "tune")
    again = replace(tune, name="tune@again", reads={"train": "tune", "text": "text"})
    longer = replace(recipe, instances=(*recipe.instances, again))
    assert graph.parts(longer)["tune@again"] == {"train": "tune", "text": "text"}
    assert graph.inputs(longer)["tune@again"] == ("tune", "text")
    assert graph.needed_for(longer, ("tune@again",)) == ("text", "train", "tune", "tune@again")
    keys = graph.keys(longer)
    assert changed(graph.keys(recipe), {name: keys[name] for name in recipe.names}) == set()
    assert keys["tune@again"] != keys["tune"]
    wrong = replace(recipe, instances=(*recipe.instances, replace(again, reads={"train": "tuen"})))
    with pytest.raises(UserError, match="tune reads tuen, which `stages` leaves out"):
        graph.inputs(wrong)
