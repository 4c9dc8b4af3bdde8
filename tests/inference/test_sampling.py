from __future__ import annotations

import math

import pytest
import torch

from chatwright.errors import UserError
from chatwright.inference.sampling import Sampling, draw, keep_top_k, keep_top_p, scale

LOGITS_BV = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 2


def kept(logits_BV: torch.Tensor) -> list[set[int]]:
    return [set(row.isfinite().nonzero().flatten().tolist()) for row in logits_BV]


def test_top_k_equals_sorting() -> None:
    top_k = [0, 1, 3, 39, 40, 100]
    for row, k, found in zip(LOGITS_BV, top_k, kept(keep_top_k(LOGITS_BV, torch.tensor(top_k))), strict=True):
        order = sorted(range(40), key=lambda v: -row[v])
        assert found == set(order[:k] if k else order)


def test_top_p_equals_adding_up_the_most_likely() -> None:
    top_p = [1.0, 1e-6, 0.5, 0.9, 0.99, 0.2]
    for row, p, found in zip(LOGITS_BV, top_p, kept(keep_top_p(LOGITS_BV, torch.tensor(top_p))), strict=True):
        probabilities = row.double().softmax(0).tolist()
        nucleus, mass = set(), 0.0
        for v in sorted(range(40), key=lambda v: -probabilities[v]):
            if mass >= p and p < 1:
                break
            nucleus.add(v)
            mass += probabilities[v]
        assert found == nucleus


def test_filters_leave_what_they_keep_unchanged() -> None:
    for filtered_BV in (keep_top_k(LOGITS_BV, torch.full((6,), 5)), keep_top_p(LOGITS_BV, torch.full((6,), 0.7))):
        stays_BV = filtered_BV.isfinite()
        assert torch.equal(filtered_BV[stays_BV], LOGITS_BV[stays_BV])


def test_scale_divides_by_each_rows_temperature_and_leaves_greedy_rows() -> None:
    scaled_BV = scale(LOGITS_BV[:3], torch.tensor([0.5, 2.0, 0.0]))
    torch.testing.assert_close(scaled_BV, torch.stack((LOGITS_BV[0] * 2, LOGITS_BV[1] / 2, LOGITS_BV[2])))


def test_draw_equals_walking_the_cumulative_distribution() -> None:
    uniform_B = torch.rand(6, generator=torch.Generator().manual_seed(1))
    for row, uniform, token in zip(LOGITS_BV, uniform_B.tolist(), draw(LOGITS_BV, uniform_B).tolist(), strict=True):
        cumulative = row.double().softmax(0).cumsum(0).tolist()
        assert token == next(v for v, mass in enumerate(cumulative) if mass > uniform)


def test_draw_never_chooses_a_dropped_token_at_either_end() -> None:
    logits_BV = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]] * 2)
    ends_B = torch.tensor([0.0, 1 - 2**-24])
    assert draw(logits_BV, ends_B).tolist() == [1, 3]


def test_draws_follow_the_distribution() -> None:
    n = 40_000
    logits_V = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, -torch.inf])
    uniform_N = Sampling(max_tokens=n, seed=11).uniforms(n)
    counts_V = draw(logits_V.expand(n, -1), uniform_N).bincount(minlength=6).double()
    expected_V = logits_V.double().softmax(0) * n
    assert counts_V[5] == 0
    chi_square = ((counts_V - expected_V)[:5] ** 2 / expected_V[:5]).sum()
    assert chi_square < 18.5  # 4 degrees of freedom: p = 0.001


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
    ],
)
def test_senseless_settings_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        Sampling(**fields)  # type: ignore[arg-type]
