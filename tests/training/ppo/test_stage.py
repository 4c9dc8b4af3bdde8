"""The stage ppo on folders, and the same bits after a kill."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatwright.errors import UserError
from chatwright.evaluation import checks
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model, save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Gold, Message, Question
from chatwright.stage import Headline, read_metrics
from chatwright.storage import read_json, write_json, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer, train_bpe
from chatwright.training import grpo
from chatwright.training.grpo import GrpoConfig, GrpoTrainer
from chatwright.training.lora import LoraConfig
from chatwright.training.optim import OptimConfig
from chatwright.training.ppo.config import AdaptiveKl, PpoConfig
from chatwright.training.ppo.stage import STAGE
from chatwright.training.ppo.trainer import Trainer

CONFIG = {
    "episodes": 48,
    "batch": 8,
    "minibatch": 4,
    "max_tokens": 6,
    "max_kl": 1e9,
    "ptx_coef": 1.0,
    "ptx_examples": 0.5,
    "ptx_length": 16,
    "optim": OptimConfig(lr=1e-3, weight_decay=0.0),
    "adaptive_kl": AdaptiveKl(target=0.1, horizon=100),
    "dtype": "float32",
    "checkpoint": {"every": 2},
    "eval_prompts": 4,
    "eval_tokens": 300,
    "samples": 2,
}


def questions(prefix: str, count: int) -> list[Question]:
    gold = Gold(kind="fact", right=[["Paris"]])
    return [
        Question(id=f"{prefix}{i}", messages=[Message(role="user", content=f"Capital {i}?")], gold=gold, check="")
        for i in range(count)
    ]


def run(config: PpoConfig, inputs: dict[str, Path], out: Path) -> Headline:
    out.mkdir(exist_ok=True)
    return STAGE.run(config, inputs, out)


@pytest.fixture
def inputs(tmp_path: Path, policy: Decoder, critic: ScoredDecoder, tokenizer: Tokenizer) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in STAGE.inputs}
    save_model(policy, folders["sft"], tokenizer)
    save_reward(critic, folders["reward"], tokenizer)
    write_jsonl(folders["conversations"] / "prompts.jsonl", questions("p", 12))
    write_jsonl(folders["conversations"] / "prompts_heldout.jsonl", questions("h", 6))
    index: dict[str, Any] = {"dtype": "uint16", "tokenizer": tokenizer.hash}
    for split, count in (("train", 2000), ("heldout", 400)):
        tokens = np.random.default_rng(0).integers(0, 256, count).astype(np.uint16)
        folders["shards"].mkdir(exist_ok=True)
        tokens.tofile(folders["shards"] / f"{split}.bin")
        np.array([0, count], np.int64).tofile(folders["shards"] / f"{split}.offsets.bin")
        index[split] = {"tokens": count, "bytes": count, "documents": 1}
    write_json(folders["shards"] / "index.json", index)
    return folders


def test_the_stage_leaves_a_model_metrics_samples_and_a_headline(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "ppo"
    headline = run(PpoConfig(**CONFIG), inputs, out)
    load_model(out)
    lines = read_metrics(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    logged = {"proxy", "gold", "kl", "entropy", "length", "eos_rate", "value_loss", "policy_loss", "clip_fraction"}
    logged |= {"ptx_loss", "explained_variance", "lr", "kl_coef", "approx_kl", "grad_norm"}
    assert logged <= lines[0].keys()
    assert headline["prompts"] == 4
    assert headline["heldout_tokens"] == 300
    assert headline["ptx_tax"] == headline["bits_per_byte_after"] / headline["bits_per_byte_before"]
    gain = (headline["gold_ppo"] - headline["gold_sft"]) / headline["gold_sft_std"] if headline["gold_sft_std"] else 0.0
    assert headline["gold_gain"] == pytest.approx(gain)
    json.dumps(headline, allow_nan=False)
    samples = read_json(out / "samples.json")
    assert [sample["id"] for sample in samples] == ["h0", "h1"]
    assert not (out / "checkpoint").exists()


@pytest.mark.parametrize("killed_in", [1, 3, 5])
def test_a_killed_run_ends_with_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int
) -> None:
    config = PpoConfig(**CONFIG)
    straight = run(config, inputs, tmp_path / "straight")
    learn = Trainer.learn

    def killed(self: Trainer, step: int, rollout: Any) -> dict[str, float]:
        if step == killed_in:
            raise KeyboardInterrupt
        return learn(self, step, rollout)

    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, inputs, tmp_path / "killed")
    monkeypatch.undo()
    resumed = run(config, inputs, tmp_path / "killed")
    for name in ("model.safetensors", "samples.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    logs = [read_metrics(tmp_path / name) for name in ("killed", "straight")]
    assert [{**line, "tokens_per_second": 0} for line in logs[0]] == [
        {**line, "tokens_per_second": 0} for line in logs[1]
    ]
    assert resumed == straight


def test_with_adapters_a_killed_run_ends_with_the_same_bytes_and_a_plain_model(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PpoConfig(**CONFIG | {"episodes": 24}, lora=LoraConfig(rank=2))
    straight = run(config, inputs, tmp_path / "straight")
    learn = Trainer.learn

    def killed(self: Trainer, step: int, rollout: Any) -> dict[str, float]:
        if step == 2:
            raise KeyboardInterrupt
        return learn(self, step, rollout)

    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, inputs, tmp_path / "killed")
    monkeypatch.undo()
    assert run(config, inputs, tmp_path / "killed") == straight
    first, second = (tmp_path / name / "model.safetensors" for name in ("straight", "killed"))
    assert first.read_bytes() == second.read_bytes()
    result, _ = load_model(tmp_path / "straight")
    start, _ = load_model(inputs["sft"])
    assert torch.equal(result.embedding.weight, start.embedding.weight)
    assert not torch.equal(result.blocks[0].attention.qkv.weight, start.blocks[0].attention.qkv.weight)


def test_rules_alone_need_no_reward_model_and_are_logged_one_by_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(
        "def longer(prompts, answers):\n    return [len(a) / 10 for a in answers]\n"
        "def asked(prompts, answers):\n    return [len(p[-1].text) for p in prompts]\n"
    )
    rewards = ({"rule": "longer", "file": rules, "weight": 2.0}, {"rule": "asked", "file": rules})
    config = PpoConfig(**CONFIG | {"episodes": 16}, rewards=rewards)
    assert config.wanted(STAGE.inputs) == ("sft", "conversations", "shards")
    assert PpoConfig(**CONFIG).wanted(STAGE.inputs) == STAGE.inputs
    folders = {name: folder for name, folder in inputs.items() if name != "reward"}
    run(config, folders, tmp_path / "ppo")
    line = read_metrics(tmp_path / "ppo")[0]
    assert len("Capital 1?") <= line["reward_asked"] <= len("Capital 11?")
    assert line["reward_longer"] >= 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [float('nan')] * len(answers)", r"The reward 'odd' gave nan for the answer"),
        ("raise KeyError('x')", r"The reward 'odd' failed: KeyError: 'x'\."),
        ("return [1.0]", r"The reward 'odd' gave 1 scores for 8 answers\."),
        ("return None", r"The reward 'odd' failed: TypeError"),
    ],
)
def test_a_rule_that_goes_wrong_is_one_sentence_and_no_model_is_left(
    inputs: dict[str, Path], tmp_path: Path, body: str, said: str
) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(f"def odd(prompts, answers):\n    {body}\n")
    config = PpoConfig(**CONFIG | {"episodes": 16}, rewards=({"rule": "odd", "file": rules},))
    with pytest.raises(UserError, match=said):
        run(config, inputs, tmp_path / "ppo")
    assert not list((tmp_path / "ppo").rglob("*.safetensors"))


def test_one_held_out_prompt_and_windows_longer_than_the_context_will_do(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = PpoConfig(**CONFIG | {"episodes": 8, "eval_prompts": 1, "ptx_length": 5000})
    headline = run(config, inputs, tmp_path / "ppo")
    assert json.loads(json.dumps(headline, allow_nan=False))["gold_gain"] == 0.0


@pytest.mark.parametrize("killed_in", [1, 2])
def test_grpo_ends_with_the_same_bytes_after_a_kill(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int
) -> None:
    shared = {k: v for k, v in CONFIG.items() if k not in ("adaptive_kl", "ptx_coef")}
    config = GrpoConfig(**shared | {"episodes": 24, "group": 4, "inner_epochs": 2})
    (tmp_path / "straight").mkdir()
    straight = grpo.STAGE.run(config, inputs, tmp_path / "straight")
    load_model(tmp_path / "straight")
    assert {"gold_grpo", "proxy_sft", "kl", "ptx_tax"} <= straight.keys()
    assert "value_loss" not in read_metrics(tmp_path / "straight")[0]
    learn = GrpoTrainer.learn

    def killed(self: GrpoTrainer, step: int, rollout: Any) -> dict[str, float]:
        if step == killed_in:
            raise KeyboardInterrupt
        return learn(self, step, rollout)

    monkeypatch.setattr(GrpoTrainer, "learn", killed)
    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        grpo.STAGE.run(config, inputs, tmp_path / "killed")
    monkeypatch.undo()
    assert grpo.STAGE.run(config, inputs, tmp_path / "killed") == straight
    first, second = (tmp_path / name / "model.safetensors" for name in ("straight", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_a_checkpoint_of_another_config_is_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatwright.training.ppo.stage.save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(PpoConfig(**CONFIG), inputs, tmp_path / "changed")
    monkeypatch.undo()
    with pytest.raises(UserError, match="made with another config than this run has; remove"):
        run(PpoConfig(**CONFIG | {"kl_coef": 0.5}), inputs, tmp_path / "changed")


def test_seeds_differ(inputs: dict[str, Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        run(PpoConfig(**CONFIG, seed=seed), inputs, tmp_path / str(seed))
    first, second = (load_model(tmp_path / str(seed))[0] for seed in (1, 2))
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


def test_with_rules_and_nothing_measured_on_text_prompts_and_a_model_will_do(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text("def longer(prompts, answers):\n    return [len(a) / 10 for a in answers]\n")
    rewards = ({"rule": "longer", "file": rules},)
    config = PpoConfig(**CONFIG | {"episodes": 8, "ptx_coef": 0.0, "eval_tokens": 0}, rewards=rewards)
    assert config.wanted(STAGE.inputs) == ("sft", "conversations")
    headline = run(config, {name: inputs[name] for name in ("sft", "conversations")}, tmp_path / "ppo")
    assert "ptx_tax" not in headline
    assert checks.training_checks({"ppo": headline})["ptx_tax"].note == "bits per byte were not measured"
    mixed = PpoConfig(**CONFIG | {"eval_tokens": 0})
    assert "shards" in mixed.wanted(STAGE.inputs)


def test_without_the_mix_no_pretraining_text_is_read(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(PpoConfig(**CONFIG | {"ptx_coef": 0.0}), inputs, tmp_path / "ppo")
    assert "ptx_loss" not in read_metrics(tmp_path / "ppo")[0]


def test_inputs_that_do_not_fit_are_named(inputs: dict[str, Path], tmp_path: Path, critic: ScoredDecoder) -> None:
    write_jsonl(inputs["conversations"] / "prompts.jsonl", [])
    with pytest.raises(UserError, match=r"prompts.jsonl has no prompts"):
        run(PpoConfig(**CONFIG), inputs, tmp_path / "ppo")
    save_reward(deepcopy(critic), inputs["reward"], train_bpe(["another text, another vocabulary"] * 4, 280))
    with pytest.raises(UserError, match="another tokenizer"):
        run(PpoConfig(**CONFIG), inputs, tmp_path / "ppo")


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch \(8\) must be a multiple of minibatch \(3\)"):
        PpoConfig(**CONFIG | {"minibatch": 3})
    with pytest.raises(ValueError, match="no pretraining window"):
        PpoConfig(**CONFIG | {"ptx_examples": 0.01})
