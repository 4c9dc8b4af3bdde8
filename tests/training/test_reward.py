from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_reward, save_model
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.records import Conversation
from chatwright.storage import read_jsonl, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import reward
from chatwright.training.loop import accumulate
from chatwright.training.objectives import ranking_loss
from chatwright.training.parallel import Layout
from chatwright.training.reward import (
    RewardConfig,
    accuracies,
    last_scores,
    pair_accuracy,
    preferences,
    ranking,
    ranking_parts,
    read_comparisons,
    score_each,
)
from chatwright.training.sft import example

from .conftest import MODEL, comparison

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


def test_it_learns_the_order_and_centers_the_demonstrations(
    sources: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    headline = reward.run(RewardConfig(**QUICK), sources, out)
    assert headline["accuracy"] > 0.9
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


def test_padding_and_company_do_not_change_a_score(model: ScoredDecoder, tokenizer: Tokenizer) -> None:
    answers = [ranking(tokenizer, comparison("a", thing), 96).answers for thing in ("snow", "coal")]
    together = score_each(model, answers, 100, tokenizer.pad, "float32")
    for group, scores in zip(answers, together, strict=True):
        for ids, score in zip(group, scores, strict=True):
            assert model(torch.tensor([ids]))[0, -1].item() == pytest.approx(score, abs=1e-5)


def test_a_score_is_read_at_the_end_of_turn(tokenizer: Tokenizer) -> None:
    item = ranking(tokenizer, comparison("a", "snow"), 96)
    assert {ids[-1] for ids in item.answers} == {tokenizer.end_of_turn}
    assert item.ranks == [1, 0, 1, 2]
    cut = ranking(tokenizer, comparison("a", "snow"), 12)
    assert [ids == whole[-12:] for ids, whole in zip(cut.answers, item.answers, strict=True)] == [True] * 4


@pytest.mark.parametrize("micro_batch", [1, 9, 100])
def test_parts_add_up_to_the_mean_over_prompts(
    model: ScoredDecoder, tokenizer: Tokenizer, alone: Layout, micro_batch: int
) -> None:
    rankings = [ranking(tokenizer, comparison("a", thing), 96) for thing in ("snow", "coal", "sky")]
    scores = torch.stack([last_scores(model, item.answers, tokenizer.pad) for item in rankings])
    ranks = torch.tensor([item.ranks for item in rankings])
    expected = ranking_loss(scores, ranks, torch.ones_like(ranks, dtype=torch.bool))
    gradient = torch.autograd.grad(expected, model.head.weight)[0]
    sums = accumulate(ranking_parts(model, rankings, micro_batch, tokenizer.pad, "float32", alone), alone)
    assert float(sums["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    assert float(sums["accuracy"]) == pytest.approx(pair_accuracy(scores.tolist(), (-ranks).tolist()))
    torch.testing.assert_close(model.head.weight.grad, gradient, atol=1e-6, rtol=1e-4)


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


def test_comparisons_that_rank_nothing_are_refused(tmp_path: Path) -> None:
    tied = comparison("a", "snow").model_copy(update={"tiers": [[0, 1, 2, 3]]})
    write_jsonl(tmp_path / "comparisons.jsonl", [tied])
    with pytest.raises(UserError, match="no comparison in which one answer is ranked above another"):
        read_comparisons(tmp_path / "comparisons.jsonl")
