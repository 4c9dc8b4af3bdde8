"""PPO's arithmetic against naive loops in float64 and against what the definitions imply."""

from __future__ import annotations

import math

import pytest
import torch

from chatwright.training.ppo import objectives

ROWS, COLUMNS = 5, 11


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def normal(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)


@pytest.fixture
def response_BT() -> torch.Tensor:
    """One run of columns a row, with different starts and ends, the first of length one."""
    response_BT = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    for row, (start, end) in enumerate([(4, 5), (1, 11), (3, 8), (9, 11), (5, 11)]):
        response_BT[row, start:end] = True
    return response_BT


def quadratic_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16 of the GAE paper as it is written: every advantage is a sum over all later errors."""
    values = [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_gae_equals_the_quadratic_sum(
    generator: torch.Generator, response_BT: torch.Tensor, gamma: float, lam: float
) -> None:
    rewards_BT, values_BT = normal(generator), normal(generator)
    advantages_BT, returns_BT = objectives.gae(rewards_BT, values_BT, response_BT, gamma=gamma, lam=lam)
    for row in range(ROWS):
        chosen_T = response_BT[row]
        expected = quadratic_gae(rewards_BT[row][chosen_T].tolist(), values_BT[row][chosen_T].tolist(), gamma, lam)
        torch.testing.assert_close(advantages_BT[row][chosen_T], torch.tensor(expected, dtype=torch.float64))
    assert (advantages_BT[~response_BT] == 0).all()
    assert (returns_BT[~response_BT] == 0).all()
    torch.testing.assert_close(returns_BT, advantages_BT + values_BT.masked_fill(~response_BT, 0))


def test_with_lambda_one_the_return_is_the_sum_of_later_rewards(
    generator: torch.Generator, response_BT: torch.Tensor
) -> None:
    rewards_BT = normal(generator)
    _, returns_BT = objectives.gae(rewards_BT, normal(generator), response_BT, gamma=1.0, lam=1.0)
    inside_BT = rewards_BT.masked_fill(~response_BT, 0)
    to_go_BT = inside_BT.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns_BT[response_BT], to_go_BT[response_BT])


def test_whitening_gives_mean_0_and_variance_1_inside_and_0_outside(
    generator: torch.Generator, response_BT: torch.Tensor
) -> None:
    whitened_BT = objectives.whiten(3 * normal(generator) + 5, response_BT)
    inside_N = whitened_BT[response_BT]
    assert inside_N.mean().item() == pytest.approx(0, abs=1e-12)
    assert inside_N.var(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert (whitened_BT[~response_BT] == 0).all()


def test_whitening_without_shift_keeps_the_mean(generator: torch.Generator, response_BT: torch.Tensor) -> None:
    values_BT = 3 * normal(generator) + 5
    inside_N = objectives.whiten(values_BT, response_BT, shift_mean=False)[response_BT]
    assert inside_N.mean().item() == pytest.approx(values_BT[response_BT].mean().item())
    assert inside_N.var(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_nothing_outside_the_response_is_read(generator: torch.Generator, response_BT: torch.Tensor) -> None:
    values_BT = normal(generator)
    poisoned_BT = values_BT.masked_fill(~response_BT, math.nan)
    assert torch.equal(objectives.masked_mean(values_BT, response_BT), objectives.masked_mean(poisoned_BT, response_BT))
    assert torch.equal(objectives.whiten(values_BT, response_BT), objectives.whiten(poisoned_BT, response_BT))
    assert torch.equal(
        objectives.sequence_kl(values_BT, 2 * values_BT, response_BT),
        objectives.sequence_kl(poisoned_BT, 2 * poisoned_BT, response_BT),
    )


def test_token_rewards_sum_to_score_minus_kl_and_pay_the_score_at_the_last_token(
    generator: torch.Generator, response_BT: torch.Tensor
) -> None:
    logprobs_BT, ref_BT = -normal(generator).abs(), -normal(generator).abs()
    scores_B = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    rewards_BT = objectives.token_rewards(scores_B, logprobs_BT, ref_BT, response_BT, kl_coef=0.02)
    kl_B = objectives.sequence_kl(logprobs_BT, ref_BT, response_BT)
    torch.testing.assert_close(rewards_BT.sum(1), scores_B - 0.02 * kl_B)
    for row in range(ROWS):
        columns = response_BT[row].nonzero().flatten().tolist()
        for t in columns:
            expected = -0.02 * (logprobs_BT[row, t] - ref_BT[row, t]).item() + (row + 1) * (t == columns[-1])
            assert rewards_BT[row, t].item() == pytest.approx(expected)
    assert (rewards_BT[~response_BT] == 0).all()


def test_policy_losses_equal_the_naive_clipped_surrogate(generator: torch.Generator) -> None:
    new_BT, old_BT, advantages_BT = (normal(generator) for _ in range(3))
    losses_BT = objectives.policy_losses(new_BT, old_BT, advantages_BT, clip=0.2)
    for row in range(ROWS):
        for t in range(COLUMNS):
            ratio, advantage = math.exp(new_BT[row, t] - old_BT[row, t]), advantages_BT[row, t].item()
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            assert losses_BT[row, t].item() == pytest.approx(-surrogate)


def test_the_policy_gradient_stops_once_the_ratio_has_left_the_clip_in_the_good_direction() -> None:
    for advantage, log_ratio, moves in [(1.0, 0.5, False), (1.0, -0.5, True), (-1.0, -0.5, False), (-1.0, 0.5, True)]:
        logprobs = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, 1, dtype=torch.float64)
        objectives.policy_losses(logprobs, zero, zero + advantage, clip=0.2).sum().backward()
        assert logprobs.grad is not None
        assert (logprobs.grad.abs().item() > 0) == moves


def test_at_ratio_one_the_policy_gradient_is_minus_the_advantage(generator: torch.Generator) -> None:
    old_BT, advantages_BT = normal(generator), normal(generator)
    new_BT = old_BT.clone().requires_grad_()
    objectives.policy_losses(new_BT, old_BT, advantages_BT, clip=0.2).sum().backward()
    torch.testing.assert_close(new_BT.grad, -advantages_BT)


def test_value_losses_equal_the_naive_clipped_error(generator: torch.Generator) -> None:
    new_BT, old_BT, returns_BT = (normal(generator) for _ in range(3))
    losses_BT = objectives.value_losses(new_BT, old_BT, returns_BT, clip=0.2)
    for row in range(ROWS):
        for t in range(COLUMNS):
            new, old, target = (x[row, t].item() for x in (new_BT, old_BT, returns_BT))
            clipped = min(max(new, old - 0.2), old + 0.2)
            assert losses_BT[row, t].item() == pytest.approx(0.5 * max((new - target) ** 2, (clipped - target) ** 2))


def test_k1_and_k3_estimate_the_kl_of_two_known_distributions(generator: torch.Generator) -> None:
    logits = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    new_V, old_V = logits.log_softmax(-1)
    samples = torch.multinomial(old_V.exp(), 200_000, replacement=True, generator=generator)
    exact = (old_V.exp() * (old_V - new_V)).sum().item()
    chosen = torch.ones(len(samples), 1, dtype=torch.bool)
    k3 = objectives.kl_k3(new_V[samples], old_V[samples]).mean().item()
    k1 = objectives.sequence_kl(old_V[samples][:, None], new_V[samples][:, None], chosen).mean().item()
    assert k3 == pytest.approx(exact, rel=0.03)
    assert k1 == pytest.approx(exact, rel=0.03)


def test_k3_is_zero_where_nothing_moved_and_never_negative(generator: torch.Generator) -> None:
    old_BT = normal(generator)
    assert (objectives.kl_k3(old_BT, old_BT) == 0).all()
    assert (objectives.kl_k3(old_BT + 0.1 * normal(generator), old_BT) > 0).all()


def test_tokens_outside_the_clip_are_counted() -> None:
    new = torch.tensor([[0.1, 0.3, -0.1, -0.3, 0.0]])
    assert objectives.clipped(new, torch.zeros(1, 5), 0.2).tolist() == [[0, 1, 0, 1, 0]]


def test_weights_make_means_over_tokens_and_over_answers(generator: torch.Generator, response_BT: torch.Tensor) -> None:
    values_BT = normal(generator)
    rows = [values_BT[row][response_BT[row]] for row in range(ROWS)]
    over_tokens = (values_BT * objectives.token_weights(response_BT)).sum()
    over_answers = (values_BT * objectives.answer_weights(response_BT)).sum()
    torch.testing.assert_close(over_tokens, torch.cat(rows).mean(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(over_answers, torch.stack([row.mean() for row in rows]).mean(), rtol=1e-6, atol=1e-7)


def test_group_advantages_equal_a_naive_loop_and_are_0_where_all_answers_are_alike() -> None:
    scores = [1.0, 4.0, 2.0, 7.0, 7.0, 7.0]
    expected = []
    for first in (0, 3):
        group = scores[first : first + 3]
        mean = sum(group) / 3
        deviation = math.sqrt(sum((score - mean) ** 2 for score in group) / 2)
        expected += [(score - mean) / (deviation + 1e-4) for score in group]
    found_B = objectives.group_advantages(torch.tensor(scores, dtype=torch.float64), group=3)
    assert found_B.tolist() == pytest.approx(expected)
    assert found_B[3:].tolist() == [0, 0, 0]


def test_grpo_losses_equal_the_naive_formula(generator: torch.Generator) -> None:
    new_BT, old_BT, ref_BT, advantages_BT = (normal(generator) for _ in range(4))
    losses_BT = objectives.grpo_losses(new_BT, old_BT, ref_BT, advantages_BT, clip=0.2, kl_coef=0.04)
    for row in range(ROWS):
        for t in range(COLUMNS):
            new, old, ref, advantage = (x[row, t].item() for x in (new_BT, old_BT, ref_BT, advantages_BT))
            ratio = math.exp(new - old)
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            kl = math.exp(ref - new) - (ref - new) - 1  # DeepSeekMath eq. 4
            assert losses_BT[row, t].item() == pytest.approx(-surrogate + 0.04 * kl)


def test_only_unfinished_answers_get_the_fixed_score() -> None:
    scores_B = objectives.score_or_fixed(torch.tensor([3.0, -4.0, 0.5]), torch.tensor([True, False, False]), -1.0)
    assert scores_B.tolist() == [3.0, -1.0, -1.0]


def test_explained_variance_of_a_perfect_and_of_a_constant_critic(
    generator: torch.Generator, response_BT: torch.Tensor
) -> None:
    returns_BT = normal(generator)
    assert objectives.explained_variance(returns_BT, returns_BT, response_BT).item() == 1
    constant = objectives.explained_variance(torch.full_like(returns_BT, 3.0), returns_BT, response_BT).item()
    assert constant == pytest.approx(0, abs=1e-12)


def test_the_adaptive_coefficient_moves_towards_the_target_and_no_faster_than_the_clip() -> None:
    settings = {"target": 6.0, "horizon": 10_000, "episodes": 100}
    assert objectives.adapted_kl_coef(0.15, 6.0, **settings) == 0.15
    assert objectives.adapted_kl_coef(0.15, 600.0, **settings) == pytest.approx(0.15 * (1 + 0.2 * 100 / 10_000))
    assert objectives.adapted_kl_coef(0.15, 0.0, **settings) == pytest.approx(0.15 * (1 - 0.2 * 100 / 10_000))
    assert objectives.adapted_kl_coef(0.15, 6.6, **settings) == pytest.approx(0.15 * (1 + 0.1 * 100 / 10_000))
