from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatwright.errors import UserError
from chatwright.inference import sampling as module
from chatwright.inference.sampling import Row, Sampling, candidates, choose, draw

LOGITS_RV = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 2


def filters(sampling: Sampling) -> LogitsProcessorList:
    """The same in transformers."""
    found = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found


FILTERED = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 100},
    {"top_p": 1e-6},
    {"top_p": 0.5},
    {"top_p": 0.97},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 12, "top_p": 0.8},
    {"top_k": 25, "top_p": 0.95, "min_p": 0.02, "temperature": 1.7},
]


@pytest.mark.parametrize("first", [1, 5, 256])
@pytest.mark.parametrize("fields", FILTERED)
def test_filters_keep_what_transformers_keeps(fields: dict[str, Any], first: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "FIRST_CANDIDATES", first)
    sampling = Sampling(**fields)
    theirs_RV = filters(sampling)(torch.zeros(6, 1, dtype=torch.long), LOGITS_RV.clone())
    logits_RC, ids_RC = candidates(LOGITS_RV / sampling.temperature, [sampling] * 6)
    ours_RV = torch.full_like(LOGITS_RV, -math.inf).scatter(1, ids_RC, logits_RC)
    torch.testing.assert_close(ours_RV, theirs_RV)


def test_rows_have_filters_of_their_own_and_ties_go_to_the_smaller_id() -> None:
    samplings = [Sampling(**fields) for fields in FILTERED[:6]]
    together, ids = candidates(LOGITS_RV, samplings)
    for row, sampling in enumerate(samplings):
        alone, own = candidates(LOGITS_RV[row : row + 1], [sampling])
        kept = alone.isfinite()[0]
        assert ids[row, : int(kept.sum())].tolist() == own[0][kept].tolist()
        assert torch.equal(together[row][together[row].isfinite()], alone[0][kept])
    equal, ids = candidates(torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]]), [Sampling(top_k=1)])
    assert ids[0][equal[0].isfinite()].tolist() == [1, 2, 4]  # as likely as the last one kept


