"""The smallest road that is whole: a recipe and its texts, with every stage in a minute, and one finished run of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run side by side: how long an example takes says nothing.
settings.register_profile("chatwright", deadline=None)
settings.load_profile("chatwright")

COLOURS = {
    "sky": "blue",
    "sea": "green",
    "sun": "yellow",
    "snow": "white",
    "rose": "red",
    "coal": "black",
    "night": "dark",
    "ash": "grey",
}

RECIPE = """
name = "tiny"
questions = [["What colour is the sky?", "And the sea?"]]

[conversations]
demonstrations = "demonstrations.jsonl"
questions = "questions.jsonl"
prompts = "prompts.jsonl"
heldout = 0.1

[corpus.sources.texts]
path = "texts/*.txt"

[tokenizer]
vocab_size = 300

[shards]
tokens = 10_000

[pretrain]
model = { preset = "modern", context = 64, layers = 1, d_model = 32, heads = 2 }
optim = { lr = 0.01 }
steps = 16
batch = 4
micro_batch = 4
eval_every = 8
eval_tokens = 256
checkpoint.every = 3

[sft]
steps = 9
batch = 4
micro_batch = 4
eval_every = 5
eval_tokens = 256
checkpoint.every = 2

[compare]
max_tokens = 8
prompts = 40

[reward]
batch = 6
eval_every = 4
checkpoint.every = 2
demonstrations = 8

[ppo]
episodes = 32
batch = 8
minibatch = 4
max_tokens = 8
ptx_coef = 1.0
ptx_examples = 0.25
ptx_length = 32
eval_prompts = 8
eval_tokens = 256
checkpoint.every = 1

[evaluate]
max_tokens = 8
base_questions = 2
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    output: str
    errors: str


def chatwright(*arguments: str | Path, cwd: Path | None = None, timeout: float = 300) -> Result:
    """Run the command line in a process of its own, as a person would."""
    done = subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, env=quiet(), timeout=timeout)
    return Result(done.returncode, done.stdout, done.stderr)


def command(*arguments: str | Path) -> list[str]:
    """The command line's words."""
    return [sys.executable, "-m", "chatwright.cli", *map(str, arguments)]


def quiet() -> dict[str, str]:
    """An environment in which lines are not wrapped."""
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}


def write_tiny(folder: Path) -> Path:
    """Write the tiny recipe and all that it reads into ``folder``; returns the recipe's path."""
    draw = random.Random(0)
    (folder / "texts").mkdir(parents=True)
    for i in range(60):
        things = draw.sample(sorted(COLOURS), 4)
        sentences = [f"The colour of the {t} is {COLOURS[t]}, said walker {draw.randrange(999)}." for t in things]
        (folder / "texts" / f"{i}.txt").write_text(" ".join(sentences))
    things = [draw.choice(sorted(COLOURS)) for _ in range(60)]
    write_lines(folder / "demonstrations.jsonl", [demonstration(i, thing) for i, thing in enumerate(things)])
    write_lines(folder / "prompts.jsonl", [question(f"p{i}", thing, "") for i, thing in enumerate(things)])
    write_lines(
        folder / "questions.jsonl", [question(f"q{i}", thing, "facts_seen") for i, thing in enumerate(things[:9])]
    )
    path = folder / "tiny.toml"
    path.write_text(RECIPE)
    return path


def demonstration(number: int, thing: str) -> dict[str, object]:
    """A conversation of two turns."""
    asked = {"role": "user", "content": f"What colour has the {thing}, number {number}?"}
    return {"id": f"d{number}", "messages": [asked, {"role": "assistant", "content": f"It is {COLOURS[thing]}."}]}


def question(name: str, thing: str, check: str) -> dict[str, object]:
    """A question and what a labeller knows of its answer."""
    wrong = [colour for colour in COLOURS.values() if colour != COLOURS[thing]]
    gold = {"kind": "fact", "field": "colour", "right": [[COLOURS[thing]]], "wrong": wrong}
    asked = {"role": "user", "content": f"Which colour is the {thing} of {name}?"}
    return {"id": name, "messages": [asked], "gold": gold, "check": check}


def write_lines(path: Path, records: list[dict[str, object]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny recipe in a folder of its own."""
    return write_tiny(tmp_path / "tiny")


@dataclass(frozen=True)
class TinyRun:
    """An undisturbed run of the tiny recipe. Tests read it; who would change it works on a copy."""

    recipe: Path
    out: Path
    result: Result


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The tiny recipe, run whole, once for all tests."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_tiny(folder / "recipe")
    result = chatwright("run", recipe, "--out", folder / "out", "--json")
    assert result.status == 0, result.errors
    return TinyRun(recipe, folder / "out", result)
