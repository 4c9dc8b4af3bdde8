"""Bad input: one sentence that says what to do, exit status 2, and nothing left half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Result, TinyRun, chatwright, write_lines


def assert_one_sentence(result: Result, *parts: str) -> None:
    """The last line on standard error is the mistake; those before it, if any, are the progress of the run."""
    assert result.status == 2, result.errors
    assert "Traceback" not in result.errors
    sentence = result.errors.strip().splitlines()[-1]
    assert sentence.startswith("chatwright: ")
    assert result.errors.count("chatwright: ") == 1
    for part in parts:
        assert part in sentence, sentence


def assert_nothing_half_written(out: Path) -> None:
    """No stage claims to be done that is not, and no file is left in between."""
    assert not list(out.rglob("*.partial"))
    for manifest in out.glob("*/manifest.json"):
        assert all((manifest.parent / name).is_file() for name in json.loads(manifest.read_text())["files"])


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("steps = 16", "stepps = 16", ("tiny.toml: [pretrain] has no key 'stepps'", "the nearest is 'steps'")),
        ("steps = 16", 'steps = "sixteen"', ('tiny.toml: [pretrain] steps = "sixteen" is not valid', "integer")),
        ('"prompts.jsonl"', '"gone.jsonl"', ("tiny.toml: [conversations] prompts", "gone.jsonl, which does not exist")),
        ("[pretrain]", "[pretrian]", ("there is no table [pretrian]", "the nearest is 'pretrain'")),
        ("layers = 1", "layers = 1, layerss = 1", ("tiny.toml: [pretrain] model", "layerss")),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_before_anything_is_written(
    tiny: Path, tmp_path: Path, before: str, after: str, parts: tuple[str, ...]
) -> None:
    text = tiny.read_text()
    assert before in text
    tiny.write_text(text.replace(before, after, 1))
    assert_one_sentence(chatwright("run", tiny, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_named_and_json_carries_the_error(tmp_path: Path) -> None:
    result = chatwright("run", tmp_path / "gone.toml", "--json")
    assert_one_sentence(result, f"There is no recipe {tmp_path / 'gone.toml'}.")
    assert json.loads(result.output) == {"error": f"There is no recipe {tmp_path / 'gone.toml'}."}


def test_the_folder_of_another_recipe_is_refused_and_left_as_it_was(tiny: Path, tiny_run: TinyRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.out.rglob("*")}
    result = chatwright("run", tiny, "--out", tiny_run.out, "--set", "name=other")
    assert_one_sentence(result, "holds a run of the recipe 'tiny', not of 'other'", "--out")
    assert {path: path.stat().st_mtime_ns for path in tiny_run.out.rglob("*")} == before


def test_a_truncated_model_is_refused_by_the_stage_that_reads_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_run.out, out)
    weights = out / "pretrain" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = chatwright("run", tiny_run.recipe, "--out", out, "--from", "sft", "--until", "sft")
    assert_one_sentence(result, "model.safetensors")
    assert_nothing_half_written(out)
    assert not (out / "sft" / "manifest.json").exists()
    assert_one_sentence(chatwright("chat", out / "pretrain"), "model.safetensors")


def test_an_empty_corpus_is_refused(tiny: Path, tmp_path: Path) -> None:
    for text in (tiny.parent / "texts").iterdir():
        text.write_text("  \n")
    result = chatwright("corpus", tiny, "--out", tmp_path / "out")
    assert_one_sentence(result, "corpus")
    assert_nothing_half_written(tmp_path / "out")
    assert not (tmp_path / "out" / "corpus" / "documents.parquet").exists()


def test_a_conversation_with_a_wrong_role_is_refused_with_its_line(tiny: Path, tmp_path: Path) -> None:
    path = tiny.parent / "demonstrations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[4]["messages"][0]["role"] = "robot"
    write_lines(path, records)
    result = chatwright("conversations", tiny, "--out", tmp_path / "out")
    assert_one_sentence(result, "demonstrations.jsonl, line 5", "role")
    assert_nothing_half_written(tmp_path / "out")
    assert not (tmp_path / "out" / "conversations" / "demonstrations.jsonl").exists()


def test_a_reward_that_is_no_number_is_named_and_nothing_is_kept(tiny_run: TinyRun, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_run.out, tmp_path / "out"))
    rules = tmp_path / "rules.py"
    rules.write_text("def odd(prompts, answers):\n    return [float('nan') for _ in answers]\n")
    rewards = f'best_of_n.rewards=[{{rule="odd", file="{rules}"}}]'
    result = chatwright("best_of_n", tiny_run.recipe, "--out", out, "--set", rewards)
    assert_one_sentence(result, "The reward 'odd' gave nan for the answer", "give it a number")
    assert_nothing_half_written(out)
    assert not [path for path in (out / "best_of_n").rglob("*") if path.is_file() and path.name != "in_progress.json"]


def test_a_ranking_with_an_empty_tier_or_a_repeated_answer_is_named_with_its_line(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_run.out, tmp_path / "out"))
    asked = [{"role": "user", "content": "Which colour?"}]
    record = {"id": "a", "prompt": asked, "answers": ["red", "blue"], "tiers": [[0], [1]], "labeler": "ann"}
    wrong = [{**record, "tiers": [[], [0, 1]]}, {**record, "tiers": [[0], [2]]}, {**record, "answers": ["red", "red"]}]
    path = tmp_path / "ranked.jsonl"
    write_lines(path, [record, *wrong])
    places = ("line 2: tiers.0", "line 3: tiers must name every answer exactly once", "line 4: two of its answers are")
    result = chatwright("reward", tiny_run.recipe, "--out", out, "--set", f'reward.data="{path}"')
    assert_one_sentence(result, *(f"ranked.jsonl, {place}" for place in places))
    assert not (out / "reward" / "manifest.json").exists()


@pytest.mark.parametrize("command", ["chat", "serve", "demo", "lineage"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    assert_one_sentence(chatwright(command, tmp_path / "gone"), "gone")
