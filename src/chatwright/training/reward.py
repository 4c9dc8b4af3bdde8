"""Stage reward: a scalar head on the SFT model learns which of a prompt's answers the labeller prefers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from chatwright.errors import UserError
from chatwright.formats import best_answered
from chatwright.labelling.simulated import length
from chatwright.model.folder import load_model, save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Comparison, Conversation, Record
from chatwright.stage import Headline, Inputs, Stage, say
from chatwright.storage import digest, read_jsonl, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.comparisons import Compared, ComparisonsConfig, as_ids, drawn, mistakes, read
from chatwright.training.config import CheckpointConfig, GradientConfig, TuningConfig, lay_under
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, train
from chatwright.training.lora import add_adapters, learned, merged
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.order import Shuffled
from chatwright.training.rankings import Ranking, preferences, ranking, ranking_parts, row_length, score_each
from chatwright.training.schedules import ScheduleConfig
from chatwright.training.sft import example, fitting

HELDOUT = "heldout.jsonl"  # what the model was measured on
HELDOUT_SCORES = "heldout_scores.jsonl"


# The reward model of InstructGPT, 6B.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "instructgpt": {
        "epochs": 1.0,  # C.2: more overfits
        "batch": 64,  # C.2: prompts, each with all its pairs
        "optim": {"kind": "adamw", "lr": 9e-6, "betas": (0.9, 0.95), "weight_decay": 0.0},  # C.2; C; decay ours
        "schedule": {"kind": "cosine", "warmup": 0.0, "floor": 0.1},  # C.2: to a tenth; no warm-up ours
    },
}


class RewardConfig(ComparisonsConfig, TuningConfig, GradientConfig):
    """How the reward model is trained, beside what it learns from (see `ComparisonsConfig`).

    preset: InstructGPT's settings (see `PRESETS`), which other keys override.

    batch: prompts in a step, each with all its answers (InstructGPT C.2: 64). micro_batch: answers that go through the
    model at a time. demonstrations: how many of them set the zero of the reward; with own data, so many of the best
    answers in it do. eval_every: steps between measurements of the held-out accuracy, each on the first eval_prompts
    held-out prompts; the headline is of all.
    """

    preset: Literal["instructgpt"] | None = None
    epochs: float = Field(default=1.0, gt=0)  # InstructGPT C.2: more overfits
    batch: int = Field(default=64, gt=0)
    micro_batch: int = Field(default=256, gt=0)
    optim: OptimConfig = OptimConfig(lr=5e-4, weight_decay=0.0)  # ours, for small models: Muon
    schedule: ScheduleConfig = ScheduleConfig(kind="cosine")  # InstructGPT C.2: cosine to a tenth
    demonstrations: int = Field(default=512, gt=0)
    eval_every: int = Field(default=20, gt=0)
    eval_prompts: int = Field(default=128, gt=0)
    checkpoint: CheckpointConfig = CheckpointConfig(every=20)

    not_in_key: ClassVar[frozenset[str]] = TuningConfig.not_in_key | {"preset"}  # what it sets is in the key

    @model_validator(mode="after")
    def _takes_the_rest_from_preset(self) -> RewardConfig:
        lay_under(self, PRESETS[self.preset] if self.preset else {})
        return self


class Scores(Record):
    """What each answer of a comparison is worth to a labeller without noise."""

    id: str
    scores: list[float]


def run(config: RewardConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the reward model from the weights of ``sft`` and leave it in ``out`` as a Hugging Face folder.

    Beside it, what it was measured on: heldout.jsonl, the comparisons, and heldout_scores.jsonl, its scores.
    """
    layout = config.layout()
    decoder, tokenizer = load_model(inputs["sft"])
    model = ScoredDecoder(decoder, torch.Generator().manual_seed(config.seed))
    if config.lora is not None:
        add_adapters(decoder, config.lora, config.seed)
    if decoder.head is not None:
        decoder.head.requires_grad_(False)  # the language model's head has no part in a score
    layout.spread(model).eval()  # no dropout in reward models (NDET)
    compared = read(config, inputs, out)
    data = compared.limited(config)
    most = min(config.max_tokens or decoder.config.context, decoder.config.context)

    def ids_of(comparison: Comparison) -> Ranking | None:
        return ranking(tokenizer, comparison, most)

    comparisons, rankings = as_ids(data.training, ids_of, data.name, most)
    heldout, heldout_rankings = as_ids(data.heldout, ids_of, data.name, most)
    zero = zero_ids(tokenizer, read_zero(config, inputs, compared), decoder.config.context)
    heldout_answers = [item.answers for item in heldout_rankings]
    labels = [preferences(comparison) for comparison in heldout]
    order = Shuffled(len(rankings), config.seed)
    steps = math.ceil(config.epochs * len(rankings) / config.batch)
    too_long = len(data.training) + len(data.heldout) - len(rankings) - len(heldout)
    say(
        f"  reward: {len(rankings):,} prompts, {sum(len(r.ranks) for r in rankings):,} answers, "
        f"{sum(row_length(r.answers) for r in rankings):,} tokens, {steps:,} steps; {len(heldout):,} held-out prompts; "
        f"{too_long:,} left out, longer than {most:,} tokens"
    )

    def numbers(step: int) -> list[int]:
        return [number for _, number in order.take(step * config.batch, config.batch)]

    def losses(step: int) -> Iterator[Part]:
        chosen = [rankings[number] for number in numbers(step)]
        yield from ranking_parts(model, chosen, config.micro_batch, tokenizer.pad, config.dtype, layout)

    def measure(done: int) -> Mapping[str, float]:
        if done % config.eval_every and done != steps:
            return {}
        answers = heldout_answers[: config.eval_prompts]
        scores = score_each(model, answers, config.micro_batch, tokenizer.pad, config.dtype)
        return {"heldout_accuracy": pair_accuracy(scores, labels[: config.eval_prompts])}

    content = digest([comparison.model_dump(mode="json") for comparison in data.training])
    identity = {"tokenizer": tokenizer.hash, "set of comparisons": content}
    plan = Plan.of("reward", config, out, steps, identity)
    trained = Trained({"model": learned(model)}, build_optimizers(model, config.optim), layout)

    def documents(step: int) -> list[str]:
        return [comparisons[number].id for number in numbers(step)]

    learn = gradient_steps(trained, losses, plan, config, documents)
    train(trained, learn, plan, measure=measure, score=mistakes)
    raw_mean = center(model, zero, config, tokenizer.pad)
    scores = score_each(model, heldout_answers, config.micro_batch, tokenizer.pad, config.dtype)
    result = merged(layout.whole(model))
    world.once(lambda: _leave(result, tokenizer, heldout, scores, out))
    remove_checkpoint(out / "checkpoint")
    flat = torch.tensor([score for answers in scores for score in answers])
    return {
        "prompts": len(rankings),
        "heldout_prompts": len(heldout),
        "too_long": too_long,
        **accuracies(heldout, scores, data.name.with_name("scores.jsonl") if config.data is None else None),
        "demonstration_mean_before": raw_mean,
        "heldout_score_mean": flat.mean().item(),
        "heldout_score_std": flat.std().item(),
    }


