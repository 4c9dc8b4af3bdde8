"""Stage compare: the SFT model answers each prompt several times, and the simulated labeller ranks its answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.labelling.simulated import agreement, gold_score, rank
from chatwright.model.folder import load_model
from chatwright.records import Comparison, Question, Record
from chatwright.stage import PARTS, Headline, Inputs, Stage, StageConfig, say
from chatwright.storage import keyed_uniform, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training import runtime
from chatwright.training.parts import in_parts
from chatwright.training.questions import read_questions

DONORS = 20  # prompts drawn from all to lend an answer, in turn with those on the same subject
PROMPTS_AT_ONCE = 256  # in a part: what a kill costs at most; the engine cuts them into its own batches


class CompareConfig(StageConfig):
    """How answers are drawn and ranked.

    misplaced: how many of a prompt's K answers are the model's answers to other prompts, in turn to one on the same
    subject and to one on any. A model that is sure of itself seldom answers another question than the one asked, nor
    denies knowing what it knows, so the reward model would never see it done, and PPO would find out. Ours. More take
    the place of answers that came twice. noise: standard
    deviation of the labeller's mood, on the scale of its scores. tie_margin: noisy scores closer than this are a tie.
    prompts: at most so many of each file; None for all. offset: they begin after so many, and the file's first follow
    its last, so that every round can have prompts of its own.
    """

    answers_min: int = Field(default=4, ge=2)  # InstructGPT C.2: K = 4..9 answers a prompt
    answers_max: int = Field(default=9, ge=2)
    misplaced: int = Field(default=2, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, gt=0)
    noise: float = Field(default=0.3, ge=0)
    tie_margin: float = Field(default=0.05, ge=0)
    prompts: int | None = Field(default=None, gt=0)
    offset: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, gt=0)

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> CompareConfig:
        if self.answers_min > self.answers_max:
            raise ValueError(f"answers_min ({self.answers_min}) is above answers_max ({self.answers_max})")
        if self.misplaced > self.answers_min - 1:
            raise ValueError(f"misplaced ({self.misplaced}) leaves no answer to the prompt of {self.answers_min}")
        return self


# Distinct answers to a prompt, and whether each ended by itself.
Answers = dict[str, bool]


@dataclass(frozen=True)
class Ranked:
    """A prompt's distinct answers, what each is worth without noise, and their ranking with it."""

    comparison: Comparison
    scores: list[float]
    again: list[list[int]]  # the same labeller on another day


def run(config: CompareConfig, inputs: Inputs, out: Path) -> Headline:
    """Sample and rank answers to both files of prompts. A killed run goes on."""
    device = runtime.prepare()
    model, tokenizer = load_model(inputs["sft"])
    engine = Engine(model.to(device), tokenizer, config.batch_size)
    files = (inputs["conversations"] / f"{name}.jsonl" for name in ("prompts", "prompts_heldout"))
    questions, held_out = (read_prompts(file, config, tokenizer, model.config.context) for file in files)
    total = len(questions) + len(held_out)
    answers = sample_all(config, engine, questions + held_out, out / PARTS, "compare")
    ranked = compare(config, questions, answers[: len(questions)])
    ranked += compare(config, held_out, answers[len(questions) :])
    training = [item for item in ranked[: len(questions)] if item is not None]
    heldout = [item for item in ranked[len(questions) :] if item is not None]
    if not training or not heldout:
        raise UserError(
            "The SFT model gave the same answer every time to every prompt, so nothing can be compared; "
            "raise compare.temperature or give it more prompts."
        )
    write_jsonl(out / "comparisons.jsonl", (item.comparison for item in training))
    write_jsonl(out / "comparisons_heldout.jsonl", (item.comparison for item in heldout))
    write_jsonl(
        out / "scores.jsonl", ({"id": item.comparison.id, "scores": item.scores} for item in training + heldout)
    )
    headline = summary(training + heldout) | {"skipped": total - len(training) - len(heldout)}
    say(
        f"  {headline['prompts']} prompts, {headline['pairs']} pairs; the labeller agrees with itself on "
        f"{headline['self_agreement']:.1%} and with the noiseless order on {headline['gold_agreement']:.1%}"
    )
    return headline


class Sampled(Record):
    """The distinct answers to the prompt of an id."""

    id: str
    answers: Answers


def sample_all(
    config: CompareConfig, engine: Engine, questions: Sequence[Question], parts: Path, title: str
) -> list[Answers]:
    """The distinct answers to each question, keyed on its id and the seed (see `in_parts`)."""
    made = in_parts(questions, PROMPTS_AT_ONCE, partial(sample, config, engine), Sampled, parts, title, engine)
    return [sampled.answers for sampled in made]


