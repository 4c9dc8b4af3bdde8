"""Stages offer and people: answers laid out for people to rank, and the file of rankings that they give back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.model.folder import load_model
from chatwright.records import Comparison, Message, Record
from chatwright.stage import PARTS, Headline, Inputs, Stage, StageConfig
from chatwright.storage import keyed_uniform, read_jsonl, write_jsonl
from chatwright.training import runtime
from chatwright.training.compare import Answers, CompareConfig, fill, read_prompts, sample_all

OFFERED = "answers.jsonl"


class Offer(Record):
    """A prompt and its answers in an order that tells nothing. A ranking is this with ``tiers`` and ``labeler``."""

    id: str
    prompt: list[Message]
    answers: list[str]


class PeopleConfig(StageConfig):
    """data: a file of comparisons, one JSON object a line. heldout: share of them that measures the reward model."""

    data: Path
    heldout: float = Field(default=0.1, gt=0, lt=1)


def offer(config: CompareConfig, inputs: Inputs, out: Path) -> Headline:
    """Sample what ``compare`` samples for the prompts to learn from, and rank nothing."""
    device = runtime.prepare()
    model, tokenizer = load_model(inputs["sft"])
    engine = Engine(model.to(device), tokenizer, config.batch_size)
    questions = read_prompts(inputs["conversations"] / "prompts.jsonl", config, tokenizer, model.config.context)
    filled = fill(config, questions, sample_all(config, engine, questions, out / PARTS, "offer"))
    offers = [
        Offer(id=question.id, prompt=question.messages, answers=_shuffled(answers, config.seed, question.id))
        for question, answers in zip(questions, filled, strict=True)
        if len(answers) > 1
    ]
    if not offers:
        raise UserError(
            "The policy gave the same answer every time to every prompt, so nothing can be compared; "
            "raise compare.temperature or give it more prompts."
        )
    write_jsonl(out / OFFERED, offers)
    return {"prompts": len(offers), "answers": sum(len(offer.answers) for offer in offers)}


def _shuffled(answers: Answers, *key: object) -> list[str]:
    draw = random.Random("/".join(["offer", *map(str, key)]))
    return draw.sample(list(answers), len(answers))


def take(config: PeopleConfig, inputs: Inputs, out: Path) -> Headline:
    """Check the rankings against what was offered and part them into two sets. UserError names what does not fit."""
    offered = {offer.id: offer for offer in read_jsonl(inputs["offer"] / OFFERED, Offer)}
    comparisons = read_jsonl(config.data, Comparison)
    check(config.data, comparisons, offered)
    heldout = [c for c in comparisons if keyed_uniform(config.seed, "heldout", c.id) < config.heldout]
    if not heldout:  # a short file: something has to measure the reward model
        heldout = [min(comparisons, key=lambda c: keyed_uniform(config.seed, "heldout", c.id))]
    kept_out = {comparison.id for comparison in heldout}
    training = [comparison for comparison in comparisons if comparison.id not in kept_out]
    for name, chosen in (("comparisons.jsonl", training), ("comparisons_heldout.jsonl", heldout)):
        if not any(len(comparison.tiers) > 1 for comparison in chosen):
            raise UserError(f"{config.data}: {name} would hold no answer ranked above another; rank more prompts.")
        write_jsonl(out / name, chosen)
    return {
        "prompts": len(comparisons),
        "offered": len(offered),
        "people": len({comparison.labeler for comparison in comparisons}),
    }


def check(path: Path, comparisons: Sequence[Comparison], offered: dict[str, Offer]) -> None:
    """Raise UserError unless every comparison ranks the answers that were offered for its id, each id once."""
    seen: set[str] = set()
    for number, comparison in enumerate(comparisons, start=1):
        where = f"{path}, comparison {number}"
        found = offered.get(comparison.id)
        if found is None:
            raise UserError(f"{where}: {comparison.id!r} was not offered in this round; is it the file of another one?")
        if comparison.id in seen:
            raise UserError(f"{where}: {comparison.id!r} is ranked twice; keep one ranking of a prompt.")
        if sorted(comparison.answers) != sorted(found.answers) or comparison.prompt != found.prompt:
            raise UserError(f"{where}: {comparison.id!r} has another prompt or other answers than were offered.")
        seen.add(comparison.id)
    if len(seen) < 2:
        raise UserError(f"{path} ranks {len(seen)} prompts; at least two are needed, one of them to measure with.")


OFFER = Stage(
    name="offer",
    version=1,
    config=CompareConfig,
    inputs=("sft", "conversations"),
    run=offer,
    summary="sample several answers to each prompt for people to rank",
)
PEOPLE = Stage(
    name="people",
    version=1,
    config=PeopleConfig,
    inputs=("offer",),
    run=take,
    summary="take in the rankings that people gave",
)
