from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_reward, save_model
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.records import Comparison, Conversation, Message
from chatwright.stage import read_metrics
from chatwright.storage import read_jsonl, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import reward
from chatwright.training.comparisons import as_ids, read, read_file
from chatwright.training.objectives import ranking_loss
from chatwright.training.order import Shuffled
from chatwright.training.rankings import last_scores, preferences, ranking, score_each
from chatwright.training.reward import (
    HELDOUT,
    HELDOUT_SCORES,
    RewardConfig,
    Scores,
    accuracies,
    center,
    pair_accuracy,
    zero_ids,
)
from chatwright.training.sft import example

from .conftest import COLORS, MODEL, comparison, conversation

QUICK = {"epochs": 25, "batch": 6, "micro_batch": 8, "optim": {"lr": 0.01}, "checkpoint": {"every": 4}}


@pytest.fixture
def model(tokenizer: Tokenizer) -> ScoredDecoder:
    torch.manual_seed(0)
    sizes = {name: value for name, value in MODEL.items() if name not in ("preset", "context")}
    decoder = Decoder(preset("modern", vocab_size=tokenizer.vocab_size, context=96, **sizes))
    return ScoredDecoder(decoder, torch.Generator().manual_seed(0))


@pytest.fixture
def sources(inputs: dict[str, Path], model: ScoredDecoder, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    save_model(model.decoder, tmp_path / "sft", tokenizer)
    return {**inputs, "sft": tmp_path / "sft"}


def test_worked_examples_hold() -> None:
    assert doctest.testmod(reward).failed == 0


def test_the_preset_is_instructgpts_and_other_keys_override_it() -> None:
    config = RewardConfig(preset="instructgpt", batch=32, optim={"lr": 1e-5})
    assert (config.epochs, config.batch) == (1.0, 32)
    assert (config.optim.kind, config.optim.lr, config.optim.betas) == ("adamw", 1e-5, (0.9, 0.95))
    assert RewardConfig(preset="instructgpt").optim.lr == 9e-6
    rate = RewardConfig(preset="instructgpt").schedule
    assert [rate.multiplier(step, 1001) for step in (0, 500, 1000)] == pytest.approx([1.0, 0.55, 0.1])


def test_a_preset_counts_by_what_it_sets() -> None:
    """So that settings written out, or a model made before there were presets, have the same key."""
    named = RewardConfig(preset="instructgpt")
    written = RewardConfig(**named.model_dump(exclude={"preset"}))
    assert named.hash() == written.hash() != RewardConfig().hash()


def test_it_learns_the_order_and_centers_the_demonstrations(
    sources: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    accuracies = []
    for seed in (4, 3, 2, 1):  # on so few pairs one run's accuracy moves by 0.05 with the rounding alone
        out = tmp_path / f"out{seed}"
        out.mkdir()
        headline = reward.run(RewardConfig(**QUICK, seed=seed), sources, out)
        accuracies.append(headline["accuracy"])
    assert sum(accuracies) / len(accuracies) > 0.9
    assert headline["accuracy"] > headline["length_accuracy"]
    assert 0.8 < headline["labeler_agreement"] < 1.0  # it ties two answers of different worth
    assert not (out / "checkpoint").exists()
    model, _ = load_reward(out)
    talks = read_jsonl(sources["conversations"] / "demonstrations.jsonl", Conversation)
    ids = [[example(tokenizer, talk.messages).ids] for talk in talks]
    scores = [score for (score,) in score_each(model, ids, 5, tokenizer.pad, "float32")]
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=0.02)


def test_a_broken_run_resumes_to_the_same_bits(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RewardConfig(**{**QUICK, "epochs": 5})
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
    reward.run(config, sources, tmp_path / "straight")

    def breaks(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reward, "save_reward", breaks)
        with pytest.raises(KeyboardInterrupt):
            reward.run(config, sources, tmp_path / "broken")
    (tmp_path / "broken" / "metrics.jsonl").unlink()
    reward.run(config, sources, tmp_path / "broken")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "straight" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()


def test_pairs_of_ones_own_are_learned_from_without_other_stages(
    sources: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    own = tmp_path / "pairs.jsonl"
    lines = []
    for i in range(40):
        thing, color = list(COLORS.items())[i % 6]
        asked = f"\n\nHuman: {i}: What is the color of {thing}?\n\nAssistant:"
        lines.append({"chosen": f"{asked} It is {color}.", "rejected": f"{asked} The color of {thing}."})
    own.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"chosen": "a", "rejected": "b"}]))
    config = RewardConfig(**QUICK, data=own, malformed="skip", heldout=0.3, prompts=20)
    assert config.wanted(reward.STAGE.inputs) == ("sft",)
    headline = reward.run(config, {"sft": sources["sft"]}, tmp_path)
    assert headline["prompts"] == 20
    assert headline["accuracy_labels"] > 0.9
    held = read_jsonl(tmp_path / HELDOUT, Comparison)
    scores = read_jsonl(tmp_path / HELDOUT_SCORES, Scores)
    assert [record.id for record in scores] == [item.id for item in held]
    assert pair_accuracy([record.scores for record in scores], list(map(preferences, held))) > 0.9
    assert len((tmp_path / "malformed.jsonl").read_text().splitlines()) == 1
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 41: chosen does not begin with"):
        reward.run(config.model_copy(update={"malformed": "refuse"}), {"sft": sources["sft"]}, tmp_path)
    with pytest.raises(UserError, match="fits into 5 tokens; shorten them, or"):
        reward.run(config.model_copy(update={"max_tokens": 5}), {"sft": sources["sft"]}, tmp_path)


