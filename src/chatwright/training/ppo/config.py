"""The configurations of what learns from its own answers: every constant beside the page it comes from."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.training.config import CheckpointConfig, TuningConfig
from chatwright.training.optim import OptimConfig
from chatwright.training.rewards import RewardsConfig


class AdaptiveKl(BaseModel):
    """Drive the KL coefficient so that the KL of an answer comes to ``target`` (ZIEG 2.2 and its code)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    target: float = Field(default=6.0, gt=0)  # nats an answer, ZIEG
    horizon: int = Field(default=10_000, gt=0)  # episodes, ZIEG


class RolloutConfig(RewardsConfig, TuningConfig):
    """What PPO and GRPO share. IGPT = InstructGPT, ZIEG = Ziegler 2019, NDET = Huang 2023; "ours" where none says.

    An episode is one answer to one prompt; a step samples ``batch`` of them and learns from them.
    """

    episodes: int = Field(default=256_000, gt=0)  # IGPT C.4
    batch: int = Field(default=512, gt=0)  # episodes a step, IGPT C.4
    minibatch: int = Field(default=64, gt=0)  # episodes an optimiser step, IGPT C.4
    micro_batch: int = Field(default=16, gt=0)  # episodes a forward pass, alike in length: for speed and memory only
    inner_epochs: int = Field(default=1, gt=0)  # IGPT C.4; 4 in ZIEG and NDET

    temperature: float = Field(default=1.0, gt=0)  # IGPT C.4
    max_tokens: int = Field(default=1024, gt=0)  # of a response, IGPT C
    max_kl: float = Field(default=50.0, gt=0)  # nats an answer, mean of a batch: beyond it the run stops. Ours
    clip: float = Field(default=0.2, gt=0)  # IGPT C.4

    ptx_coef: float = Field(default=27.8, ge=0)  # gamma of the pretraining mix, IGPT C.4; 0 is plain PPO
    ptx_examples: float = Field(default=8.0, gt=0)  # pretraining windows an episode, IGPT C.4
    ptx_length: int = Field(default=1024, gt=1)  # tokens of a window, at most the context. Ours: IGPT's fill it

    # IGPT sweeps 2.55e-6..2.55e-5 for its sizes and does not print its choice; without the mix rates above 8.05e-6
    # diverged (E.9). Betas from IGPT C.
    # optim.clip holds for policy and critic together: they have one loss and one gradient.
    optim: OptimConfig = OptimConfig(kind="adamw", lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0)
    warmup: int = Field(default=10, ge=0)  # steps, from a tenth of the learning rate, then constant; IGPT C.4
    ema: float = Field(default=0.992, ge=0, lt=1)  # IGPT C.4, here at each optimiser step; 0: the last weights are kept

    checkpoint: CheckpointConfig = CheckpointConfig(every=10)
    eval_prompts: int = Field(default=256, gt=0)  # held-out prompts answered before and after
    eval_tokens: int = Field(default=65_536, ge=0)  # of the held-out text, evenly spread, for bits per byte; 0: none
    samples: int = Field(default=12, ge=0)  # of them, kept for reading

    @model_validator(mode="after")
    def _sizes_divide(self) -> RolloutConfig:
        for big, small in (("episodes", "batch"), ("batch", "minibatch")):
            whole, part = getattr(self, big), getattr(self, small)
            if whole % part:
                raise ValueError(f"{big} ({whole}) must be a multiple of {small} ({part})")
        if self.ptx_coef and self.ptx_windows < 1:
            raise ValueError(
                f"ptx_examples ({self.ptx_examples}) gives a minibatch of {self.minibatch} no pretraining window"
            )
        return self

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Without text where nothing is learned from it nor measured on it."""
        text = self.ptx_coef or self.eval_tokens
        return tuple(name for name in super().wanted(inputs) if name != "shards" or text)

    @property
    def answers_each(self) -> int:
        """How many answers each prompt gets in a step."""
        return 1

    @property
    def steps(self) -> int:
        """How often a batch is sampled and learned from."""
        return self.episodes // self.batch

    @property
    def ptx_windows(self) -> int:
        """Pretraining windows that go with each minibatch."""
        return round(self.minibatch * self.ptx_examples)

    @property
    def ptx_micro_windows(self) -> int:
        """Pretraining windows of one forward pass: as many parts as the minibatch is cut into."""
        return math.ceil(self.ptx_windows * min(1, self.micro_batch / self.minibatch))


class PpoConfig(RolloutConfig):
    """PPO with the pretraining mix."""

    kl_coef: float = Field(default=0.02, ge=0)  # beta, IGPT C.4; 0.01-0.02 is best, E.7
    adaptive_kl: AdaptiveKl | None = None  # IGPT keeps beta fixed
    gamma: float = Field(default=1.0, ge=0, le=1)  # IGPT C.4: no discount
    lam: float = Field(default=0.95, ge=0, le=1)  # ZIEG, NDET; IGPT does not print it
    value_clip: float = Field(default=0.2, gt=0)  # ZIEG
    vf_coef: float = Field(default=0.1, ge=0)  # ZIEG
    whiten_rewards: bool = False  # ZIEG: true, without shifting the mean; IGPT is silent
    # Steps at first in which the critic alone learns: as a reward model it knows finished answers only. IGPT has none.
    critic_warmup: int = Field(default=0, ge=0)
    # The critic learns at the reward model's rate (IGPT C.2). Ours
    critic_optim: OptimConfig = OptimConfig(kind="adamw", lr=9e-6, betas=(0.9, 0.95), weight_decay=0.0)

    @model_validator(mode="after")
    def _leaves_the_policy_a_step(self) -> PpoConfig:
        if self.critic_warmup >= self.steps:
            raise ValueError(
                f"critic_warmup ({self.critic_warmup}) leaves none of the {self.steps} steps to the policy"
            )
        return self

    def counted(self) -> dict[str, Any]:
        """Without the critic's own steps where there are none: what was made before there were any is as asked for."""
        return {key: value for key, value in super().counted().items() if key != "critic_warmup" or value}
