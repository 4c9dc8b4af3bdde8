"""What PPO and GRPO share: a policy that answers, is judged, and takes optimiser steps on what it was told.

One optimiser step goes down one loss: the algorithm's own, a weighed sum over the response tokens of a minibatch, and
``ptx_coef`` times the mean language-model loss of the pretraining windows that go with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.inference.weights import Precision as EnginePrecision
from chatwright.model.decoder import Decoder
from chatwright.records import Rollout
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world
from chatwright.training.batches import Ahead, Windows
from chatwright.training.guards import check_finite
from chatwright.training.language import language_parts
from chatwright.training.loop import Part, Trained, gradient, update
from chatwright.training.lora import learned, merged, twin
from chatwright.training.optim import build_optimizers
from chatwright.training.parallel import Layout, local, settle
from chatwright.training.ppo import invariants, objectives
from chatwright.training.ppo.config import RolloutConfig
from chatwright.training.ppo.rollout import (
    by_length,
    collate,
    episode_seed,
    finished,
    in_groups,
    response_logprobs,
    sampled_logprobs,
    trim,
)
from chatwright.training.rewards import Judged, Prompt, Rewards
from chatwright.training.runtime import autocast
from chatwright.training.schedules import constant_with_warmup

ConfigT = TypeVar("ConfigT", bound=RolloutConfig)
Texts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # tokens_BT, valid_BT, response_BT


class Experience(NamedTuple):
    """What a minibatch learns from; every tensor is aligned with the tokens (see `Rollout`).

    returns_BT: what the critic is to foretell. weights_BT: of each token in the loss; they sum to 1 over a minibatch.
    """

    valid_BT: torch.Tensor
    tokens_BT: torch.Tensor
    response_BT: torch.Tensor
    logprobs_BT: torch.Tensor
    ref_logprobs_BT: torch.Tensor
    values_BT: torch.Tensor
    advantages_BT: torch.Tensor
    returns_BT: torch.Tensor
    weights_BT: torch.Tensor


@dataclass(frozen=True)
class Sampled:
    """A rollout, the answers in it as the engine gave them, and what each reward says of them.

    engine_gap: how far the engine's log-probabilities are from the trainer's, mean over tokens.
    """

    rollout: Rollout
    completions: list[Completion]
    judged: Judged
    engine_gap: float


class PolicyTrainer(ABC, Generic[ConfigT]):
    """What is trained, and one step of it. ``version`` counts optimiser steps. Randomness: (seed, step) alone."""

    name: str  # of the stage, in messages

    def __init__(
        self,
        config: ConfigT,
        *,
        policy: Decoder,
        reference: Decoder,
        rewards: Rewards,
        pretraining: Windows | None,
        tokenizer: Tokenizer,
        layout: Layout,
    ) -> None:
        """``policy`` is spread and trained in place; ``reference`` is frozen, whole in every process.

        No ``pretraining``: no PTX term.
        """
        assert (pretraining is None) == (config.ptx_coef == 0), "the pretraining mix needs text and a coefficient"
        self.config = config
        self.layout = layout
        self.device = layout.device
        self.dtype = layout.dtype
        average = twin(policy) if config.ema else None
        # Dropout off everywhere (NDET): else the first ratio is not 1 and rewards are noise.
        self.policy = layout.spread(policy).eval()
        self.reference = reference.to(self.device).eval().requires_grad_(False)
        self.average = None if average is None else layout.spread(average).eval()
        self.rewards = rewards
        self._engine: Engine | None = None
        self.pretraining = None if pretraining is None else Ahead(pretraining, pin=self.device.type == "cuda")
        self.tokenizer = tokenizer
        modules: dict[str, nn.Module] = {"policy": learned(self.policy)}
        if self.average is not None:
            modules["average"] = learned(self.average)
            self.average.requires_grad_(False)
        modules, others = self._beside_policy(modules)
        optimizers = build_optimizers(self.policy, config.optim) + others
        self.trained = Trained(modules, optimizers, layout, {"version": 0, "kl_coef": self._first_kl_coef()})

    # --- what an algorithm decides ------------------------------------------------------------------------------------

    @abstractmethod
    def _first_kl_coef(self) -> float:
        """The coefficient of the KL at the start."""

    def _beside_policy(self, modules: dict[str, nn.Module]) -> tuple[dict[str, nn.Module], list[Optimizer]]:
        """The modules of a checkpoint and the optimisers, with those of what else is trained."""
        return modules, []

    def _values(self, batch: Texts) -> torch.Tensor:
        """``values_BT`` of a batch; 0 without a critic."""
        return torch.zeros(batch[0].shape, device=self.device)

    @abstractmethod
    def _experience(self, rollout: Rollout) -> Experience:
        """The rollout with its advantages; ``weights_BT`` is filled in for each minibatch."""

    @abstractmethod
    def _weights(self, response_BT: torch.Tensor) -> torch.Tensor:
        """The weight of each token of a minibatch in its loss."""

    @abstractmethod
    def _losses(self, batch: Experience, logprobs_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and what of it is logged: weighed sums over the tokens given."""

    def _learning(self, step: int) -> int:
        """How many steps the policy has learned before this one, counted from 0; below 0 it does not learn yet."""
        return step

    def _after(self, kl: float, experience: Experience) -> dict[str, float]:
        """What an algorithm does and logs after the steps on a batch."""
        return {}

    # --- sampling -----------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How many optimiser steps the policy has taken."""
        return int(self.trained.counters["version"])

    @property
    def kl_coef(self) -> float:
        """The coefficient of the KL; it moves when it is adaptive."""
        return self.trained.counters["kl_coef"]

    @property
    def result(self) -> Decoder:
        """The policy to keep, whole and plain: the moving average of the weights, or the last ones without one."""
        return merged(self.layout.whole(self.policy if self.average is None else self.average))

    @torch.no_grad()
    def sample(self, step: int, prompts: Sequence[Prompt]) -> Sampled:
        """Answer every prompt once and judge the answers. Steps count from 0. RunStopped on a broken invariant."""
        completions = self._answer(step, prompts)
        responses = [completion.tokens for completion in completions]
        ids = [prompt.ids for prompt in prompts]
        tokens_BT, valid_BT, response_BT = batch = collate(ids, responses, self.tokenizer.pad, self.device)
        logprobs_BT, ref_logprobs_BT = self.logprobs(self.policy, batch), self.logprobs(self.reference, batch)
        values_BT = self._values(batch)
        kl = objectives.sequence_kl(logprobs_BT, ref_logprobs_BT, response_BT).mean().item()
        judged = self.rewards(prompts, responses)
        engine_BT = sampled_logprobs(completions, response_BT)
        gap = invariants.check_engine(self.name, step + 1, logprobs_BT, engine_BT, response_BT, self.dtype)
        invariants.check_kl(self.name, step + 1, kl, self.config.max_kl)
        invariants.check_scores(self.name, judged, step + 1)
        rollout = Rollout(
            tokens_BT=tokens_BT,
            valid_BT=valid_BT,
            response_BT=response_BT,
            logprobs_BT=logprobs_BT,
            ref_logprobs_BT=ref_logprobs_BT,
            values_BT=values_BT,
            scores_B=self.final_scores(judged, completions),
            policy_version=self.version,
        )
        return Sampled(rollout, completions, judged, gap)

    def final_scores(self, judged: Judged, completions: Sequence[Completion]) -> torch.Tensor:
        """The rewards' sums, ``[B]``, the fixed score in the place of those of answers that did not end."""
        ended_B = finished(completions, self.device)
        return objectives.score_or_fixed(judged.scores_B.to(self.device), ended_B, self.config.missing_eos_score)

    def _answer(self, step: int, prompts: Sequence[Prompt]) -> list[Completion]:
        """One answer to each prompt, each process sampling its share with a whole copy of the policy."""
        config = self.config
        engine = self._engine_now()
        own = [episode for episode in self.layout.share(len(prompts)) if episode < len(prompts)]
        samplings = [
            Sampling(config.max_tokens, config.temperature, seed=episode_seed(config.seed, step, episode))
            for episode in own
        ]
        answers = engine.generate([prompts[episode].ids for episode in own], samplings) if own else []
        if self.layout.mesh is None:
            return answers
        return [answer for share in world.gather(answers)[:: config.parallel.tensor] for answer in share]

    def _engine_now(self) -> Engine:
        """An engine that answers with the policy as it is now, in the precision that it learns in."""
        model = self._sampler()
        precision: EnginePrecision | None = "bfloat16" if self.dtype == torch.bfloat16 else None
        if self._engine is not None and precision is not None:
            self._engine.refresh(model)
        elif self._engine is not None and self._engine.source is model:
            self._engine.refresh()
        else:
            self._engine = Engine(model, self.tokenizer, batch_size=self.config.batch, precision=precision)
        return self._engine

    def _sampler(self) -> Decoder:
        """The policy as one process can sample with it: itself, unless it is spread or has adapters."""
        return merged(self.layout.whole(self.policy))

    @torch.no_grad()
    def logprobs(self, model: Decoder, batch: Texts) -> torch.Tensor:
        """``[B, T]``: a model's log-probabilities of the responses in a `collate`d batch, as they are learned from."""

        def measure(tokens_BT: torch.Tensor, valid_BT: torch.Tensor, response_BT: torch.Tensor) -> torch.Tensor:
            settings = self.config.temperature, self.tokenizer.vocab_size
            return response_logprobs(model, tokens_BT, valid_BT, response_BT, *settings, entropy=False)[0]

        return self._shared(measure, batch)

    def _shared(
        self, measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], batch: Texts
    ) -> torch.Tensor:
        """``in_groups`` of a batch, each process measuring its share of the rows."""
        count = len(batch[0])
        rows_N = torch.tensor([min(row, count - 1) for row in self.layout.share(count)], device=self.device)
        with autocast(self.config.dtype, self.device):
            tokens_NT, valid_NT, response_NT = (x_BT[rows_N] for x_BT in batch)
            mine_NT = in_groups(measure, tokens_NT, valid_NT, response_NT, self.config.micro_batch)
        return self.layout.joined(mine_NT, count)

    # --- learning -----------------------------------------------------------------------------------------------------

    def learn(self, step: int, rollout: Rollout) -> dict[str, float]:
        """Take the optimiser steps on one rollout; returns the metrics of the batch, means over its minibatches.

        RunStopped on numbers that are not finite, or a ratio that is not 1 before the policy has moved.
        """
        config = self.config
        kl = objectives.sequence_kl(rollout.logprobs_BT, rollout.ref_logprobs_BT, rollout.response_BT).mean().item()
        experience = self._experience(rollout)
        learning = self._learning(step)
        # The first step is at a tenth.
        factor = constant_with_warmup(learning - 1, config.warmup, start=0.1) if learning >= 0 else 1.0
        totals: dict[str, float] = {}
        minibatches = 0
        for rows_M in self._minibatches(step, len(rollout.scores_B)):
            moved = self.version != rollout.policy_version
            parts = self._parts(step, experience, rows_M, moved=moved)
            sums, norm = gradient(self.trained, parts, config.optim.clip)
            check_finite(self.name, step + 1, sums["loss"], norm)
            sums["grad_norm"] = norm
            update(self.trained, factor)
            self.trained.counters["version"] += 1
            self._move_average()
            minibatches += 1
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        metrics = {name: total / minibatches for name, total in totals.items() if name != "tokens"}
        metrics |= {"kl": kl, "kl_coef": self.kl_coef, "lr": config.optim.lr * factor}
        return metrics | self._after(kl, experience)

    def _minibatches(self, step: int, episodes: int) -> Iterator[torch.Tensor]:
        """Rows of each minibatch: every epoch goes once through the batch, in an order of its own."""
        for epoch in range(self.config.inner_epochs):
            generator = torch.Generator().manual_seed(episode_seed(self.config.seed, step, f"order {epoch}"))
            yield from torch.randperm(episodes, generator=generator).to(self.device).split(self.config.minibatch)

    def _parts(self, step: int, experience: Experience, rows_M: torch.Tensor, *, moved: bool) -> Iterator[Part]:
        """The minibatch cut into micro-batches, whose sums together are the minibatch's."""
        config = self.config
        weights_BT = torch.zeros(experience.response_BT.shape, device=self.device)
        weights_BT[rows_M] = self._weights(experience.response_BT[rows_M])
        weighed = experience._replace(weights_BT=weights_BT)
        learns = self._learning(step) >= 0
        own = self.layout.share(len(rows_M))  # all shares are equally long: the config sees to that
        for rows_N in by_length(rows_M[own.start : own.stop], experience.valid_BT, config.micro_batch):
            batch = Experience._make(trim(rows_N, *weighed))
            with torch.set_grad_enabled(learns), autocast(config.dtype, self.device):
                logprobs_BT, entropy_BT = response_logprobs(
                    self.policy,
                    *(batch.tokens_BT, batch.valid_BT, batch.response_BT),
                    config.temperature,
                    self.tokenizer.vocab_size,
                )
            now_BT, old_BT = logprobs_BT.detach(), batch.logprobs_BT
            if not moved:
                invariants.check_ratio(self.name, step + 1, now_BT - old_BT, self.dtype)
            loss, logged = self._losses(batch, logprobs_BT)
            far = {"approx_kl": objectives.kl_k3(now_BT, old_BT)}
            far |= {"clip_fraction": objectives.clipped(now_BT, old_BT, config.clip), "entropy": entropy_BT}
            logged |= {name: (value_BT * batch.weights_BT).sum() for name, value_BT in far.items()}
            yield Part(loss, int(batch.valid_BT.sum()), {name: value.detach() for name, value in logged.items()})
        if self.pretraining is not None and learns:
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

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.average is not None:
            settle(self.policy)
            for averaged, current in zip(self.average.parameters(), self.policy.parameters(), strict=True):
                if current.requires_grad:  # adapters stand beside weights that are frozen, and often shared
                    local(averaged).lerp_(local(current), 1 - self.config.ema)
