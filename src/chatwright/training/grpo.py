"""Stage grpo: group relative policy optimisation (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300).

Every prompt gets a group of answers, and an answer is better or worse than its group: no critic is needed. The KL from
the SFT model is a part of the loss. All else is as in PPO: rollouts, rewards, clipping, invariants, pretraining mix.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field, model_validator

from chatwright.records import Rollout
from chatwright.stage import Headline, Inputs, Stage
from chatwright.training.optim import OptimConfig
from chatwright.training.ppo import objectives
from chatwright.training.ppo.config import RolloutConfig
from chatwright.training.ppo.policy import Experience, PolicyTrainer
from chatwright.training.ppo.stage import learn_and_compare, read_inputs


class GrpoConfig(RolloutConfig):
    """How it learns; numbers from DeepSeekMath 4.2. group: answers to a prompt, of which ``batch`` counts each."""

    episodes: int = Field(default=256 * 1024, gt=0)  # ours: 256 steps, of 16 questions each
    batch: int = Field(default=1024, gt=0)
    minibatch: int = Field(default=1024, gt=0)  # "a single update following each exploration stage"
    group: int = Field(default=64, gt=1)
    kl_coef: float = Field(default=0.04, ge=0)  # beta
    ptx_coef: float = Field(default=0.0, ge=0)  # there is none
    optim: OptimConfig = OptimConfig(kind="adamw", lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0)
    ema: float = Field(default=0.0, ge=0, lt=1)  # there is none

    @model_validator(mode="after")
    def _groups_fill_the_batch(self) -> GrpoConfig:
        if self.batch % self.group:
            raise ValueError(f"batch ({self.batch}) must be a multiple of group ({self.group})")
        return self

    @property
    def answers_each(self) -> int:
        """How many answers each prompt gets in a step."""
        return self.group


class GrpoTrainer(PolicyTrainer[GrpoConfig]):
    """GRPO: the group in the place of a critic."""

    name = "grpo"

    def _first_kl_coef(self) -> float:
        return self.config.kl_coef

    def _experience(self, rollout: Rollout) -> Experience:
        """Every token of an answer has the answer's advantage over its group (outcome supervision)."""
        advantages_B = objectives.group_advantages(rollout.scores_B, self.config.group)
        nothing_BT = torch.zeros_like(rollout.logprobs_BT)
        return Experience(
            valid_BT=rollout.valid_BT,
            tokens_BT=rollout.tokens_BT,
            response_BT=rollout.response_BT,
            logprobs_BT=rollout.logprobs_BT,
            ref_logprobs_BT=rollout.ref_logprobs_BT,
            values_BT=nothing_BT,
            advantages_BT=advantages_B[:, None] * rollout.response_BT,
            returns_BT=nothing_BT,
            weights_BT=nothing_BT,
        )

    def _weights(self, response_BT: torch.Tensor) -> torch.Tensor:
        return objectives.answer_weights(response_BT)

    def _losses(self, batch: Experience, logprobs_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config = self.config
        losses_BT = objectives.grpo_losses(
            *(logprobs_BT, batch.logprobs_BT, batch.ref_logprobs_BT, batch.advantages_BT), config.clip, config.kl_coef
        )
        loss = (losses_BT * batch.weights_BT).sum()
        return loss, {"policy_loss": loss}

    def _after(self, kl: float, experience: Experience) -> dict[str, float]:
        """Share of the answers that their group taught something about."""
        advantages_B = experience.advantages_BT.abs().amax(dim=1)
        return {"taught": (advantages_B > 0).float().mean().item()}


def run(config: GrpoConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the policy and compare it with the SFT model on held-out prompts. UserError when the inputs do not fit."""
    given = read_inputs("grpo", config, inputs)
    trainer = GrpoTrainer(
        config,
        policy=given.policy,
        reference=given.reference,
        rewards=given.rewards,
        pretraining=given.pretraining,
        tokenizer=given.tokenizer,
        layout=given.layout,
    )
    return learn_and_compare(trainer, given, inputs, out)


STAGE = Stage(
    name="grpo",
    version=1,
    config=GrpoConfig,
    inputs=("sft", "reward", "conversations", "shards"),
    run=run,
    summary="train the policy with rewards relative to its other answers to the same prompt",
    together=True,
    optional=True,
)
