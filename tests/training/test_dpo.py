"""DPO: the loss against the published formula, and the stage on folders."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import load_model, save_model
from chatwright.model.presets import preset
from chatwright.records import Comparison, Message
from chatwright.stage import read_metrics
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training import dpo
from chatwright.training.dpo import (
    STAGE,
    Choices,
    DpoConfig,
    answer_logprobs,
    answered,
    choices,
    dpo_loss,
    preference_parts,
)
from chatwright.training.loop import accumulate
from chatwright.training.lora import LoraConfig
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import Layout

from .conftest import COLORS

CONFIG = {
    "epochs": 4.0,
    "batch": 4,
    "micro_batch": 8,
    "optim": OptimConfig(kind="adamw", lr=3e-3, weight_decay=0.0),
    "dtype": "float32",
    "eval_every": 4,
    "checkpoint": {"every": 2},
}


@pytest.fixture
def model(tokenizer: Tokenizer) -> Decoder:
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 48, "layers": 2, "d_model": 32, "heads": 2}
    made = Decoder(preset("modern", **sizes))
    init_weights(made, torch.Generator().manual_seed(1))
    return made.eval()


@pytest.fixture
def folders(inputs: dict[str, Path], tmp_path: Path, model: Decoder, tokenizer: Tokenizer) -> dict[str, Path]:
    save_model(model, tmp_path / "sft", tokenizer)
    return {**inputs, "sft": tmp_path / "sft"}


def run(config: DpoConfig, folders: dict[str, Path], out: Path) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    return STAGE.run(config, folders, out)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_two_answers_is_the_papers(smoothing: float) -> None:
    """Equation 7, and TRL's sigmoid loss with label smoothing, pair by pair in float64."""
    generator = torch.Generator().manual_seed(0)
    now, before = (torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    ranks = torch.tensor([[0, 1], [1, 0]] * 3)
    losses = []
    for row in range(6):
        w, lose = ranks[row].argmin().item(), ranks[row].argmax().item()
        margin = 0.3 * ((now[row, w] - before[row, w]) - (now[row, lose] - before[row, lose])).item()
        right, wrong = math.log1p(math.exp(-margin)), math.log1p(math.exp(margin))
        losses.append((1 - smoothing) * right + smoothing * wrong)
    found = dpo_loss(now, before, ranks, torch.ones(6, 2, dtype=torch.bool), 0.3, smoothing)
    assert found.item() == pytest.approx(sum(losses) / 6)


def test_a_ranking_gives_all_its_pairs_and_none_of_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    now, before = (torch.randn(1, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    ranks, valid = torch.tensor([[2, 0, 1, 1, 0]]), torch.tensor([[True, True, True, True, False]])
    rewards = (0.1 * (now - before))[0].tolist()
    losses = []
    for a, b in combinations(range(4), 2):
        if ranks[0, a] != ranks[0, b]:
            better, worse = (a, b) if ranks[0, a] < ranks[0, b] else (b, a)
            losses.append(math.log1p(math.exp(rewards[worse] - rewards[better])))
    assert len(losses) == 5
    assert dpo_loss(now, before, ranks, valid, 0.1).item() == pytest.approx(sum(losses) / 5)


def test_the_first_loss_is_log_2_and_its_gradient_favours_the_better_answer() -> None:
    logprobs = torch.tensor([[-5.0, -9.0]], requires_grad=True)
    loss = dpo_loss(logprobs, logprobs.detach(), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[pytest.approx(-0.05), pytest.approx(0.05)]]


def test_an_answers_logprob_is_that_of_its_own_tokens_alone(model: Decoder, tokenizer: Tokenizer) -> None:
    item = Choices([5, 6, 7], [[20, 21], [22, 23, 24]], [0, 1])
    other = Choices([8] * 9, [[30] * 6], [0])
    found = answer_logprobs(model, answered([item, other]), tokenizer, "float32")
    for k in range(2):
        ids = item.prompt + item.answers[k]
        logprobs_TV = model(torch.tensor([ids]))[0, :, : tokenizer.vocab_size].log_softmax(-1)
        expected = sum(logprobs_TV[t - 1, ids[t]].item() for t in range(3, len(ids)))
        assert found[k].item() == pytest.approx(expected, abs=1e-4)


def test_long_prompts_lose_whole_exchanges_and_what_does_not_fit_is_left_out(tokenizer: Tokenizer) -> None:
    asked = Message(role="user", content="What is the color of snow?")
    said = Message(role="assistant", content="The color of snow is white. " * 9)
    comparison = Comparison(
        id="x", prompt=[asked, said, asked], answers=["It is.", "No."], tiers=[[0], [1]], labeler="rule"
    )
    item = choices(tokenizer, comparison, context=48)
    assert item is not None
    assert item.prompt == render(tokenizer, [asked], generation_prompt=True)
    assert [answer[-1] for answer in item.answers] == [tokenizer.end_of_turn] * 2
    assert choices(tokenizer, comparison, context=8) is None


def test_parts_add_up_to_the_gradient_of_the_whole(model: Decoder, tokenizer: Tokenizer, alone: Layout) -> None:
    generator = torch.Generator().manual_seed(2)

    def ids(count: int) -> list[int]:
        return torch.randint(5, 200, (count,), generator=generator).tolist()

    items = [Choices(ids(4), [ids(2 + i) for i in range(k)], list(range(k))) for k in (2, 4, 3)]
    references = [torch.zeros(len(item.ranks)) for item in items]
    gradients = []
    for micro_batch in (64, 4, 1):
        model.zero_grad()
        config = DpoConfig(**CONFIG | {"micro_batch": micro_batch})
        accumulate(preference_parts(model, items, references, tokenizer, config, alone), alone)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-6, rtol=1e-4)


def test_pairs_of_ones_own_are_learned_from_with_the_sft_model_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    own, lines = tmp_path / "pairs.jsonl", []
    for i in range(30):
        thing, color = list(COLORS.items())[i % 6]
        asked = f"\n\nHuman: {i}: {thing}?\n\nAssistant:"
        lines.append({"chosen": f"{asked} It is {color}.", "rejected": f"{asked} No."})
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DpoConfig(**CONFIG, data=own, prompts=12, heldout_prompts=2)
    assert config.wanted(STAGE.inputs) == ("sft",)
    headline = run(config, {"sft": folders["sft"]}, tmp_path / "out")
    assert (headline["prompts"], headline["heldout_prompts"], headline["too_long"]) == (12, 2, 0)
    assert headline["accuracy_labels"] == 1.0
    with pytest.raises(UserError, match="fits into 5 tokens; shorten them, or"):
        run(config.model_copy(update={"max_tokens": 5}), {"sft": folders["sft"]}, tmp_path / "short")


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_the_stage_learns_the_rule_and_a_killed_run_ends_with_the_same_bytes(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraConfig | None
) -> None:
    config = DpoConfig(**CONFIG, lora=lora)
    straight = run(config, folders, tmp_path / "straight")
    lines = read_metrics(tmp_path / "straight")
    assert lines[0]["heldout_accuracy"] == 0.5  # nothing has moved: all pairs tie
    assert lines[0]["heldout_loss"] == pytest.approx(math.log(2))
    assert lines[-1]["heldout_loss"] == straight["heldout_loss"] < 0.6
    assert straight["accuracy_labels"] > 0.8
    assert straight["logprob_change_best"] > straight["logprob_change_worst"]
    load_model(tmp_path / "straight")
    calls = 0

    def killed(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return parts(*args)  # type: ignore[arg-type]

    parts = dpo.preference_parts
    monkeypatch.setattr(dpo, "preference_parts", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, folders, tmp_path / "killed")
    monkeypatch.undo()
    assert run(config, folders, tmp_path / "killed") == straight
    first, second = (tmp_path / name / "model.safetensors" for name in ("straight", "killed"))
    assert first.read_bytes() == second.read_bytes()
