"""Before and after: what was changed, on prompts that it never saw, judged by the labeller and by the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.labelling.simulated import gold_score
from chatwright.model.decoder import Decoder
from chatwright.records import Question
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.ppo import objectives
from chatwright.training.ppo.policy import PolicyTrainer
from chatwright.training.ppo.rollout import collate, episode_seed
from chatwright.training.rewards import prompts_of


@dataclass(frozen=True)
class Answers:
    """One answer to each of N questions, and what it is worth."""

    texts: list[str]
    completions: list[Completion]
    gold_N: torch.Tensor
    proxy_N: torch.Tensor

    def summary(self, suffix: str) -> dict[str, float]:
        """Means as headline metrics, each name ending in ``suffix``."""
        return {
            f"gold_{suffix}": self.gold_N.mean().item(),
            f"proxy_{suffix}": self.proxy_N.mean().item(),
            f"length_{suffix}": mean_length(self.completions),
            f"eos_rate_{suffix}": eos_rate(self.completions),
        }


def answer(trainer: PolicyTrainer[Any], model: Decoder, questions: Sequence[Question]) -> Answers:
    """One answer of ``model`` to each question at the rollouts' temperature; seeds are those of the question alone."""
    config, tokenizer = trainer.config, trainer.tokenizer
    prompts = prompts_of(tokenizer, questions)
    samplings = [
        Sampling(config.max_tokens, config.temperature, seed=episode_seed("held out", question.id))
        for question in questions
    ]
    completions = Engine(model, tokenizer, batch_size=len(questions)).generate([p.ids for p in prompts], samplings)
    judged = trainer.rewards(prompts, [completion.tokens for completion in completions])
    return Answers(
        texts=[tokenizer.decode(completion.tokens) for completion in completions],
        completions=completions,
        gold_N=gold_scores(tokenizer, questions, completions),
        proxy_N=trainer.final_scores(judged, completions),
    )


def rendered(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[list[int]]:
    """Each question as the ids that ask for its answer."""
    return [render(tokenizer, question.messages, generation_prompt=True) for question in questions]


def gold_scores(tokenizer: Tokenizer, questions: Sequence[Question], completions: Sequence[Completion]) -> torch.Tensor:
    """The labeller's scores without noise, ``[N]`` float64."""
    return torch.tensor(
        [
            gold_score(question.gold, tokenizer.decode(completion.tokens), completion.finish_reason == "stop")
            for question, completion in zip(questions, completions, strict=True)
        ],
        dtype=torch.float64,
    )


def kl_from_reference(
    trainer: PolicyTrainer[Any], model: Decoder, questions: Sequence[Question], answers: Answers
) -> float:
    """Mean over the answers, which ``model`` gave, of log(model / reference), in nats an answer."""
    responses = [completion.tokens for completion in answers.completions]
    batch = collate(rendered(trainer.tokenizer, questions), responses, trainer.tokenizer.pad, trainer.device)
    logprobs_BT, ref_logprobs_BT = trainer.logprobs(model, batch), trainer.logprobs(trainer.reference, batch)
    return objectives.sequence_kl(logprobs_BT, ref_logprobs_BT, batch[2]).mean().item()


def samples(questions: Sequence[Question], before: Answers, after: Answers, count: int) -> list[dict[str, Any]]:
    """The first ``count`` questions with both answers and their scores, to be read by a person."""
    return [
        {
            "id": question.id,
            "messages": [message.model_dump(mode="json") for message in question.messages],
            "before": {"answer": before.texts[i], "gold": before.gold_N[i].item(), "proxy": before.proxy_N[i].item()},
            "after": {"answer": after.texts[i], "gold": after.gold_N[i].item(), "proxy": after.proxy_N[i].item()},
        }
        for i, question in enumerate(questions[:count])
    ]


def mean_length(completions: Sequence[Completion]) -> float:
    """Tokens an answer."""
    return sum(len(completion.tokens) for completion in completions) / len(completions)


def eos_rate(completions: Sequence[Completion]) -> float:
    """Share of the answers that ended their turn."""
    return sum(completion.finish_reason == "stop" for completion in completions) / len(completions)
