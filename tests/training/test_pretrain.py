from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.cost import train_flops
from chatwright.model.folder import load_model
from chatwright.model.presets import preset
from chatwright.stage import read_metrics
from chatwright.storage import read_json, write_json
from chatwright.tokenizer.bpe import Tokenizer, train_bpe
from chatwright.tokenizer.shards import TokenShard
from chatwright.training import pretrain
from chatwright.training.heldout import bits_per_byte
from chatwright.training.pretrain import PretrainConfig, model_from_table

from .conftest import MODEL

QUICK = {"model": MODEL, "steps": 60, "batch": 8, "micro_batch": 4, "eval_every": 20, "checkpoint": {"every": 5}}


def weight_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("pretrain")
    return out, pretrain.run(PretrainConfig(**QUICK), inputs, out)


def test_it_learns_and_leaves_a_model_folder(trained: tuple[Path, dict[str, float]]) -> None:
    out, headline = trained
    assert headline["bits_per_byte"] < 0.5 * headline["bits_per_byte_start"]
    model, tokenizer = load_model(out)
    assert model.config.vocab_size == tokenizer.vocab_size
    assert not (out / "checkpoint").exists()


def test_the_log_has_a_line_a_step_and_the_headline_its_ends(trained: tuple[Path, dict[str, float]]) -> None:
    out, headline = trained
    lines = read_metrics(out)
    assert [line["step"] for line in lines] == list(range(61))
    measured = {line["step"]: line["bits_per_byte"] for line in lines if "bits_per_byte" in line}
    assert sorted(measured) == [0, 20, 40, 60]
    assert (measured[0], measured[60]) == (headline["bits_per_byte_start"], headline["bits_per_byte"])
    assert headline["tokens"] == 60 * 8 * 48


def test_another_seed_gives_another_model(
    trained: tuple[Path, object], inputs: dict[str, Path], tmp_path: Path
) -> None:
    short = {**QUICK, "steps": 2}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        pretrain.run(PretrainConfig(**short, seed=seed), inputs, tmp_path / name)
    assert weight_bytes(tmp_path / "a") == weight_bytes(tmp_path / "b") != weight_bytes(tmp_path / "c")


SCRIPT = """
import sys, torch
from pathlib import Path
from chatwright.storage import read_json
from chatwright.model.cost import train_flops
from chatwright.training.pretrain import PretrainConfig, run
torch.set_num_threads(1)
job = read_json(Path(sys.argv[1]))
run(PretrainConfig(**job["config"]), {name: Path(path) for name, path in job["inputs"].items()}, Path(job["out"]))
"""


def test_a_killed_process_resumes_to_byte_identical_weights(
    trained: tuple[Path, object], inputs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    job = {"config": QUICK, "inputs": {name: str(path) for name, path in inputs.items()}, "out": str(out)}
    write_json(tmp_path / "job.json", job)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "job.json")])
    while not list(out.glob("checkpoint/step-*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    pretrain.run(PretrainConfig(**QUICK), inputs, out)
    assert weight_bytes(out) == weight_bytes(trained[0])
    assert [line["step"] for line in read_metrics(out)] == list(range(61))


def test_flops_are_6nd_and_attention() -> None:
    config = preset("gpt2-117m")
    per_token = train_flops(config, 1)
    assert per_token == pytest.approx(6 * 124e6 + 6 * 12 * 768 * 1024, rel=0.01)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"layers": 2}, "needs a preset"),
        ({**MODEL, "vocab_size": 9}, "vocab_size: it comes from the tokenizer"),
        ({**MODEL, "layerz": 2}, "layerz"),
    ],
)
def test_a_wrong_model_table_is_one_sentence(table: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_from_table(table, 300)


def test_a_shard_shorter_than_a_window_is_one_sentence(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = PretrainConfig(**{**QUICK, "model": {**MODEL, "context": 100_000}})
    with pytest.raises(UserError, match="too few for one window"):
        pretrain.run(config, inputs, tmp_path)


def test_shards_of_another_tokenizer_are_refused(inputs: dict[str, Path], tmp_path: Path, tokenizer: Tokenizer) -> None:
    shutil.copytree(inputs["shards"], tmp_path, dirs_exist_ok=True)
    index = read_json(tmp_path / "index.json")
    other = train_bpe(["something else entirely"] * 4, 280)
    assert other.hash != tokenizer.hash
    write_json(tmp_path / "index.json", {**index, "tokenizer": other.hash})
    with pytest.raises(UserError, match="another tokenizer"):
        pretrain.run(PretrainConfig(**QUICK), {**inputs, "shards": tmp_path}, tmp_path / "out")


def test_the_batch_ramp_reads_every_row_once(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = PretrainConfig(**{**QUICK, "steps": 8, "batch": 8, "batch_start": 2, "batch_ramp": 0.5})
    assert config.first_rows() == [0, 2, 5, 10, 16, 24, 32, 40, 48]
    headline = pretrain.run(config, inputs, tmp_path)
    tokens = [line["tokens"] for line in read_metrics(tmp_path) if line["step"]]
    assert tokens == [48 * rows for rows in (2, 3, 5, 6, 8, 8, 8, 8)]
    assert headline["tokens"] == sum(tokens)
    with pytest.raises(ValueError, match="go together"):
        PretrainConfig(**{**QUICK, "batch_start": 2})


def test_shards_are_mixed_by_their_weights(inputs: dict[str, Path], tmp_path: Path) -> None:
    index = inputs["shards"] / "index.json"
    data = [{"index": index, "weight": 3.0}, {"index": index, "weight": 1.0}]
    headline = pretrain.run(PretrainConfig(**{**QUICK, "data": data}), inputs, tmp_path)
    assert headline["bits_per_byte"] < headline["bits_per_byte_start"] / 2


def test_samples_are_written_while_it_learns_and_the_best_weights_can_be_kept(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"prompts": ["The color of grass is"], "result": "best", "checkpoint": {"every": 20}}
    config = PretrainConfig(**{**QUICK, **changes, "optim": {"lr": 0.02}})
    pretrain.run(config, inputs, tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 20, 40, 60]
    assert "green" in samples[-1]["text"]
    measured = [line["bits_per_byte"] for line in read_metrics(tmp_path) if "bits_per_byte" in line]
    model, tokenizer = load_model(tmp_path)
    heldout = TokenShard.open(inputs["shards"], "heldout").tokens
    assert bits_per_byte(model, tokenizer, heldout) == pytest.approx(min(measured[1:]), rel=1e-3)


def test_tensorboard_shows_the_log(inputs: dict[str, Path], tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pretrain.run(PretrainConfig(**{**QUICK, "steps": 6}), inputs, tmp_path)
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]
