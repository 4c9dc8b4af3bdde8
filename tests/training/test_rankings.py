from __future__ import annotations

import doctest
import math
from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.records import Comparison, Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import rankings
from chatwright.training.loop import accumulate
from chatwright.training.objectives import ranking_loss
from chatwright.training.parallel import Layout
from chatwright.training.rankings import (
    Ranking,
    last_scores,
    ranking,
    ranking_parts,
    row_length,
    row_scores,
    score_each,
    shared,
)
from chatwright.training.sft import example

from .conftest import MODEL, comparison

WORDS = 250  # ids that stand for words


def scored(name: str, tokenizer: Tokenizer, **changes: object) -> ScoredDecoder:
    torch.manual_seed(0)
    sizes = {key: value for key, value in MODEL.items() if key not in ("preset", "context")}
    sizes |= {} if name == "modern" else {"kv_heads": sizes["heads"]}
    config = preset(name, vocab_size=tokenizer.vocab_size, context=96, **{**sizes, **changes})
    return ScoredDecoder(Decoder(config), torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def model(tokenizer: Tokenizer) -> ScoredDecoder:
    return scored("modern", tokenizer)


def drawn(counts: list[int], seed: int = 0) -> list[Ranking]:
    """Prompts with so many answers each, of random lengths; answers may begin alike, and ranks may tie."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(WORDS, (length,), generator=generator).tolist()

    found = []
    for count in counts:
        prompt = ids(3, 20)
        ranks = torch.randint(3, (count,), generator=generator).tolist()
        ranks[:2] = [0, 1]  # at least one pair
        found.append(Ranking([prompt + [1] * (k % 3) + ids(1, 12) for k in range(count)], ranks))
    return found


def alone(model: ScoredDecoder, ids: list[int]) -> Tensor:
    return model(torch.tensor([ids]))[0, -1]


def pair_loop(model: ScoredDecoder, items: list[Ranking]) -> Tensor:
    """Equation 1 of InstructGPT, one pair at a time and two passes for each; prompts without pairs count nothing."""
    prompts = []
    for item in items:
        losses = []
        for i, j in combinations(range(len(item.ranks)), 2):
            if item.ranks[i] != item.ranks[j]:
                better, worse = (i, j) if item.ranks[i] < item.ranks[j] else (j, i)
                margin = alone(model, item.answers[better]) - alone(model, item.answers[worse])
                losses.append(-torch.log(1 / (1 + torch.exp(-margin))))
        prompts.append(torch.stack(losses).mean())
    return torch.stack(prompts).mean()


def gradients(model: ScoredDecoder) -> Iterator[Tensor]:
    return (p.grad for p in model.parameters() if p.grad is not None)


def test_worked_examples_hold() -> None:
    assert doctest.testmod(rankings).failed == 0


@pytest.mark.parametrize("answers", [2, 4, 5, 6, 7, 8, 9])
def test_loss_and_gradient_are_those_of_a_loop_over_pairs(tokenizer: Tokenizer, alone: Layout, answers: int) -> None:
    model = scored("modern", tokenizer).double()
    items = drawn([answers] * 3, seed=answers)
    if answers > 2:
        assert any(len(set(item.ranks)) < answers for item in items)  # there are ties
    expected = pair_loop(model, items)
    expected.backward()
    wanted = [gradient.clone() for gradient in gradients(model)]
    model.zero_grad()
    sums = accumulate(ranking_parts(model, items, 100, tokenizer.pad, "float32", alone), alone)
    assert float(sums["loss"]) == pytest.approx(expected.item(), rel=1e-6)  # the head is float32
    for found, gradient in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 5, 11])
def test_accumulated_gradients_equal_those_of_the_full_batch(
    model: ScoredDecoder, tokenizer: Tokenizer, alone: Layout, micro_batch: int
) -> None:
    items = drawn([4, 9, 2, 5, 7, 2])
    found = []
    for most in (1000, micro_batch):
        model.zero_grad()
        sums = accumulate(ranking_parts(model, items, most, tokenizer.pad, "float32", alone), alone)
        found.append((float(sums["loss"]), float(sums["accuracy"]), [g.clone() for g in gradients(model)]))
    (loss, right, whole), (loss_in_parts, right_in_parts, parts) = found
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)
    assert right_in_parts == pytest.approx(right)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["modern", "gpt2", "gpt3-125m"])
def test_a_score_does_not_depend_on_what_shares_its_row_or_its_pass(name: str, tokenizer: Tokenizer) -> None:
    changes = {"attention_stride": 4} if name.startswith("gpt3") else {}
    model = scored(name, tokenizer, **changes)
    items = drawn([4, 9, 2, 5, 1])
    expected = [alone(model, ids).item() for item in items for ids in item.answers]
    together = row_scores(model, [item.answers for item in items], tokenizer.pad)
    assert together.tolist() == pytest.approx(expected, abs=1e-5)
    singly = last_scores(model, [ids for item in items for ids in item.answers], pad=7)  # whatever id is padding
    assert singly.tolist() == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        each = score_each(model, [item.answers for item in items], 6, 3, "float32")
    assert [score for scores in each for score in scores] == pytest.approx(expected, abs=1e-5)


def test_a_prompt_costs_its_tokens_once_and_each_of_k_answers_once(
    model: ScoredDecoder, tokenizer: Tokenizer, alone: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answers = [5] * 20, [[10 + k] * 6 for k in range(9)]
    item = Ranking([prompt + answer for answer in answers], list(range(9)))
    passed = []
    whole = model.decoder.hidden

    def counts(tokens_BT: Tensor, **settings: Tensor) -> Tensor:
        passed.append(tokens_BT.shape)
        return whole(tokens_BT, **settings)

    monkeypatch.setattr(model.decoder, "hidden", counts)
    (part,) = ranking_parts(model, [item] * 3, 1000, tokenizer.pad, "float32", alone)
    assert passed == [(3, 20 + 9 * 6)]  # and not 2 x 36 pairs of 26
    assert part.tokens == 3 * row_length(item.answers) == 3 * 74


def test_what_a_row_shares_leaves_each_sequence_its_last_token() -> None:
    assert shared([[1, 2, 3], [1, 2, 3]]) == 2
    assert row_length([[1, 2, 3], [1, 2, 3]]) == 4
    assert shared([[1], [1, 2]]) == 0


def test_the_rows_of_a_group_are_alike_in_length() -> None:
    items = drawn([2] * 40)
    lengths = [[row_length(item.answers) for item in part] for part in rankings._parts(items, 8)]
    assert all(len(part) == 4 for part in lengths)
    flat = [length for part in lengths for length in part]
    assert flat == sorted(flat)


def test_a_score_is_read_at_the_end_of_turn(tokenizer: Tokenizer) -> None:
    item = ranking(tokenizer, comparison("a", "snow"), 96)
    assert item is not None
    assert {ids[-1] for ids in item.answers} == {tokenizer.end_of_turn}
    assert item.ranks == [1, 0, 1, 2]


def test_what_is_too_long_loses_whole_exchanges_or_is_left_out(tokenizer: Tokenizer) -> None:
    said = ["What is the color of snow?", "It is white.", "And of coal?"]
    roles = ("user", "assistant", "user")
    turns = [Message(role=role, content=text) for role, text in zip(roles, said, strict=True)]
    system = Message(role="system", content="Be kind.")
    answers = ["It is black.", "It is white."]
    item = Comparison(id="a", prompt=[system, *turns], answers=answers, tiers=[[0], [1]], labeler="x")
    whole = ranking(tokenizer, item, 96)
    assert whole is not None
    size = max(map(len, whole.answers))
    for room in range(1, size + 1):
        found = ranking(tokenizer, item, room)
        for prompt in ([system, *turns], [system, turns[2]]):
            expected = [example(tokenizer, [*prompt, Message(role="assistant", content=a)]).ids for a in answers]
            if max(map(len, expected)) <= room:
                assert found is not None
                assert found.answers == expected
                break
        else:
            assert found is None


def test_the_loss_of_a_prompt_without_pairs_is_nothing_and_finite() -> None:
    scores = torch.tensor([[3.0, -1.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[0, 0]]), torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.abs().sum() == 0.0
    far = ranking_loss(torch.tensor([[-900.0, 900.0]]), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    assert math.isclose(far.item(), 1800.0)
    assert float(F.softplus(torch.tensor(1800.0))) == far.item()