def _leave(
    model: ScoredDecoder, tokenizer: Tokenizer, heldout: list[Comparison], scores: list[list[float]], out: Path
) -> None:
    """Write the model, what it was measured on, and its scores of that."""
    write_jsonl(out / HELDOUT, heldout)
    records = (Scores(id=item.id, scores=found) for item, found in zip(heldout, scores, strict=True))
    write_jsonl(out / HELDOUT_SCORES, records)
    save_reward(model, out, tokenizer)


def read_zero(config: RewardConfig, inputs: Inputs, compared: Compared) -> list[Conversation]:
    """What has a mean reward of 0: demonstrations (InstructGPT 3.5), or the best answers in data of one's own."""
    if config.data is not None:
        best = drawn(compared.training, config.demonstrations, "center", config.seed)
        return [best_answered(comparison) for comparison in best]
    path = inputs["conversations"] / "demonstrations.jsonl"
    conversations = read_jsonl(path, Conversation)
    if not conversations:
        raise UserError(f"{path} holds no demonstrations; run the stage conversations again.")
    return drawn(conversations, config.demonstrations, "center", config.seed)


def zero_ids(tokenizer: Tokenizer, demonstrations: Sequence[Conversation], context: int) -> list[list[int]]:
    """The ids of each demonstration that fits into the context. UserError when none does."""
    # A score reads the last id too, which `fitting` counts as predicted only.
    talks = (fitting(tokenizer, conversation.messages, context - 1) for conversation in demonstrations)
    ids = [example(tokenizer, messages).ids for messages in talks if messages]
    if not ids:
        raise UserError(f"No demonstration fits into the model's context of {context} tokens; shorten them.")
    return ids


