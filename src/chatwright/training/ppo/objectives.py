"""The arithmetic of PPO with a KL penalty (Ziegler 2019, InstructGPT) and of GRPO: pure functions over tensors.

Every ``*_BT`` tensor is aligned with the tokens: entry t of a log-probability, reward, value or advantage belongs to
the choice of token t. ``response_BT`` is true on the tokens the policy chose, one run of columns in each row; what lies
outside is neither read nor, in a result, other than 0.

Sources: ZIEG = Ziegler 2019 (1909.08593) and its code lm-human-preferences; IGPT = InstructGPT (2203.02155);
NDET = Huang 2023, "The N implementation details of RLHF with PPO"; GAE = Schulman 2015 (1506.02438);
PPO = Schulman 2017 (1707.06347); GRPO = Shao 2024, DeepSeekMath (2402.03300).
"""

from __future__ import annotations

import torch


def masked_mean(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean over the true entries of the mask, which must have some.

    >>> masked_mean(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor(2.)
    """
    return values_BT.masked_fill(~mask_BT, 0).sum() / mask_BT.sum()


def whiten(values_BT: torch.Tensor, mask_BT: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """Scale the masked entries to variance 1, and to mean 0 unless ``shift_mean`` is false (then the mean is kept).

    The variance is the biased one, with 1e-8 under the root (ZIEG code, ``whiten``: tf.nn.moments; NDET).
    """
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean((values_BT - mean) ** 2, mask_BT)
    whitened_BT = (values_BT - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened_BT = whitened_BT + mean
    return whitened_BT.masked_fill(~mask_BT, 0)


def score_or_fixed(scores_B: torch.Tensor, finished_B: torch.Tensor, missing_eos_score: float) -> torch.Tensor:
    """Answers that never ended their turn get the fixed score instead of the reward model's (ZIEG, NDET).

    >>> score_or_fixed(torch.tensor([2.0, 2.0]), torch.tensor([True, False]), -1.0)
    tensor([ 2., -1.])
    """
    return torch.where(finished_B, scores_B, torch.full_like(scores_B, missing_eos_score))


def last_response_index(response_BT: torch.Tensor) -> torch.Tensor:
    """Column of each row's last response token, ``[B]`` int64; every row must have one."""
    columns_T = torch.arange(response_BT.shape[1], device=response_BT.device)
    return columns_T.expand_as(response_BT).masked_fill(~response_BT, -1).amax(dim=1)


def token_rewards(
    scores_B: torch.Tensor,
    logprobs_BT: torch.Tensor,
    ref_logprobs_BT: torch.Tensor,
    response_BT: torch.Tensor,
    kl_coef: float,
) -> torch.Tensor:
    """Reward of each chosen token: -beta * log(pi / pi_SFT), and the answer's score on its last token (IGPT 3.5, ZIEG).

    >>> chosen = torch.tensor([[False, True, True]])
    >>> policy, reference = torch.tensor([[0.0, -1.0, -1.0]]), torch.tensor([[0.0, -2.0, -1.0]])
    >>> token_rewards(torch.tensor([2.0]), policy, reference, chosen, kl_coef=0.5)
    tensor([[ 0.0000, -0.5000,  2.0000]])
    """
    rewards_BT = (-kl_coef * (logprobs_BT - ref_logprobs_BT)).masked_fill(~response_BT, 0)
    return rewards_BT.scatter_add(1, last_response_index(response_BT)[:, None], scores_B[:, None].to(rewards_BT.dtype))


def gae(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, response_BT: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates and the returns they imply, ``(advantages_BT, returns_BT)`` (GAE eq. 16).

    ``A_t = sum_l (gamma * lam)^l * (r_{t+l} + gamma * V_{t+l+1} - V_{t+l})``, where V after the last response token is
    0: the episode ends there, whether the answer ended its turn or was cut.
    """
    rewards_BT, values_BT = rewards_BT.masked_fill(~response_BT, 0), values_BT.masked_fill(~response_BT, 0)
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = torch.zeros_like(rewards_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = (delta_B + gamma * lam * next_advantage_B).masked_fill(~response_BT[:, t], 0)
        next_value_B = values_BT[:, t]
        advantages_BT[:, t] = next_advantage_B
    return advantages_BT, advantages_BT + values_BT


def policy_losses(
    logprobs_BT: torch.Tensor, old_logprobs_BT: torch.Tensor, advantages_BT: torch.Tensor, clip: float
) -> torch.Tensor:
    """PPO's clipped surrogate as a loss for each token (PPO eq. 7); the caller masks and averages."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    return torch.maximum(-advantages_BT * ratio_BT, -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip))


def value_losses(
    values_BT: torch.Tensor, old_values_BT: torch.Tensor, returns_BT: torch.Tensor, clip: float
) -> torch.Tensor:
    """``0.5 * max(unclipped, clipped)`` squared error of each token, the move from the old value clipped (ZIEG)."""
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2)


def clipped(logprobs_BT: torch.Tensor, old_logprobs_BT: torch.Tensor, clip: float) -> torch.Tensor:
    """1 for each token whose probability ratio lies outside ``1 +- clip``, else 0."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    return ((ratio_BT - 1).abs() > clip).to(logprobs_BT.dtype)


def sequence_kl(logprobs_BT: torch.Tensor, ref_logprobs_BT: torch.Tensor, response_BT: torch.Tensor) -> torch.Tensor:
    """``log(pi / pi_ref)`` of each whole answer, ``[B]``: over answers drawn from pi its mean estimates KL(pi, pi_ref).

    This is the estimator K1 that the penalty itself uses (ZIEG): unbiased, and a single one may be negative.
    """
    return (logprobs_BT - ref_logprobs_BT).masked_fill(~response_BT, 0).sum(dim=1)


def kl_k3(logprobs_BT: torch.Tensor, old_logprobs_BT: torch.Tensor) -> torch.Tensor:
    """``r - 1 - log r`` of each token, with r = new / old: its mean over tokens drawn from old estimates KL(old, new).

    Never negative, and exactly 0 where nothing moved (Schulman 2020, "Approximating KL divergence").
    """
    log_ratio_BT = logprobs_BT - old_logprobs_BT
    return torch.expm1(log_ratio_BT) - log_ratio_BT


def token_weights(response_BT: torch.Tensor) -> torch.Tensor:
    """Weights that make a sum over tokens their mean: every response token of the batch counts alike.

    >>> token_weights(torch.tensor([[False, True], [True, True]]))
    tensor([[0.0000, 0.3333],
            [0.3333, 0.3333]])
    """
    return response_BT / response_BT.sum()


def answer_weights(response_BT: torch.Tensor) -> torch.Tensor:
    """Weights that make a sum over tokens the mean over answers of the mean over an answer's tokens (GRPO eq. 3).

    >>> answer_weights(torch.tensor([[False, True], [True, True]]))
    tensor([[0.0000, 0.5000],
            [0.2500, 0.2500]])
    """
    return response_BT / response_BT.sum(dim=1, keepdim=True) / len(response_BT)


def group_advantages(scores_B: torch.Tensor, group: int) -> torch.Tensor:
    """How much better an answer is than the others to its prompt, in standard deviations, ``[B]`` (GRPO 4.1.2).

    The ``group`` answers to a prompt stand next to each other. Answers that are all worth the same have no advantage.
    The deviation is the sample's, with 1e-4 added to it (TRL).

    >>> group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), group=2)
    tensor([-0.7071,  0.7071,  0.0000,  0.0000])
    """
    scores_PG = scores_B.view(-1, group)
    centred_PG = scores_PG - scores_PG.mean(dim=1, keepdim=True)
    return (centred_PG / (scores_PG.std(dim=1, keepdim=True) + 1e-4)).flatten()


def grpo_losses(
    logprobs_BT: torch.Tensor,
    old_logprobs_BT: torch.Tensor,
    ref_logprobs_BT: torch.Tensor,
    advantages_BT: torch.Tensor,
    clip: float,
    kl_coef: float,
) -> torch.Tensor:
    """GRPO's loss of each token: PPO's clipped surrogate, and ``kl_coef`` times K3 of policy and reference (eq. 3, 4).

    The KL is a part of the loss here, not of the reward; it falls with ``r = pi_ref / pi`` over tokens drawn from pi.
    """
    surrogate_BT = policy_losses(logprobs_BT, old_logprobs_BT, advantages_BT, clip)
    return surrogate_BT + kl_coef * kl_k3(ref_logprobs_BT, logprobs_BT)


def explained_variance(values_BT: torch.Tensor, returns_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """``1 - Var(returns - values) / Var(returns)`` over the masked tokens: 1 is a perfect critic, 0 a constant one."""
    returns_N, errors_N = returns_BT[mask_BT], (returns_BT - values_BT)[mask_BT]
    return 1 - errors_N.var(correction=0) / returns_N.var(correction=0).clamp_min(1e-8)


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: int, episodes: int) -> float:
    """The KL coefficient after ``episodes`` more episodes whose KL was ``kl``, driven towards ``target`` (ZIEG 2.2).

    Twice the target, so the error is clipped to 0.2:

    >>> round(adapted_kl_coef(0.15, 12.0, target=6.0, horizon=10_000, episodes=512), 6)
    0.151536
    """
    error = min(max(kl / target - 1, -0.2), 0.2)  # ZIEG: clipped to +-0.2
    return kl_coef * (1 + error * episodes / horizon)
