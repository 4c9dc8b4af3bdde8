"""The PPO trainer: sample answers, judge them, and take optimiser steps on policy, critic and pretraining mix.

One optimiser step goes down one loss, the sum of three means over tokens:

    policy_loss + vf_coef * value_loss + ptx_coef * lm_loss

over the response tokens of the minibatch for the first two and over the tokens of its pretraining windows for the last.
InstructGPT writes its objective as expectations over whole texts and does not print how it averages; with means over
tokens the coefficients do not depend on lengths, on the size of a minibatch or on how it is cut for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Rollout
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world
from chatwright.training.batches import Ahead, Windows
from chatwright.training.guards import check_finite
from chatwright.training.language import language_parts
from chatwright.training.loop import Part, Trained, gradient, update
from chatwright.training.optim import build_optimizers
from chatwright.training.parallel import Layout, local, settle
from chatwright.training.ppo import invariants, objectives
from chatwright.training.ppo.config import PpoConfig
from chatwright.training.ppo.rollout import (
    Score,
    by_length,
    collate,
    episode_seed,
    finished,
    in_groups,
    response_logprobs,
    response_values,
    sampled_logprobs,
    trim,
)
from chatwright.training.runtime import autocast
from chatwright.training.schedules import constant_with_warmup


class Experience(NamedTuple):
    """What a minibatch learns from; every tensor is aligned with the tokens (see `Rollout`)."""

    valid_BT: torch.Tensor
    tokens_BT: torch.Tensor
    response_BT: torch.Tensor
    logprobs_BT: torch.Tensor
    values_BT: torch.Tensor
    advantages_BT: torch.Tensor
    returns_BT: torch.Tensor


@dataclass(frozen=True)
class Sampled:
    """A rollout and the answers in it as the engine gave them."""

    rollout: Rollout
    completions: list[Completion]


class Trainer:
    """What PPO trains, and one step of it. ``version`` counts optimiser steps. Randomness: (seed, step) alone."""

    def __init__(
        self,
        config: PpoConfig,
        *,
        policy: Decoder,
        reference: Decoder,
        critic: ScoredDecoder,
        score: Score,
        pretraining: Windows | None,
        tokenizer: Tokenizer,
        layout: Layout,
    ) -> None:
        """``policy`` and ``critic`` are spread and trained in place; ``reference`` is frozen, whole in every process.

        No ``pretraining``: no PTX term.
        """
        assert (pretraining is None) == (config.ptx_coef == 0), "the pretraining mix needs text and a coefficient"
        self.config = config
        self.layout = layout
        self.device = layout.device
        self.dtype = layout.dtype
        average = deepcopy(policy) if config.ema else None
        # Dropout off everywhere (NDET): else the first ratio is not 1 and rewards are noise.
        self.policy, self.critic = layout.spread(policy).eval(), layout.spread(critic).eval()
        self.reference = reference.to(self.device).eval().requires_grad_(False)
        self.average = None if average is None else layout.spread(average).eval().requires_grad_(False)
        self.score = score
        self._engine: Engine | None = None
        self.pretraining = None if pretraining is None else Ahead(pretraining, pin=self.device.type == "cuda")
        self.tokenizer = tokenizer
        modules: dict[str, nn.Module] = {"policy": self.policy, "critic": self.critic}
        if self.average is not None:
            modules["average"] = self.average
        optimizers = build_optimizers(self.policy, config.optim) + build_optimizers(self.critic, config.critic_optim)
        self.trained = Trained(modules, optimizers, layout, {"version": 0, "kl_coef": config.kl_coef})

    @property
    def version(self) -> int:
        """How many optimiser steps the policy has taken."""
        return int(self.trained.counters["version"])

    @property
    def kl_coef(self) -> float:
        """The coefficient of the KL penalty; it moves when it is adaptive."""
        return self.trained.counters["kl_coef"]

    @property
    def result(self) -> Decoder:
        """The policy to keep, whole: the moving average of the weights, or the last ones when there is none."""
        return self.layout.whole(self.policy if self.average is None else self.average)

    @torch.no_grad()
    def sample(self, step: int, prompts: Sequence[list[int]]) -> Sampled:
        """Answer every prompt once and judge the answers. Steps count from 0. RunStopped on a broken invariant."""
        config = self.config
        completions = self._answer(step, prompts)
        responses = [completion.tokens for completion in completions]
        tokens_BT, valid_BT, response_BT = batch = collate(prompts, responses, self.tokenizer.pad, self.device)
        logprobs_BT, ref_logprobs_BT = self.logprobs(self.policy, batch), self.logprobs(self.reference, batch)
        values_BT = self._shared(partial(response_values, self.critic), batch)
        kl = objectives.sequence_kl(logprobs_BT, ref_logprobs_BT, response_BT).mean().item()
        scores_B = self.score(prompts, responses)
        engine_BT = sampled_logprobs(completions, response_BT)
        invariants.check_engine(step + 1, logprobs_BT, engine_BT, response_BT, self.dtype)
        invariants.check_kl(step + 1, kl, config.max_kl)
        invariants.check_scores(step + 1, scores_B)
        rollout = Rollout(
            tokens_BT=tokens_BT,
            valid_BT=valid_BT,
            response_BT=response_BT,
            logprobs_BT=logprobs_BT,
            ref_logprobs_BT=ref_logprobs_BT,
            values_BT=values_BT,
            scores_B=objectives.score_or_fixed(scores_B, finished(completions, self.device), config.missing_eos_score),
            policy_version=self.version,
        )
        return Sampled(rollout, completions)

    def _answer(self, step: int, prompts: Sequence[list[int]]) -> list[Completion]:
        """One answer to each prompt, each process sampling its share with a whole copy of the policy."""
        config = self.config
        engine = self._engine_now()
        own = [episode for episode in self.layout.share(len(prompts)) if episode < len(prompts)]
        samplings = [
            Sampling(config.max_tokens, config.temperature, seed=episode_seed(config.seed, step, episode))
            for episode in own
        ]
        answers = engine.generate([prompts[episode] for episode in own], samplings) if own else []
        if self.layout.mesh is None:
            return answers
        return [answer for share in world.gather(answers)[:: config.parallel.tensor] for answer in share]

    def _engine_now(self) -> Engine:
        """An engine that answers with the policy as it is now: the same one, where it shares the policy's weights."""
        model = self._sampler()
        if self._engine is not None and self._engine.source is model:
            self._engine.refresh()
        else:
            self._engine = Engine(model, self.tokenizer, batch_size=self.config.batch)
        return self._engine

    def _sampler(self) -> Decoder:
        """The policy as one process can sample with it."""
        return self.layout.whole(self.policy)

    @torch.no_grad()
    def logprobs(self, model: Decoder, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """``[B, T]``: a model's log-probabilities of the responses in a `collate`d batch, as PPO computes them."""

        def measure(tokens_BT: torch.Tensor, valid_BT: torch.Tensor, response_BT: torch.Tensor) -> torch.Tensor:
            vocab_size = self.tokenizer.vocab_size
            return response_logprobs(model, tokens_BT, valid_BT, response_BT, self.config.temperature, vocab_size)[0]

        return self._shared(measure, batch)

    def _shared(
        self,
        measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
        batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """``in_groups`` of a batch, each process measuring its share of the rows."""
        count = len(batch[0])
        rows_N = torch.tensor([min(row, count - 1) for row in self.layout.share(count)], device=self.device)
        with autocast(self.config.dtype, self.device):
            tokens_NT, valid_NT, response_NT = (x_BT[rows_N] for x_BT in batch)
            mine_NT = in_groups(measure, tokens_NT, valid_NT, response_NT, self.config.micro_batch)
        return self.layout.joined(mine_NT, count)

    def learn(self, step: int, rollout: Rollout) -> dict[str, float]:
        """Take the optimiser steps on one rollout; returns the metrics of the batch, means over its minibatches.

        RunStopped on numbers that are not finite, or a ratio that is not 1 before the policy has moved.
        """
        config = self.config
        kl = objectives.sequence_kl(rollout.logprobs_BT, rollout.ref_logprobs_BT, rollout.response_BT).mean().item()
        experience = self._experience(rollout)
        factor = constant_with_warmup(step - 1, config.warmup, start=0.1)  # step 0 is at a tenth
        totals: dict[str, float] = {}
        minibatches = 0
        for rows_M in self._minibatches(step, len(rollout.scores_B)):
            moved = self.version != rollout.policy_version
            sums, norm = gradient(self.trained, self._parts(step, experience, rows_M, moved=moved), config.optim.clip)
            check_finite("ppo", step + 1, sums["loss"], norm)
            sums["grad_norm"] = norm
            update(self.trained, factor)
            self.trained.counters["version"] += 1
            self._move_average()
            minibatches += 1
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        metrics = {name: total / minibatches for name, total in totals.items() if name != "tokens"}
        explained = objectives.explained_variance(
            experience.values_BT, experience.returns_BT, experience.response_BT
        ).item()
        metrics |= {"kl": kl, "kl_coef": self.kl_coef, "explained_variance": explained, "lr": config.optim.lr * factor}
        if config.adaptive_kl is not None:
            self.trained.counters["kl_coef"] = objectives.adapted_kl_coef(
                self.kl_coef,
                kl,
                target=config.adaptive_kl.target,
                horizon=config.adaptive_kl.horizon,
                episodes=len(rollout.scores_B),
            )
        return metrics

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
            values_BT=rollout.values_BT,
            advantages_BT=objectives.whiten(advantages_BT, response_BT),
            returns_BT=returns_BT,
        )

    def _minibatches(self, step: int, episodes: int) -> Iterator[torch.Tensor]:
        """Rows of each minibatch: every epoch goes once through the batch, in an order of its own."""
        for epoch in range(self.config.inner_epochs):
            generator = torch.Generator().manual_seed(episode_seed(self.config.seed, step, f"order {epoch}"))
            yield from torch.randperm(episodes, generator=generator).to(self.device).split(self.config.minibatch)

    def _parts(self, step: int, experience: Experience, rows_M: torch.Tensor, *, moved: bool) -> Iterator[Part]:
        """The minibatch cut into micro-batches, each weighted by its share of the minibatch's tokens."""
        config = self.config
        response_tokens = experience.response_BT[rows_M].sum()
        own = self.layout.share(len(rows_M))  # all shares are equally long: the config sees to that
        for rows_N in by_length(rows_M[own.start : own.stop], experience.valid_BT, config.micro_batch):
            batch = Experience._make(trim(rows_N, *experience))
            losses = self._losses(step, batch, moved=moved)
            loss = losses["policy_loss"] + config.vf_coef * losses["value_loss"]
            share = batch.response_BT.sum() / response_tokens
            metrics = {name: value.detach() * share for name, value in losses.items()}
            yield Part(loss * share, int(batch.valid_BT.sum()), metrics)
        if self.pretraining is not None:
            windows = config.ptx_windows
            for part in language_parts(
                self.policy,
                self.pretraining,
                self.version * windows,
                windows,
                micro_batch=config.ptx_micro_windows,
                precision=config.dtype,
                layout=self.layout,
                weight=config.ptx_coef,
            ):
                yield Part(part.loss, part.tokens, {"ptx_loss": part.loss.detach() / config.ptx_coef})

    def _losses(self, step: int, batch: Experience, *, moved: bool) -> dict[str, torch.Tensor]:
        """Means over the response tokens given: the two losses, and what tells how far the policy has moved."""
        config = self.config
        with autocast(config.dtype, self.device):
            sequences = batch.tokens_BT, batch.valid_BT, batch.response_BT
            logprobs_BT, entropy_BT = response_logprobs(
                self.policy, *sequences, config.temperature, self.tokenizer.vocab_size
            )
            values_BT = response_values(self.critic, *sequences)
        now_BT, old_BT, chosen_BT = logprobs_BT.detach(), batch.logprobs_BT, batch.response_BT
        if not moved:
            invariants.check_ratio(step + 1, now_BT - old_BT, self.dtype)
        policy_BT = objectives.policy_losses(logprobs_BT, old_BT, batch.advantages_BT, config.clip)
        value_BT = objectives.value_losses(values_BT, batch.values_BT, batch.returns_BT, config.value_clip)
        return {
            "policy_loss": objectives.masked_mean(policy_BT, chosen_BT),
            "value_loss": objectives.masked_mean(value_BT, chosen_BT),
            "entropy": objectives.masked_mean(entropy_BT, chosen_BT),
            "clip_fraction": objectives.clip_fraction(now_BT, old_BT, chosen_BT, config.clip),
            "approx_kl": objectives.kl_k3(now_BT, old_BT, chosen_BT),
        }

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.average is not None:
            settle(self.policy)
            for averaged, current in zip(self.average.parameters(), self.policy.parameters(), strict=True):
                local(averaged).lerp_(local(current), 1 - self.config.ema)