def center(model: ScoredDecoder, zero: Sequence[list[int]], config: RewardConfig, pad: int) -> float:
    """Shift the model's scores so that the mean of these texts is 0 (InstructGPT 3.5); returns the mean before."""
    scores = score_each(model, [[ids] for ids in zero], config.micro_batch, pad, config.dtype)
    mean = math.fsum(score for (score,) in scores) / len(scores)
    model.bias += mean
    return mean


def accuracies(
    comparisons: Sequence[Comparison], scores: Sequence[list[float]], gold_file: Path | None
) -> dict[str, float]:
    """Held-out pair accuracies.

    ``accuracy_labels``: the model against the labels as given. Where ``gold_file`` tells what the answers are worth
    without noise, against that order: ``accuracy`` of the model, ``labeler_agreement`` of the labels themselves and
    ``length_accuracy`` of the rule that the longer answer is better.
    """
    labels = [preferences(comparison) for comparison in comparisons]
    lengths = [[float(length(answer)) for answer in comparison.answers] for comparison in comparisons]
    found = {"accuracy_labels": pair_accuracy(scores, labels), "length_accuracy_labels": pair_accuracy(lengths, labels)}
    if gold_file is None or not gold_file.exists():
        return found
    by_id = {record.id: record.scores for record in read_jsonl(gold_file, Scores)}
    missing = [
        comparison.id for comparison in comparisons if len(by_id.get(comparison.id, ())) != len(comparison.answers)
    ]
    if missing:
        raise UserError(f"{gold_file} has no scores for the answers of comparison {missing[0]!r}; run compare again.")
    gold = [by_id[comparison.id] for comparison in comparisons]
    if all(len(set(worth)) == 1 for worth in gold):  # as of prompts about which the labeller knows nothing
        return found
    return {
        "accuracy": pair_accuracy(scores, gold),
        "labeler_agreement": pair_accuracy(labels, gold),
        "length_accuracy": pair_accuracy(lengths, gold),
        "pairs": sum(a != b for worth in gold for a, b in combinations(worth, 2)),
        **found,
    }


def pair_accuracy(scores: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """Share of pairs of different worth in ``truth`` that ``scores`` orders alike; equal scores count half.

    >>> pair_accuracy([[3.0, 1.0, 1.0]], [[2.0, 0.0, 1.0]])  # pairs (0, 1) and (0, 2) are right, (1, 2) is a toss-up
    0.8333333333333334
    """
    right, total = 0.0, 0
    for values, worth in zip(scores, truth, strict=True):
        for a, b in combinations(range(len(worth)), 2):
            if worth[a] != worth[b]:
                total += 1
                right += 0.5 if values[a] == values[b] else (values[a] > values[b]) == (worth[a] > worth[b])
    return right / total if total else math.nan


STAGE = Stage(
    name="reward",
    version=5,
    config=RewardConfig,
    inputs=("sft", "compare", "conversations"),
    run=run,
    summary="train the reward model on the comparisons",
    together=True,
)
