"""A run that is killed at random moments, again and again, ends with the same weights as one that nobody disturbed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import TinyRun, chatwright, command, quiet

KILLED = ("corpus", "pretrain", "sft", "reward", "ppo")
TIMES = 2  # kills in each of them, at most
TRIES = 6  # runs to kill one in
ARTIFACTS = (
    "corpus/documents.parquet",
    "tokenizer/tokenizer.json",
    "shards/train.bin",
    "pretrain/model.safetensors",
    "sft/model.safetensors",
    "compare/comparisons.jsonl",
    "reward/model.safetensors",
    "ppo/model.safetensors",
)


def kill_in(stage: str, fraction: float, run: TinyRun, out: Path, *options: str) -> bool:
    """SIGKILL a run when ``fraction`` of the stage's undisturbed time has passed in it; False when it was faster."""
    seconds = json.loads((run.out / stage / "manifest.json").read_text())["seconds"]
    started = time.time()
    process = subprocess.Popen(
        command("run", run.recipe, "--out", out, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=quiet(),
    )
    try:
        began = None
        while process.poll() is None:
            if began is None and entered(out / stage, started):
                began = time.monotonic()
            if began is not None and time.monotonic() - began >= fraction * seconds:
                break
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return not (out / stage / "manifest.json").exists()


def entered(folder: Path, since: float) -> bool:
    """Whether the stage was begun, or even finished, ``since`` then: its folder is there from earlier runs."""
    try:
        return json.loads((folder / "in_progress.json").read_text())["attempt_began"] > since
    except FileNotFoundError:
        manifest = folder / "manifest.json"
        return manifest.exists() and manifest.stat().st_mtime > since


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tiny_run: TinyRun, tmp_path: Path) -> None:
    draw = random.Random(2203)
    out = tmp_path / "out"
    broken = dict.fromkeys(KILLED, 0)
    for stage in KILLED:
        fraction = draw.random()
        for _ in range(TRIES):
            finished = (out / stage / "manifest.json").exists()
            if broken[stage] == TIMES or (finished and broken[stage]):
                break
            hit = kill_in(stage, fraction, tiny_run, out, *(("--from", stage) if finished else ()))
            broken[stage] += hit
            fraction = draw.random() if hit else fraction / 3  # too late: the stage was faster than in the first run
    assert all(broken.values()), f"no kill hit some stage: {broken}"

    result = chatwright("run", tiny_run.recipe, "--out", out)
    assert result.status == 0, result.errors
    differing = [name for name in ARTIFACTS if (out / name).read_bytes() != (tiny_run.out / name).read_bytes()]
    assert differing == []
    attempts = {stage: json.loads((out / stage / "manifest.json").read_text())["attempts"] for stage in KILLED}
    assert all(attempts[stage] > 1 for stage in KILLED), attempts
    left = [path for path in out.rglob("*") if path.name == "in_progress.json" or path.name.endswith(".partial")]
    assert left == []
    assert not list(out.glob("*/checkpoint"))


@pytest.mark.slow
def test_best_of_n_killed_between_its_parts_draws_only_the_rest_and_ends_with_the_same_bytes(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    words = ("n=4", "batch_size=2", "max_tokens=32", "eval_prompts=4", "prompts=30")
    asked = (
        "best_of_n",
        tiny_run.recipe,
        *(word for setting in words for word in ("--set", f"best_of_n.{setting}")),
        "--out",
    )
    straight, out = (Path(shutil.copytree(tiny_run.out, tmp_path / name)) for name in ("straight", "killed"))
    result = chatwright(*asked, straight)
    assert result.status == 0, result.errors
    parts = out / "best_of_n" / "parts" / "training"
    process = subprocess.Popen(command(*asked, out), stderr=subprocess.DEVNULL, env=quiet())
    while len(list(parts.glob("*.jsonl"))) < 5:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.jsonl")}
    assert len(done) < 30
    watched = subprocess.Popen(command(*asked, out), stderr=subprocess.DEVNULL, env=quiet())
    while watched.poll() is None:
        if len(list(parts.glob("*.jsonl"))) > len(done):
            break
        time.sleep(0.001)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was drawn is not drawn again"
    assert watched.wait(300) == 0
    for name in ("curve.json", "demonstrations.jsonl"):
        assert (out / "best_of_n" / name).read_bytes() == (straight / "best_of_n" / name).read_bytes()
    assert not parts.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_end_saves_itself_in_seconds_and_goes_on_to_the_same_bytes(
    tiny_run: TinyRun, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "out"
    longer = ("--until", "pretrain", "--set", "pretrain.steps=400", "--set", "pretrain.checkpoint.every=1000")
    straight = chatwright("run", tiny_run.recipe, "--out", tmp_path / "straight", *longer)
    assert straight.status == 0, straight.errors
    process = subprocess.Popen(
        command("run", tiny_run.recipe, "--out", out, *longer),
        stderr=subprocess.PIPE,
        text=True,
        env=quiet(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = out / "pretrain" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 20:
        assert process.poll() is None, "it ended before it could be asked to"
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20
    assert process.returncode == status
    assert "saved after step" in errors
    assert "the same command goes on from here" in errors
    again = chatwright("run", tiny_run.recipe, "--out", out, *longer)
    assert again.status == 0
    assert "going on after step" in again.errors
    weights = [(folder / "pretrain" / "model.safetensors").read_bytes() for folder in (tmp_path / "straight", out)]
    assert weights[0] == weights[1]
