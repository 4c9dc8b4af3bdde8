"""Best-of-n: its worth and its KL against enumeration, and the stage on folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from chatwright.inference.engine import Engine
from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import load_model, save_model
from chatwright.model.presets import preset
from chatwright.records import Conversation, Gold, Message, Question
from chatwright.storage import read_json, read_jsonl, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import best_of_n
from chatwright.training.best_of_n import STAGE, BestOfNConfig, best_of, best_of_n_kl, draw
from chatwright.training.guards import RunStopped
from chatwright.training.rewards import Rewards


def test_the_kl_is_that_of_a_policy_whose_answers_all_differ() -> None:
    """A table of many equally likely answers with distinct scores: the k-th of m is the best of n with
    ``(k^n - (k - 1)^n) / m^n``. With a fine table the KL comes to log n - (n - 1) / n."""
    m = 4000
    for n in (1, 2, 4, 16):
        chances = [(k / m) ** n - ((k - 1) / m) ** n for k in range(1, m + 1)]
        kl = sum(chance * math.log(chance * m) for chance in chances if chance > 0)
        assert kl == pytest.approx(best_of_n_kl(n), abs=0.01)


def test_the_kl_measured_on_sampled_answers_agrees_with_the_estimate() -> None:
    """Draw n answers of a table, keep the best, and compare frequencies with the table's."""
    generator = torch.Generator().manual_seed(0)
    m, n, draws = 64, 4, 200_000
    best_N = torch.randint(0, m, (draws, n), generator=generator).max(dim=1).values  # the answer's number is its score
    chance_M = torch.bincount(best_N, minlength=m).double() / draws
    kl = (chance_M * (chance_M * m).clamp_min(1e-12).log()).sum().item()
    assert kl == pytest.approx(best_of_n_kl(n), rel=0.03)


def test_answers_that_come_twice_make_the_kl_smaller_never_larger() -> None:
    table = {"a": 0.7, "b": 0.3}  # b is better
    for n in (2, 3):
        best_b = 1 - table["a"] ** n
        kl = best_b * math.log(best_b / table["b"]) + (1 - best_b) * math.log((1 - best_b) / table["a"])
        assert 0 < kl < best_of_n_kl(n)


def test_the_worth_of_the_best_is_the_mean_over_all_subsets() -> None:
    generator = torch.Generator().manual_seed(1)
    proxy_PN, gold_PN = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    for n, p in product((1, 2, 5, 6), range(3)):
        bests = [max(subset, key=lambda i: proxy_PN[p, i]) for subset in combinations(range(6), n)]
        expected = sum(gold_PN[p, i].item() for i in bests) / len(bests)
        assert best_of(proxy_PN, gold_PN, n)[p].item() == pytest.approx(expected)


@pytest.fixture
def folders(tmp_path: Path, tokenizer: Tokenizer) -> dict[str, Path]:
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 48, "layers": 1, "d_model": 16, "heads": 1}
    model = Decoder(preset("modern", **sizes))
    init_weights(model, torch.Generator().manual_seed(1))
    folders = {"sft": tmp_path / "sft", "conversations": tmp_path / "conversations"}
    save_model(model, folders["sft"], tokenizer)
    for name, count in (("prompts", 5), ("prompts_heldout", 3)):
        gold = Gold(kind="fact", right=[["white"]])
        questions = [
            Question(id=f"{name}{i}", messages=[Message(role="user", content=f"Snow {i}?")], gold=gold, check="")
            for i in range(count)
        ]
        write_jsonl(folders["conversations"] / f"{name}.jsonl", questions)
    return folders


def test_the_stage_keeps_the_best_answers_as_demonstrations(folders: dict[str, Path], tmp_path: Path) -> None:
    rule = tmp_path / "rules.py"
    rule.write_text("def longer(prompts, answers):\n    return [len(answer) for answer in answers]\n")
    rewards = ({"rule": "longer", "file": rule},)
    config = BestOfNConfig(n=4, rewards=rewards, max_tokens=24, dtype="float32", missing_eos_score=0.0)
    assert config.wanted(STAGE.inputs) == ("sft", "conversations")
    outs = [tmp_path / "once", tmp_path / "again"]
    for out in outs:
        out.mkdir()
        headline = STAGE.run(config, folders, out)
    curve = read_json(outs[0] / "curve.json")["curve"]
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert [point["kl"] for point in curve] == [best_of_n_kl(n) for n in (1, 2, 4)]
    assert curve[0]["proxy"] <= curve[1]["proxy"] <= curve[2]["proxy"]
    kept = read_jsonl(outs[0] / "demonstrations.jsonl", Conversation)
    assert headline["demonstrations"] == len(kept)
    for conversation in kept:
        assert conversation.meta["score"] == len(conversation.messages[-1].text)
    assert (outs[0] / "demonstrations.jsonl").read_bytes() == (outs[1] / "demonstrations.jsonl").read_bytes()