def sample(config: CompareConfig, engine: Engine, questions: Sequence[Question]) -> list[Sampled]:
    """The distinct answers to each question: neither order nor batching matters."""
    tokenizer = engine.tokenizer
    counts = [answer_count(config, question.id) - config.misplaced for question in questions]
    prompts, samplings = [], []
    for question, count in zip(questions, counts, strict=True):
        prompts += [render(tokenizer, question.messages, generation_prompt=True)] * count
        samplings += [
            Sampling(config.max_tokens, config.temperature, seed=_seed(config.seed, question.id, i))
            for i in range(count)
        ]
    completions = iter(engine.generate(prompts, samplings))
    made: list[Sampled] = []
    for question, count in zip(questions, counts, strict=True):
        distinct: Answers = {}
        for completion in islice(completions, count):
            distinct.setdefault(tokenizer.decode(completion.tokens), completion.finish_reason == "stop")
        made.append(Sampled(id=question.id, answers=distinct))
    return made


def compare(config: CompareConfig, questions: Sequence[Question], answers: Sequence[Answers]) -> list[Ranked | None]:
    """The labeller's ranking of each question's answers, filled up to its K; None where there is only one."""
    return [
        _ranked(config, question, together) if len(together) > 1 else None
        for question, together in zip(questions, fill(config, questions, answers), strict=True)
    ]


def fill(config: CompareConfig, questions: Sequence[Question], answers: Sequence[Answers]) -> list[Answers]:
    """Each question's answers, filled up to its K with answers to the others (see ``misplaced``)."""
    by_subject: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        by_subject.setdefault(question.subject, []).append(i)
    filled: list[Answers] = []
    for i, question in enumerate(questions):
        draw = random.Random(f"{config.seed}/misplaced/{question.id}")
        near = [j for j in by_subject[question.subject] if j != i] if question.subject else []
        near = draw.sample(near, len(near))
        far = draw.sample(range(len(questions)), min(len(questions), DONORS))
        donors = [j for pair in zip_longest(near, far) for j in pair if j is not None]
        together = dict(answers[i])
        missing = answer_count(config, question.id) - len(together) if config.misplaced else 0
        for answer, finished in [draw.choice(list(answers[j].items())) for j in donors if j != i]:
            if missing > 0 and answer not in together:
                together[answer] = finished
                missing -= 1
        filled.append(together)
    return filled


def _ranked(config: CompareConfig, question: Question, answers: Answers) -> Ranked:
    scores = [gold_score(question.gold, answer, finished) for answer, finished in answers.items()]
    first, again = (
        rank(scores, config.noise, config.tie_margin, config.seed, question.id, day) for day in ("first", "again")
    )
    comparison = Comparison(
        id=question.id,
        prompt=question.messages,
        answers=list(answers),
        tiers=first,
        labeler="simulated",
        source="compare",
    )
    return Ranked(comparison, scores, again)


def summary(ranked: Sequence[Ranked]) -> dict[str, Any]:
    """Counts, and how far to trust the labeller: agreement of two noisy rankings, and with the noiseless order."""
    pairs = sum(len(item.scores) * (len(item.scores) - 1) // 2 for item in ranked)
    ordered = sum(_ordered_pairs(item.comparison.tiers) for item in ranked)
    with_self = [agreement(item.comparison.tiers, _tier_scores(item.again)) for item in ranked]
    with_gold = [agreement(item.comparison.tiers, item.scores) for item in ranked]
    scores = [score for item in ranked for score in item.scores]
    return {
        "prompts": len(ranked),
        "answers": len(scores),
        "pairs": ordered,
        "tie_share": 1 - ordered / pairs,
        "self_agreement": _share(with_self),
        "gold_agreement": _share(with_gold),
        "gold_mean": sum(scores) / len(scores),
    }


def answer_count(config: CompareConfig, question_id: str) -> int:
    """How many answers a prompt gets, drawn evenly from the range by its id."""
    span = config.answers_max - config.answers_min + 1
    return config.answers_min + int(keyed_uniform("answers", config.seed, question_id) * span)


def _seed(*key: object) -> int:
    return int(keyed_uniform("compare", *key) * 2**63)


def _ordered_pairs(tiers: Sequence[Sequence[int]]) -> int:
    """Pairs of answers in different tiers.

    >>> _ordered_pairs([[0, 1], [2]])
    2
    """
    sizes = [len(tier) for tier in tiers]
    return (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2


def _tier_scores(tiers: Sequence[Sequence[int]]) -> list[float]:
    """A score for each answer that orders them as the tiers do."""
    scores = {i: float(-t) for t, tier in enumerate(tiers) for i in tier}
    return [scores[i] for i in range(len(scores))]


def _share(counts: Sequence[tuple[int, int]]) -> float:
    """All that agree over all that could; 1 when there was nothing to disagree on."""
    alike, total = (sum(column) for column in zip(*counts, strict=True))
    return alike / total if total else 1.0


def read_prompts(path: Path, config: CompareConfig, tokenizer: Tokenizer, context: int) -> list[Question]:
    """The prompts of a file that are compared. UserError when it has none that leave room in the context."""
    questions = read_questions(path, tokenizer, context)
    first = config.offset % len(questions)
    return (questions[first:] + questions[:first])[: config.prompts]


STAGE = Stage(
    name="compare",
    version=4,
    config=CompareConfig,
    inputs=("sft", "conversations"),
    run=run,
    summary="sample several answers to each prompt and have the simulated labeller rank them",
)