def test_a_demonstration_one_token_too_long_does_not_set_the_zero(model: ScoredDecoder, tokenizer: Tokenizer) -> None:
    short = Conversation(id="short", messages=conversation("a", "snow").messages)
    asked, size = short.messages[0], 97 - len(example(tokenizer, short.messages).ids)
    answers = (Message(role="assistant", content="It is white." + "q" * count) for count in range(size, 2 * size))
    sized = (Conversation(id="long", messages=[asked, answer]) for answer in answers)
    long = next(talk for talk in sized if len(example(tokenizer, talk.messages).ids) == 97)  # the context is 96
    alone = last_scores(model.eval(), [example(tokenizer, short.messages).ids], tokenizer.pad).item()
    zero = zero_ids(tokenizer, [long, short], 96)
    assert center(model, zero, RewardConfig(dtype="float32"), tokenizer.pad) == pytest.approx(alone, abs=1e-5)
    with pytest.raises(UserError, match="No demonstration fits into the model's context of 96 tokens"):
        zero_ids(tokenizer, [long], 96)


def test_dropout_is_off(inputs: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = preset("gpt2", vocab_size=tokenizer.vocab_size, context=96, layers=1, d_model=32, heads=2, dropout=0.5)
    save_model(Decoder(config), tmp_path / "sft", tokenizer)
    for seed in (1, 2):  # of dropout, were there any
        out = tmp_path / f"out{seed}"
        out.mkdir()
        settings = RewardConfig(
            **{**QUICK, "epochs": 0.5, "optim": {"kind": "adamw", "lr": 1e-9}}, dtype="float32", seed=seed
        )
        reward.run(settings, {**inputs, "sft": tmp_path / "sft"}, out)
        loss = next(line["loss"] for line in read_metrics(out) if "loss" in line)
        model, _ = load_reward(out)
        data = read(settings, {**inputs, "sft": tmp_path / "sft"}, out)
        rankings = [ranking(tokenizer, item, 96) for item in data.training]
        assert all(rankings)
        scores = score_each(model.eval(), [item.answers for item in rankings], 9, tokenizer.pad, "float32")
        chosen = [number for _, number in Shuffled(len(rankings), settings.seed).take(0, settings.batch)]
        expected = ranking_loss(
            torch.tensor([scores[i] for i in chosen]),
            torch.tensor([rankings[i].ranks for i in chosen]),
            torch.ones(len(chosen), 4, dtype=torch.bool),
        )
        assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_pair_accuracy_counts_pairs_and_halves_toss_ups() -> None:
    assert pair_accuracy([[1.0, 2.0]], [[0.0, 5.0]]) == 1.0
    assert pair_accuracy([[2.0, 1.0]], [[0.0, 5.0]]) == 0.0
    assert pair_accuracy([[1.0, 1.0]], [[0.0, 5.0]]) == 0.5
    assert pair_accuracy([[1.0, 2.0, 0.0], [3.0, 1.0]], [[0.0, 1.0, 1.0], [0.0, 1.0]]) == pytest.approx(1 / 3)


def test_without_true_scores_only_the_labels_are_compared_with(tmp_path: Path) -> None:
    items = [comparison("a", "snow")]
    found = accuracies(items, [preferences(items[0])], tmp_path / "scores.jsonl")
    assert found["accuracy_labels"] == 1.0
    assert set(found) == {"accuracy_labels", "length_accuracy_labels"}


def test_true_scores_of_other_answers_are_refused(tmp_path: Path) -> None:
    items = [comparison("a", "snow")]
    write_jsonl(tmp_path / "scores.jsonl", [{"id": "a", "scores": [1.0]}])
    with pytest.raises(UserError, match="has no scores for the answers of comparison 'a'"):
        accuracies(items, [preferences(items[0])], tmp_path / "scores.jsonl")


def test_answers_that_are_all_worth_the_same_say_nothing_of_the_model(tmp_path: Path) -> None:
    """As of prompts of one's own, about which the simulated labeller knows nothing."""
    items = [comparison("a", "snow")]
    write_jsonl(tmp_path / "scores.jsonl", [{"id": "a", "scores": [0.0] * 4}])
    found = accuracies(items, [preferences(items[0])], tmp_path / "scores.jsonl")
    assert set(found) == {"accuracy_labels", "length_accuracy_labels"}


def test_comparisons_of_which_only_ties_fit_are_refused(tmp_path: Path) -> None:
    tied = comparison("a", "snow").model_copy(update={"tiers": [[0, 1, 2, 3]]})
    long = comparison("b", "coal")
    with pytest.raises(UserError, match="in which one answer is ranked above another fits into 9 tokens"):
        as_ids([tied, long], lambda item: None if item is long else [], tmp_path / "pairs.jsonl", 9)


def test_comparisons_that_rank_nothing_are_refused(tmp_path: Path) -> None:
    tied = comparison("a", "snow").model_copy(update={"tiers": [[0, 1, 2, 3]]})
    write_jsonl(tmp_path / "comparisons.jsonl", [tied])
    with pytest.raises(UserError, match="no comparison in which one answer is ranked above another"):
        read_file(tmp_path / "comparisons.jsonl")
