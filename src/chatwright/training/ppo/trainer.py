"""The PPO trainer: sample answers, judge them, and take optimiser steps on policy, critic and pretraining mix.

One optimiser step goes down one loss, the sum of three means over tokens:

    policy_loss + vf_coef * value_loss + ptx_coef * lm_loss

over the response tokens of the minibatch for the first two and over the tokens of its pretraining windows for the last.
InstructGPT writes its objective as expectations over whole texts and does not print how it averages; with means over
tokens the coefficients do not depend on lengths, on the size of a minibatch or on how it is cut for memory.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Rollout
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.batches import Windows
from chatwright.training.lora import learned
from chatwright.training.optim import build_optimizers
from chatwright.training.parallel import Layout
from chatwright.training.ppo import objectives
from chatwright.training.ppo.config import PpoConfig
from chatwright.training.ppo.policy import Experience, PolicyTrainer, Texts
from chatwright.training.ppo.rollout import response_values
from chatwright.training.rewards import Rewards
from chatwright.training.runtime import autocast


class Trainer(PolicyTrainer[PpoConfig]):
    """PPO with a critic of its own."""

    name = "ppo"

    def __init__(
        self,
        config: PpoConfig,
        *,
        policy: Decoder,
        reference: Decoder,
        critic: ScoredDecoder,
        rewards: Rewards,
        pretraining: Windows | None,
        tokenizer: Tokenizer,
        layout: Layout,
    ) -> None:
        """See `PolicyTrainer`. ``critic`` is spread and trained in place, too."""
        self.critic = layout.spread(critic).eval()
        super().__init__(
            config,
            policy=policy,
            reference=reference,
            rewards=rewards,
            pretraining=pretraining,
            tokenizer=tokenizer,
            layout=layout,
        )

    def _first_kl_coef(self) -> float:
        return self.config.kl_coef

    def _beside_policy(self, modules: dict[str, nn.Module]) -> tuple[dict[str, nn.Module], list[Optimizer]]:
        return modules | {"critic": learned(self.critic)}, build_optimizers(self.critic, self.config.critic_optim)

    def _values(self, batch: Texts) -> torch.Tensor:
        return self._shared(partial(response_values, self.critic), batch)

    def _experience(self, rollout: Rollout) -> Experience:
        """The rollout with its returns and advantages, whitened over the whole batch."""
        config, response_BT = self.config, rollout.response_BT
        rewards_BT = objectives.token_rewards(
            rollout.scores_B, rollout.logprobs_BT, rollout.ref_logprobs_BT, response_BT, self.kl_coef
        )
        if config.whiten_rewards:
            rewards_BT = objectives.whiten(rewards_BT, response_BT, shift_mean=False)
        advantages_BT, returns_BT = objectives.gae(
            rewards_BT, rollout.values_BT, response_BT, gamma=config.gamma, lam=config.lam
        )
        return Experience(
            valid_BT=rollout.valid_BT,
            tokens_BT=rollout.tokens_BT,
            response_BT=response_BT,
            logprobs_BT=rollout.logprobs_BT,
            ref_logprobs_BT=rollout.ref_logprobs_BT,
            values_BT=rollout.values_BT,
            advantages_BT=objectives.whiten(advantages_BT, response_BT),
            returns_BT=returns_BT,
            weights_BT=torch.zeros_like(returns_BT),
        )

    def _weights(self, response_BT: torch.Tensor) -> torch.Tensor:
        return objectives.token_weights(response_BT)

    def _losses(self, batch: Experience, logprobs_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config = self.config
        with autocast(config.dtype, self.device):
            values_BT = response_values(self.critic, batch.tokens_BT, batch.valid_BT, batch.response_BT)
        policy_BT = objectives.policy_losses(logprobs_BT, batch.logprobs_BT, batch.advantages_BT, config.clip)
        value_BT = objectives.value_losses(values_BT, batch.values_BT, batch.returns_BT, config.value_clip)
        policy_loss, value_loss = ((x_BT * batch.weights_BT).sum() for x_BT in (policy_BT, value_BT))
        return policy_loss + config.vf_coef * value_loss, {"policy_loss": policy_loss, "value_loss": value_loss}

    def _learning(self, step: int) -> int:
        return step - self.config.critic_warmup

    def _after(self, kl: float, experience: Experience) -> dict[str, float]:
        """Move the KL coefficient where it is adaptive; how well the critic foretold the returns."""
        adaptive = self.config.adaptive_kl
        if adaptive is not None:
            self.trained.counters["kl_coef"] = objectives.adapted_kl_coef(
                self.kl_coef,
                kl,
                target=adaptive.target,
                horizon=adaptive.horizon,
                episodes=len(experience.response_BT),
            )
        explained = objectives.explained_variance(
            experience.values_BT, experience.returns_BT, experience.response_BT
        ).item()
        return {"explained_variance": explained}
