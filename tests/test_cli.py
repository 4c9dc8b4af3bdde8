"""The command line: its help, its commands on a finished run, and what they leave for programs to read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chatwright import __version__
from chatwright.cli import STAGES, _to_the_end, failing_checks
from chatwright.flow.road import MODULES, ROAD
from tests.conftest import TinyRun, chatwright, command, quiet

WHOLE = [name for name, stage in ROAD.items() if not stage.optional]  # what a recipe has that says nothing of stages


def test_help_lists_the_commands_in_the_order_of_the_road() -> None:
    shown = chatwright("--help").output
    commands = ["run", *STAGES, "rounds", "chat", "serve", "demo", "lineage", "version"]
    places = [shown.index(f"│ {name} ") for name in commands]
    assert places == sorted(places)
    assert tuple(STAGES) == tuple(MODULES)


@pytest.mark.parametrize(
    "words",
    [[name] for name in ("run", *STAGES, "rounds", "chat", "lineage")]
    + [["corpus", "explain"], ["moderation", "train"], ["moderation", "check"]],
)
def test_the_help_of_a_command_has_an_example(words: list[str]) -> None:
    assert f"Example: chatwright {' '.join(words)} " in chatwright(*words, "--help").output


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, chatwright.cli; print({'torch', 'pydantic', 'numpy', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version_is_printed() -> None:
    assert chatwright("version").output.strip() == __version__


def test_a_run_tells_a_program_what_it_made(tiny_run: TinyRun) -> None:
    told = json.loads(tiny_run.result.output)
    assert told["recipe"] == "tiny"
    assert list(told["stages"]) == WHOLE
    assert all(stage["state"] == "made" for stage in told["stages"].values())
    manifest = json.loads((tiny_run.out / "sft" / "manifest.json").read_text())
    assert told["stages"]["sft"]["key"] == manifest["key"]


def test_a_second_run_finds_everything_done(tiny_run: TinyRun) -> None:
    result = chatwright("report", tiny_run.recipe, "--out", tiny_run.out, "--json")
    assert result.status == 0, result.errors
    assert {stage["state"] for stage in json.loads(result.output)["stages"].values()} == {"done before"}
    assert "minutes" not in result.errors


def test_predicted_stands_beside_actual(tiny_run: TinyRun) -> None:
    assert "predicted" in tiny_run.result.errors
    plan = json.loads((tiny_run.out / "plan.json").read_text())
    assert list(plan) == WHOLE
    stages = json.loads((tiny_run.out / "report" / "report.json").read_text())["stages"]
    assert stages["pretrain"]["predicted_seconds"] == plan["pretrain"]


def test_a_dry_run_plans_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    result = chatwright("run", tiny, "--out", tmp_path / "out", "--until", "pretrain", "--dry-run", "--json")
    assert result.status == 0, result.errors
    plan = json.loads(result.output)
    assert list(plan) == ["conversations", "corpus", "tokenizer", "shards", "pretrain"]
    assert plan["pretrain"]["tokens"] == 16 * 4 * 64
    assert not (tmp_path / "out").exists()


def test_lineage_goes_back_to_documents_and_forward_to_models(tiny_run: TinyRun) -> None:
    weights = tiny_run.out / "ppo" / "model.safetensors"
    back = json.loads(chatwright("lineage", weights, "--json").output)
    assert {stage["name"] for stage in back["stages"]} == set(WHOLE) - {"examine", "evaluate", "report"}
    assert back["documents"] == {"texts": 60}
    assert not back["changed"]
    document = trained_on(tiny_run.out)
    forward = json.loads(chatwright("lineage", tiny_run.out, "--document", document, "--json").output)
    assert {"pretrain", "sft", "reward", "ppo"} == set(forward["models"])


def test_optional_stages_run_when_they_are_asked_for(tiny_run: TinyRun, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_run.out, tmp_path / "out")
    settings = {
        "best_of_n": ["n=2", "max_tokens=8", "eval_prompts=4", "prompts=6"],
        "dpo": ["batch=6", "lora={rank = 2}"],
        "grpo": ["episodes=16", "batch=8", "minibatch=8", "group=4", "max_tokens=8", "eval_prompts=4"],
    }
    for name, changes in settings.items():
        sets = [word for change in changes for word in ("--set", f"{name}.{change}")]
        result = chatwright(name, tiny_run.recipe, "--out", out, *sets, "--json")
        assert result.status == 0, result.errors
        stages = json.loads(result.output)["stages"]
        assert {stage for stage, told in stages.items() if told["state"] == "made"} == {name}
    kept = (out / "best_of_n" / "demonstrations.jsonl").read_text().splitlines()
    assert json.loads((out / "best_of_n" / "manifest.json").read_text())["headline"]["demonstrations"] == len(kept)
    again = chatwright("report", tiny_run.recipe, "--out", out, "--json")  # as if they were not there
    assert {stage["state"] for stage in json.loads(again.output)["stages"].values()} == {"done before"}


def test_the_story_of_a_document_is_told(tiny_run: TinyRun) -> None:
    document = trained_on(tiny_run.out)
    result = chatwright("corpus", "explain", document, "--run", tiny_run.out)
    assert result.status == 0, result.errors
    assert document in result.output
    assert "training shard" in result.output
    assert chatwright("corpus", "explain", "nothing", "--run", tiny_run.out).status == 2


def trained_on(out: Path) -> str:
    """The id of a document in the training shard."""
    import pyarrow.parquet as pq

    exposures = pq.read_table(out / "shards" / "exposures.parquet").to_pylist()
    return next(row["id"] for row in exposures if row["times"])


def test_chat_answers_what_comes_by_a_pipe(tiny_run: TinyRun) -> None:
    done = subprocess.run(
        command("chat", tiny_run.out, "--temperature", "0"),
        input="What colour is the sky?\n",
        capture_output=True,
        text=True,
        env=quiet(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_demo_asks_the_recipes_questions_and_names_checks_that_do_not_hold(tiny_run: TinyRun) -> None:
    result = chatwright("demo", tiny_run.out)
    assert "What colour is the sky?" in result.output
    assert "And the sea?" in result.output
    assert "report.html" in result.errors
    assert "chatwright serve" in result.errors
    assert result.status == 1
    assert "These checks do not hold: " in result.errors  # so small a model knows nothing


def test_demo_names_the_stages_that_are_not_done(tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_run.out, out)
    (out / "ppo" / "manifest.json").unlink()
    result = chatwright("demo", out)
    assert result.status == 2
    assert f"Not done yet in {out}: ppo; go on with: chatwright run" in result.errors


def test_checks_that_fail_or_have_no_value_are_named_with_what_they_should_be() -> None:
    def check(status: str, value: float | None) -> dict[str, object]:
        return {"status": status, "value": value, "direction": "at_least", "threshold": 0.4}

    checks = {"a": check("holds", 0.5), "b": check("fails", 0.3), "c": check("absent", None), "d": check("shown", 0.1)}
    assert failing_checks(checks) == ["b is 0.3 and should be at least 0.4", "c is None and should be at least 0.4"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_run_that_needs_more_memory_says_how_to_need_less(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error("CUDA out of memory. Tried to allocate 64.00 MiB.")

    with pytest.raises(SystemExit) as stop:
        _to_the_end(work, Path("runs/mine"))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("chatwright: Memory is full; lower the stage's micro_batch")
    assert "runs/mine" in said