def test_a_killed_run_goes_on_with_the_prompts_that_it_had_not_drawn(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = tmp_path / "rules.py"
    rule.write_text("def longer(prompts, answers):\n    return [len(answer) for answer in answers]\n")
    rewards = ({"rule": "longer", "file": rule},)
    config = BestOfNConfig(n=4, rewards=rewards, max_tokens=24, dtype="float32", batch_size=4, missing_eos_score=0.0)
    outs = [tmp_path / "straight", tmp_path / "killed"]
    for out in outs:
        out.mkdir()
    straight = STAGE.run(config, folders, outs[0])
    asked: list[str] = []
    draw, dies = best_of_n._draw, True

    def killed(config: BestOfNConfig, engine: Any, rewards: Any, questions: Sequence[Question]) -> Any:
        if dies and len(asked) == 5:  # the second part of the training prompts
            raise KeyboardInterrupt
        asked.extend(question.id for question in questions)
        return draw(config, engine, rewards, questions)

    monkeypatch.setattr(best_of_n, "_draw", killed)
    with pytest.raises(KeyboardInterrupt):
        STAGE.run(config, folders, outs[1])
    assert (outs[1] / "curve.json").exists()
    assert not (outs[1] / "demonstrations.jsonl").exists()
    dies = False
    assert STAGE.run(config, folders, outs[1]) == straight
    assert asked == [f"prompts_heldout{i}" for i in range(3)] + [f"prompts{i}" for i in range(5)], (
        "none was asked twice"
    )
    for name in ("curve.json", "demonstrations.jsonl"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_a_part_is_the_same_whatever_was_drawn_before_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """What is left of an earlier part in the engine's cache would change later ones by rounding."""
    model, tokenizer = load_model(folders["sft"])
    questions = read_jsonl(folders["conversations"] / "prompts.jsonl", Question)
    rewards = Rewards({"long": (1.0, lambda prompts, responses: torch.tensor([float(len(r)) for r in responses]))})
    config = BestOfNConfig(n=4, max_tokens=24, batch_size=4)
    engine = Engine(model, tokenizer)
    drawn = draw(config, engine, rewards, questions, tmp_path / "all")
    assert engine.version == 3
    (tmp_path / "last").mkdir()
    for number in (0, 2):
        name = f"{number:08}.jsonl"
        (tmp_path / "last" / name).write_bytes((tmp_path / "all" / name).read_bytes())
    assert draw(config, Engine(model, tokenizer), rewards, questions, tmp_path / "last") == drawn


def test_scores_that_are_no_numbers_stop_the_run(folders: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = load_model(folders["sft"])
    questions = read_jsonl(folders["conversations"] / "prompts.jsonl", Question)
    rewards = Rewards({"model": (1.0, lambda prompts, responses: torch.full((len(responses),), math.nan))})
    with pytest.raises(RunStopped, match=r"best_of_n stopped: 20 of 20 scores of the reward 'model' are not finite"):
        draw(BestOfNConfig(n=4, max_tokens=4), Engine(model, tokenizer), rewards, questions, tmp_path / "parts")
    assert not list(tmp_path.glob("parts/*"))


def test_answers_that_are_worth_too_little_are_not_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    rule = tmp_path / "rules.py"
    rule.write_text("def same(prompts, answers):\n    return [0.5 for _ in answers]\n")
    config = BestOfNConfig(n=2, rewards=({"rule": "same", "file": rule},), max_tokens=4, dtype="float32", min_score=0.6)
    out = tmp_path / "out"
    out.mkdir()
    assert STAGE.run(config, folders, out)["demonstrations"] == 0
    assert read_jsonl(out / "demonstrations.jsonl", Conversation) == []
