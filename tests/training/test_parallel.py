"""Two and four processes, started by torchrun as a user would, learn what one does, to rounding, in every stage."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from chatwright.model.folder import load_model
from chatwright.stage import read_metrics
from tests.conftest import chatwright, quiet, write_tiny

STAGES = ("pretrain", "sft", "reward", "ppo")
RELATIVES = ("dpo", "grpo", "sft@lora", "reward@lora", "dpo@lora", "ppo@lora")
OF_THE_CLOCK = {"tokens_per_second", "mfu"}
# Counts of pairs and ratios of small differences move by a pair, or by much, when rounding moves a score.
LOOSE = {"accuracy": 0.06, "heldout_accuracy": 0.04, "value_loss": 0.03, "explained_variance": 0.04, "grad_norm": 0.02}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe in float32, so that rounding is all that differs."""
    path = write_tiny(tmp_path_factory.mktemp("parallel"))
    path.write_text(re.sub(rf"^\[({'|'.join(STAGES)})\]$", r'[\1]\ndtype = "float32"', path.read_text(), flags=re.M))
    return path


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it in one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    result = chatwright("run", recipe, "--out", out)
    assert result.status == 0, result.errors
    return out


@pytest.fixture(scope="module")
def relatives(recipe: Path) -> Path:
    """The same recipe with the stages that few have, and with adapters; nothing is evaluated."""
    names = ["conversations", "corpus", "tokenizer", "shards", "pretrain", "sft", "compare", "reward"]
    names += ["best_of_n", "dpo", "ppo", "grpo"]
    rest = """
[best_of_n]
n = 3
max_tokens = 8
eval_prompts = 8
prompts = 8

[dpo]
epochs = 2.0
batch = 5
micro_batch = 8
eval_every = 3
dtype = "float32"
optim = { kind = "adamw", lr = 1e-3, weight_decay = 0.0 }

[grpo]
episodes = 24
batch = 8
minibatch = 4
group = 4
max_tokens = 8
eval_prompts = 8
eval_tokens = 256
dtype = "float32"
optim = { kind = "adamw", lr = 1e-3, weight_decay = 0.0 }
"""
    adapters = "\n".join(f"[{name}.variants.lora]\nlora = {{ rank = 4 }}" for name in ("sft", "reward", "dpo", "ppo"))
    path = recipe.with_name("relatives.toml")
    path.write_text(f"stages = {json.dumps(names)}\n{recipe.read_text()}{rest}\n{adapters}\n")
    return path


def torchrun(processes: int, *arguments: str | Path) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    return [*launch, "-m", "chatwright", *map(str, arguments)]


def together(processes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = torchrun(processes, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=quiet(), timeout=400)


def same_curve(first: Path, second: Path, stage: str) -> None:
    expected, found = read_metrics(first / stage), read_metrics(second / stage)
    assert len(expected) == len(found)
    for line, other in zip(expected, found, strict=True):
        assert line.keys() == other.keys()
        # In its first step DPO's policy is its reference: margins are rounding, and so is how many have which sign.
        nothing = {"accuracy"} if stage.startswith("dpo") and line["step"] == 1 else set()
        for key in line.keys() - OF_THE_CLOCK - nothing:
            assert other[key] == pytest.approx(line[key], rel=LOOSE.get(key, 3e-3), abs=LOOSE.get(key, 2e-3)), (
                f"{stage}, step {line['step']}, {key}"
            )


def everywhere(setting: str) -> list[str]:
    return [word for stage in STAGES for word in ("--set", f"{stage}.parallel.{setting}")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, everywhere("recompute=true")),
        (2, everywhere("strategy=ddp")),
        (4, everywhere("replicas=2")),
        (4, everywhere("tensor=2")),
    ],
    ids=["fsdp", "ddp", "hybrid", "tensor"],
)
def test_many_processes_learn_what_one_does_in_every_stage(
    recipe: Path, alone: Path, tmp_path: Path, processes: int, settings: list[str]
) -> None:
    result = together(processes, "run", recipe, "--out", tmp_path / "out", *settings)
    assert result.returncode == 0, result.stderr
    for stage in STAGES:
        same_curve(alone, tmp_path / "out", stage)
    expected, found = (load_model(out / "sft")[0] for out in (alone, tmp_path / "out"))
    for (name, p), q in zip(expected.named_parameters(), found.parameters(), strict=True):
        assert (p - q).abs().max() < 5e-3, name
    assert result.stderr.count("pretrain: finished") == 1, "only one process speaks"
    assert not list((tmp_path / "out").glob("*/checkpoint"))