def test_penalties_equal_transformers_and_the_formula() -> None:
    prompt, answer = [3, 3, 5], [7, 7, 9]
    for fields in ({"repetition_penalty": 1.3}, {"presence_penalty": 0.7}, {"frequency_penalty": -0.4}):
        sampling = Sampling(temperature=0.8, top_k=40, **fields)
        logits_V = LOGITS_RV[0].clone()
        row = Row(sampling, 0.5, answer, prompt)
        expected_V = logits_V.clone()
        if "repetition_penalty" in fields:
            ids = torch.tensor([[*prompt, *answer]])
            expected_V = RepetitionPenaltyLogitsProcessor(1.3)(ids, expected_V[None])[0]
        else:
            for token in (7, 9):
                expected_V[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
        scaled_V = logits_V / 0.8
        module.edit(scaled_V, row)
        torch.testing.assert_close(scaled_V, expected_V / 0.8)


def test_bias_bans_and_permissions() -> None:
    likeliest = int(LOGITS_RV[0].argmax())
    greedy = Sampling(temperature=0)

    def chosen(row: Row) -> int:
        return choose(LOGITS_RV[:1].clone(), [row])[0].token

    assert chosen(Row(greedy, 0.0)) == likeliest
    assert chosen(Row(Sampling(temperature=0, logit_bias={4: 100.0, 400: 1.0}), 0.0)) == 4
    assert chosen(Row(Sampling(temperature=0, logit_bias={likeliest: -100.0}), 0.0)) != likeliest
    assert chosen(Row(greedy, 0.0, banned=[likeliest])) != likeliest
    assert chosen(Row(greedy, 0.0, allowed_V=torch.arange(64) == 11)) == 11


def test_a_row_is_chosen_for_as_if_it_were_alone() -> None:
    samplings = [
        Sampling(temperature=0),
        Sampling(temperature=0.7),
        Sampling(top_p=0.8, logprobs=3),
        Sampling(top_k=5, logit_bias={3: 2.0}, logprobs=None),
        Sampling(temperature=1.5, presence_penalty=1.0, logprobs=2),
        Sampling(min_p=0.1, temperature=0.4),
    ]
    rows = [Row(sampling, 0.1 + 0.15 * i, [1, 2]) for i, sampling in enumerate(samplings)]
    together = choose(LOGITS_RV.clone(), rows)
    for i, row in enumerate(rows):
        alone = choose(LOGITS_RV[i : i + 1].clone(), [row])[0]
        assert (alone.token, alone.top) == (together[i].token, together[i].top)
        assert alone.logprob == together[i].logprob


def test_logprobs_are_the_models_own_at_the_temperature() -> None:
    sampling = Sampling(temperature=0.5, top_k=2, logit_bias={8: 9.0}, logprobs=3)
    choice = choose(LOGITS_RV[:1].clone(), [Row(sampling, 0.3)])[0]
    logprobs_V = (LOGITS_RV[0] / 0.5).log_softmax(0)
    assert choice.logprob == pytest.approx(logprobs_V[choice.token].item(), abs=1e-5)
    values, ids = logprobs_V.topk(3)
    assert [token for token, _ in choice.top] == ids.tolist()
    assert [value for _, value in choice.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert choose(LOGITS_RV[:1].clone(), [Row(Sampling(logprobs=None), 0.3)])[0].logprob is None


def test_draw_equals_walking_the_cumulative_distribution() -> None:
    uniform_R = torch.rand(6, generator=torch.Generator().manual_seed(1))
    for row, uniform, token in zip(LOGITS_RV, uniform_R.tolist(), draw(LOGITS_RV, uniform_R).tolist(), strict=True):
        cumulative = row.double().softmax(0).cumsum(0).tolist()
        assert token == next(v for v, mass in enumerate(cumulative) if mass > uniform)


def test_draw_never_chooses_a_dropped_token_at_either_end() -> None:
    logits_RV = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]] * 2)
    ends_R = torch.tensor([0.0, 1 - 2**-24])
    assert draw(logits_RV, ends_R).tolist() == [1, 3]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.6}, *FILTERED[4:]])
def test_draws_follow_the_filtered_distribution(fields: dict[str, Any]) -> None:
    n, sampling = 20_000, Sampling(max_tokens=20_000, seed=11, **fields)
    expected_V = filters(sampling)(torch.zeros(1, 1, dtype=torch.long), LOGITS_RV[2:3].clone())[0].double().softmax(0)
    rows = [Row(sampling, uniform) for uniform in sampling.uniforms(n).tolist()]
    chosen = torch.tensor([choice.token for choice in choose(LOGITS_RV[2:3].repeat(n, 1), rows)])
    counts_V = chosen.bincount(minlength=40).double()
    assert counts_V[expected_V == 0].sum() == 0
    often_V = expected_V * n >= 5
    if int(often_V.sum()) > 1:
        observed, expected = counts_V[often_V], expected_V[often_V]
        test = stats.chisquare(observed.numpy(), (expected / expected.sum() * observed.sum()).numpy())
        assert test.pvalue > 1e-4


def test_uniforms_depend_on_the_seed_alone_and_neighbouring_seeds_are_unrelated() -> None:
    first_SN = torch.stack([Sampling(max_tokens=4, seed=seed).uniforms(4) for seed in range(4000)])
    assert torch.equal(first_SN[7], Sampling(max_tokens=4, seed=7).uniforms(4))
    assert torch.equal(Sampling(max_tokens=4, seed=7).uniforms(2), first_SN[7, :2])
    assert abs(first_SN.mean() - 0.5) < 5 / math.sqrt(12 * first_SN.numel())
    neighbours = torch.corrcoef(torch.stack((first_SN[:-1, 0], first_SN[1:, 0])))[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(4000)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: math.nan}},
        {"stop": ("a", "")},
        {"min_tokens": -1},
        {"logprobs": 21},
        {"timeout": 0.0},
    ],
)
def test_senseless_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        Sampling(**fields)
