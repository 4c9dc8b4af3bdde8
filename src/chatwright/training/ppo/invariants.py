"""What must hold in every step of PPO and GRPO. A run in which it does not stops at once and names the likely cause."""

from __future__ import annotations

import torch

from chatwright.training.guards import RunStopped
from chatwright.training.ppo.objectives import masked_mean
from chatwright.training.rewards import MODEL, Judged

# How far log-probabilities of equal weights may lie apart, by the dtype of the products. Ours, from what was measured
# (docs/ppo.md) with room above it; what they are there to catch is far larger.
RATIO_BOUND = {torch.float32: 1e-4, torch.bfloat16: 0.25}  # largest |log ratio| of two passes with other padding
ENGINE_BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.2}  # mean |engine - trainer|; the engine's cache is float32


def check_engine(
    stage: str,
    step: int,
    trainer_BT: torch.Tensor,
    engine_BT: torch.Tensor,
    response_BT: torch.Tensor,
    dtype: torch.dtype,
) -> float:
    """The log-probabilities that the engine sampled with are the trainer's; how far apart they are, mean over tokens.

    ``step`` counts from 1, here and below.
    """
    apart = masked_mean((trainer_BT - engine_BT).abs(), response_BT).item()
    if not apart <= ENGINE_BOUND[dtype]:
        raise RunStopped(
            f"{stage} stopped at step {step}: the engine sampled with log-probabilities {apart:.3g} away from the "
            f"trainer's (mean over tokens, at most {ENGINE_BOUND[dtype]}). "
            "Most likely they differ in weights, temperature, masks or positions."
        )
    return apart


def check_ratio(stage: str, step: int, log_ratio_BT: torch.Tensor, dtype: torch.dtype) -> None:
    """Before the policy has moved, the ratio of new to old probabilities is 1 (and with it the approximate KL 0)."""
    most = log_ratio_BT.abs().max().item()
    if not most <= RATIO_BOUND[dtype]:
        raise RunStopped(
            f"{stage} stopped at step {step}: the ratio is not 1 on the first minibatch (|log ratio| up to {most:.3g}, "
            f"at most {RATIO_BOUND[dtype]}): the old log-probabilities are not the policy's. "
            "Most likely dropout is on, or temperature, masks or positions differ between sampling and learning."
        )


def check_kl(stage: str, step: int, kl: float, budget: float) -> None:
    """The policy is still near the SFT model: ``kl``, in nats an answer, is within its budget."""
    if not kl <= budget:
        raise RunStopped(
            f"{stage} stopped at step {step}: the KL from the SFT model is {kl:.3g} nats an answer, over the budget "
            f"max_kl = {budget:g}. Most likely optim.lr is too high or kl_coef too low."
        )


def check_scores(stage: str, judged: Judged, step: int | None = None) -> None:
    """Every answer has a score that is a number, from every reward."""
    for name, scores_B in judged.terms.items():
        wrong = int((~torch.isfinite(scores_B)).sum())
        if wrong:
            broken = "the reward model's weights are broken: run the stage reward again"
            cause = broken if name == MODEL else "the rule has a bug"
            at = f" at step {step}" if step else ""
            raise RunStopped(
                f"{stage} stopped{at}: {wrong} of {len(scores_B)} scores of the reward {name!r} are not "
                f"finite. Most likely {cause}."
            )