@pytest.mark.slow
def test_two_processes_learn_what_one_does_in_the_stages_that_few_have(
    relatives: Path, alone: Path, tmp_path: Path
) -> None:
    """DPO, GRPO, best-of-n, and adapters in every stage that can have them, with two layouts of the processes."""
    single, spread = (Path(shutil.copytree(alone, tmp_path / name)) for name in ("single", "spread"))
    result = chatwright("run", relatives, "--out", single)
    assert result.status == 0, result.errors
    copies = [f"{stage}.parallel.strategy=ddp" for stage in ("dpo", "ppo@lora", "sft@lora")]
    settings = [word for setting in copies for word in ("--set", setting)]
    both = together(2, "run", relatives, "--out", spread, *settings)
    assert both.returncode == 0, both.stderr
    for name in RELATIVES:
        same_curve(single, spread, name)
        expected, found = (load_file(out / name / "model.safetensors") for out in (single, spread))
        assert expected.keys() == found.keys(), "adapters are merged"
        for key, weights in expected.items():
            assert (weights - found[key]).abs().max() < 5e-3, f"{name}, {key}"
    kept = [(out / "best_of_n" / "demonstrations.jsonl").read_bytes() for out in (single, spread)]
    assert kept[0] == kept[1], "one process draws, the others wait"


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [((4, "tensor=2"), (2, "tensor=1")), ((2, "tensor=1"), (1, "tensor=1"))])
def test_what_many_processes_saved_fewer_go_on_with(
    recipe: Path, tmp_path: Path, first: tuple[int, str], second: tuple[int, str]
) -> None:
    shared = ("--until", "pretrain", "--set", "pretrain.steps=60", "--set", "pretrain.checkpoint.every=1")
    straight = chatwright("run", recipe, "--out", tmp_path / "straight", *shared)
    assert straight.status == 0, straight.errors
    out = tmp_path / "out"
    begun = subprocess.Popen(
        torchrun(first[0], "run", recipe, "--out", out, *shared, "--set", f"pretrain.parallel.{first[1]}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=quiet(),
    )
    while not list(out.glob("pretrain/checkpoint/step-0000001*")):
        assert begun.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(int((out / ".lock").read_text()), signal.SIGKILL)  # the first process; torchrun ends the others
    begun.wait()
    arguments = ("run", recipe, "--out", out, *shared, "--set", f"pretrain.parallel.{second[1]}")
    if second[0] == 1:
        status, errors = (result := chatwright(*arguments)).status, result.errors
    else:
        status, errors = (result := together(second[0], *arguments)).returncode, result.stderr
    assert status == 0, errors
    went_on = re.search(r"going on after step (\d+) of 60", errors)
    assert went_on is not None
    assert int(went_on[1]) >= 10
    same_curve(tmp_path / "straight", out, "pretrain")
    assert json.loads((out / "pretrain" / "manifest.json").read_text())["attempts"] == 2


@pytest.mark.slow
def test_processes_that_cannot_be_divided_are_one_sentence(recipe: Path, alone: Path, tmp_path: Path) -> None:
    result = together(2, "run", recipe, "--out", tmp_path / "out", "--set", "pretrain.parallel.tensor=3")
    assert result.returncode != 0
    assert result.stderr.count("chatwright: 2 processes cannot be divided") == 1
    single = chatwright("run", recipe, "--out", tmp_path / "one", "--set", "pretrain.parallel.tensor=2")
    assert single.status == 2
    assert "torchrun --nproc-per-node 2" in single.errors
