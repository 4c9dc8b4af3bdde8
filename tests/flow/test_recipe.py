"""Recipes: what a good one means, and that every mistake is one sentence that names the place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.flow.recipe import read_recipe, user_files
from tests.flow.conftest import FakeRoad


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def refused(path: Path, road: FakeRoad, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        read_recipe(path, overrides, road.stages())
    return str(caught.value)


def test_stages_come_in_road_order_with_their_variants_and_defaults(recipe_file: Path, road: FakeRoad) -> None:
    recipe = read_recipe(recipe_file, (), road.stages())
    assert recipe.names == ("text", "train", "other", "tune", "tune@seed2", "evaluate", "report")
    assert recipe.questions == (("Hello!",), ("One?", "Two?"))
    configs = {i.name: i.config.model_dump() for i in recipe.instances}
    assert configs["text"] == {"seed": 7, "words": 3, "files": ()}
    assert configs["train"] == {"seed": 7, "steps": 20, "rate": 0.1, "model": {"seed": 1, "layers": 3, "wide": False}}
    assert configs["tune"]["seed"] == 1
    assert configs["tune@seed2"]["seed"] == 2
    assert configs["tune@seed2"]["model"]["wide"] is True


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("train.steps=5", ("train", "steps"), 5),
        ("train.rate=1e-3", ("train", "rate"), 0.001),
        ("train.rate=2", ("train", "rate"), 2.0),
        ("train.model.wide=true", ("train", "model", "wide"), True),
        ("train.model={layers = 9}", ("train", "model", "layers"), 9),
        ("tune@seed2.steps=4", ("tune@seed2", "steps"), 4),
        ("seed=3", ("text", "seed"), 3),
    ],
)
def test_an_override_is_laid_over_the_recipe(
    recipe_file: Path, road: FakeRoad, override: str, place: tuple[str, ...], value: object
) -> None:
    recipe = read_recipe(recipe_file, [override], road.stages())
    found: object = {i.name: i.config.model_dump() for i in recipe.instances}
    for part in place:
        assert isinstance(found, dict)
        found = found[part]
    assert found == value


def test_a_recipe_may_have_only_some_stages(tmp_path: Path, road: FakeRoad) -> None:
    recipe = read_recipe(write(tmp_path, 'name = "x"\nstages = ["train", "text"]'), (), road.stages())
    assert recipe.names == ("text", "train")


def test_an_optional_stage_is_there_only_where_a_recipe_names_it_or_has_its_table(
    tmp_path: Path, road: FakeRoad
) -> None:
    stages = road.stages()
    stages["other"] = replace(stages["other"], optional=True)
    without = read_recipe(write(tmp_path, 'name = "x"'), (), stages)
    assert without.names == ("text", "train", "tune", "evaluate", "report")
    assert "other" in read_recipe(write(tmp_path, 'name = "x"\n[other]\nsteps = 2'), (), stages).names
    assert "other" in read_recipe(write(tmp_path, 'name = "x"'), ["other={}"], stages).names
    assert read_recipe(write(tmp_path, 'name = "x"\nstages = ["text", "other"]'), (), stages).names == ("text", "other")


def test_files_of_a_recipe_are_found_beside_it_and_those_of_an_override_here(
    tmp_path: Path, road: FakeRoad, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    here = tmp_path / "here"
    here.mkdir()
    (here / "b.txt").write_text("b")
    monkeypatch.chdir(here)
    path = write(tmp_path, 'name = "x"\n[text]\nfiles = ["a.txt"]')
    beside = read_recipe(path, (), road.stages())
    assert user_files(beside.instances[0].config) == {("files", 0): tmp_path / "a.txt"}
    overridden = read_recipe(path, ['text.files=["b.txt"]'], road.stages())
    assert user_files(overridden.instances[0].config) == {("files", 0): here / "b.txt"}
    path = write(tmp_path, 'name = "x"\n[rounds]\npeople = "ranked{round}.jsonl"')
    assert read_recipe(path, (), road.stages()).rounds.people == tmp_path / "ranked{round}.jsonl"
    elsewhere = read_recipe(path, ['rounds.people="r{round}.jsonl"'], road.stages())
    assert elsewhere.rounds.people == here / "r{round}.jsonl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nstep = 3", "[train] has no key 'step'; the nearest is 'steps'."),
        ("[train]\nmodel.layer = 3", "[train] has no key 'model.layer'; the nearest is 'layers'."),
        ("[tune.variants.a]\nstep = 3", "[tune.variants.a] has no key 'step'; the nearest is 'steps'."),
        ('[train]\nsteps = "many"', '[train] steps = "many" is not valid: should be a valid integer.'),
        ("[train]\nsteps = 1.5", "[train] steps = 1.5 is not valid: should be a valid integer."),
        ("[train]\nmodel = 3", "[train] model = 3 is not valid: should be an object."),
        ("[trian]\nsteps = 1", "there is no table [trian]; the nearest is 'train'."),
        ("train = 3", "'train' is a stage, so it must be a table [train], not 3."),
        ("sede = 3", "has no key 'sede'; the nearest is 'seed'."),
        ('stages = ["txt"]', "`stages` names 'txt', which is no stage; the nearest is 'text'."),
        ('[text]\nfiles = ["gone.txt"]', "gone.txt, which does not exist."),
        ('[tune.variants."a/b"]', "a variant of tune is called 'a/b'; use letters, digits, - and _."),
        ("[rounds]\nprompt = 3", "has no key 'rounds.prompt'; the nearest is 'prompts'."),
        (
            '[rounds]\npeople = "ranked.jsonl"',
            'people = "ranked.jsonl" is not valid: the name must have {round} in it, such as rankings{round}.jsonl.',
        ),
        ("[tune]\nvariants = 3", "variants of tune are tables such as [tune.variants.seed2]."),
    ],
)
def test_a_mistake_is_one_sentence_that_names_its_place(tmp_path: Path, road: FakeRoad, text: str, said: str) -> None:
    top, _, tables = text.partition("[") if text.startswith("[") else (text, "", "")
    path = write(tmp_path, f'name = "x"\n{top}\n' + (f"[{tables}" if tables else ""))
    sentence = refused(path, road)
    assert sentence.startswith(str(path))
    assert sentence.endswith(said), sentence
    assert "\n" not in sentence


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, road: FakeRoad) -> None:
    assert refused(tmp_path / "gone.toml", road) == f"There is no recipe {tmp_path / 'gone.toml'}."
    assert "is a folder" in refused(tmp_path, road)
    assert "is not valid TOML" in refused(write(tmp_path, "name = "), road)
    assert refused(write(tmp_path, ""), road).endswith("lacks the key 'name'.")
    assert 'name = "../x" is not valid' in refused(write(tmp_path, 'name = "../x"'), road)


def test_an_override_without_value_is_explained(recipe_file: Path, road: FakeRoad) -> None:
    assert "--set takes KEY=VALUE" in refused(recipe_file, road, "train.steps")
    assert "'steps' is a value, not a table" in refused(recipe_file, road, "train.steps.more=1")
    assert "[train] has no key 'stps'; the nearest is 'steps'." in refused(recipe_file, road, "train.stps=1")


# What recipes read that does not come with them: an imported model, a run of another recipe, data of people's.
BROUGHT = {
    "hh_atlas": ("start.sft", "reward.data"),
    "hh_smollm2": (
        "start.tokenizer",
        "start.sft",
        "reward.data",
        "conversations.demonstrations",
        "conversations.prompts",
    ),
    "hh_books": (
        "conversations.demonstrations",
        "conversations.prompts",
        "corpus.sources.books.path",
        "corpus.sources.pages.path",
        "reward.data",
    ),
    "hh_dpo": ("start.sft", "dpo.data"),
    "grpo_sums": ("start.tokenizer", "start.sft"),
}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_that_ships_is_valid(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path, [f"{key}={tmp_path}" for key in BROUGHT.get(path.stem, ())])
    assert recipe.name == path.stem
    assert recipe.names
