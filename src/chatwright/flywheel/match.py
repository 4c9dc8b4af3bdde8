"""Stage match: a policy against the round before it and against SFT, on held-out prompts, judged by the labeller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from pydantic import Field

from chatwright.evaluation.checks import wilson
from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model
from chatwright.records import Message, Question, Record
from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.storage import write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.ppo import before_after, objectives
from chatwright.training.ppo.rollout import collate, episode_seed, in_groups, response_logprobs
from chatwright.training.questions import read_questions
from chatwright.training.runtime import prepare

ROWS = 32  # answers side by side in one forward pass
PLAYERS = ("policy", "previous", "sft")
ANSWERS = "answers.jsonl"


class MatchConfig(StageConfig):
    """prompts: the first ones of the held-out file. temperature, max_tokens: as PPO samples, so that its KL is this."""

    prompts: int = Field(default=256, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, gt=0)


class Met(Record):
    """A prompt of a match: what each of the three answered, and what the labeller gives for that without noise."""

    id: str
    prompt: list[Message]
    answers: dict[str, str]
    gold: dict[str, float]


@dataclass(frozen=True)
class Played:
    """A model's answers, one to each prompt, and what the labeller gives for them without noise."""

    completions: list[Completion]
    texts: list[str]
    gold: list[float]


def run(config: MatchConfig, inputs: Inputs, out: Path) -> Headline:
    """Compare ``policy`` with ``previous`` and with ``sft``; every answer is written to answers.jsonl."""
    device = prepare()
    models: dict[Path, tuple[Decoder, Tokenizer]] = {}
    for folder in dict.fromkeys(inputs[part] for part in PLAYERS):  # in the first round, the round before is SFT
        model, tokenizer = load_model(folder)
        models[folder] = model.to(device).eval(), tokenizer
    path = inputs["conversations"] / "prompts_heldout.jsonl"
    questions = read_questions(path, tokenizer, model.config.context)[: config.prompts]
    played = {folder: play(*models[folder], questions, config) for folder in models}
    policy, previous, sft = (played[inputs[part]] for part in PLAYERS)
    write_jsonl(
        out / ANSWERS,
        (
            Met(
                id=question.id,
                prompt=question.messages,
                answers={part: played[inputs[part]].texts[i] for part in PLAYERS},
                gold={part: played[inputs[part]].gold[i] for part in PLAYERS},
            )
            for i, question in enumerate(questions)
        ),
    )
    model, tokenizer = models[inputs["policy"]]
    return {
        "prompts": len(questions),
        "gold": fmean(policy.gold),
        "gold_previous": fmean(previous.gold),
        "gold_sft": fmean(sft.gold),
        **_named("previous", win_rate(policy.gold, previous.gold)),
        **_named("sft", win_rate(policy.gold, sft.gold)),
        "kl": kl(model, models[inputs["sft"]][0], tokenizer, questions, policy.completions, config.temperature),
        "length": before_after.mean_length(policy.completions),
        "eos_rate": before_after.eos_rate(policy.completions),
    }


def play(model: Decoder, tokenizer: Tokenizer, questions: Sequence[Question], config: MatchConfig) -> Played:
    """One answer to each question, with the same seeds whatever the model."""
    samplings = [
        Sampling(config.max_tokens, config.temperature, seed=episode_seed("match", config.seed, question.id))
        for question in questions
    ]
    engine = Engine(model, tokenizer, batch_size=min(256, len(questions)))
    completions = engine.generate(before_after.rendered(tokenizer, questions), samplings)
    return Played(
        completions=completions,
        texts=[tokenizer.decode(completion.tokens) for completion in completions],
        gold=before_after.gold_scores(tokenizer, questions, completions).tolist(),
    )


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Share of the prompts on which ours scores higher, a tie counting half, and its 95% interval.

    >>> win_rate([1.0, 1.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0])[0]
    0.75
    """
    wins = sum(0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True))
    return wins / len(ours), *wilson(wins, len(ours))


def _named(opponent: str, rate: tuple[float, float, float]) -> dict[str, float]:
    return {f"win_rate_{opponent}{end}": value for end, value in zip(("", "_low", "_high"), rate, strict=True)}


@torch.no_grad()
def kl(
    policy: Decoder,
    reference: Decoder,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    completions: Sequence[Completion],
    temperature: float,
) -> float:
    """Mean over the policy's answers of log(policy / reference), in nats an answer."""
    device = next(policy.parameters()).device
    prompts = before_after.rendered(tokenizer, questions)
    batch = collate(prompts, [completion.tokens for completion in completions], tokenizer.pad, device)

    def logprobs(model: Decoder) -> torch.Tensor:
        def measure(tokens_BT: torch.Tensor, valid_BT: torch.Tensor, response_BT: torch.Tensor) -> torch.Tensor:
            return response_logprobs(model, tokens_BT, valid_BT, response_BT, temperature, tokenizer.vocab_size)[0]

        return in_groups(measure, *batch, ROWS)

    return objectives.sequence_kl(logprobs(policy), logprobs(reference), batch[2]).mean().item()


STAGE = Stage(
    name="match",
    version=1,
    config=MatchConfig,
    inputs=("policy", "previous", "sft", "conversations"),
    run=run,
    summary="compare the policy with the round before it and with SFT",
)
