"""Stage reward: a scalar head on the SFT model learns which of a prompt's answers the labeller prefers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from chatwright.errors import UserError
from chatwright.labelling.simulated import length
from chatwright.model.folder import load_model, save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Comparison, Conversation, Message, Record
from chatwright.stage import Headline, Inputs, Stage, say
from chatwright.storage import file_digest, keyed_uniform, read_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.config import CheckpointConfig, GradientConfig, TuningConfig
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, train
from chatwright.training.lora import add_adapters, learned, merged
from chatwright.training.objectives import better_pairs, ranking_loss
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.order import Shuffled
from chatwright.training.parallel import Layout
from chatwright.training.runtime import Precision, autocast
from chatwright.training.schedules import ScheduleConfig
from chatwright.training.sft import example

ROWS = 32  # answers side by side in one forward pass


class RewardConfig(TuningConfig, GradientConfig):
    """How the reward model is trained.

    batch: prompts in a step, each with all its answers (InstructGPT C.2: 64). micro_batch: answers that go through the
    model at a time. demonstrations: how many of them set the zero of the reward. eval_every: steps between measurements
    of the held-out accuracy, each on the first eval_prompts held-out prompts; the headline is of all.
    """

    epochs: float = Field(default=1.0, gt=0)  # InstructGPT C.2: more overfits
    batch: int = Field(default=64, gt=0)
    micro_batch: int = Field(default=256, gt=0)
    optim: OptimConfig = OptimConfig(lr=5e-4, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(kind="cosine")  # InstructGPT C.2: cosine to a tenth
    demonstrations: int = Field(default=512, gt=0)
    eval_every: int = Field(default=20, gt=0)
    eval_prompts: int = Field(default=128, gt=0)
    checkpoint: CheckpointConfig = CheckpointConfig(every=20)


class Scores(Record):
    """What each answer of a comparison is worth to a labeller without noise."""

    id: str
    scores: list[float]


@dataclass(frozen=True)
class Ranking:
    """A comparison as ids: the prompt with each answer, and each answer's rank, 0 the best; equal ranks tie."""

    answers: list[list[int]]
    ranks: list[int]


def run(config: RewardConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the reward model from the weights of ``sft`` and leave it in ``out`` as a Hugging Face folder."""
    layout = config.layout()
    decoder, tokenizer = load_model(inputs["sft"])
    model = ScoredDecoder(decoder, torch.Generator().manual_seed(config.seed))
    if config.lora is not None:
        add_adapters(decoder, config.lora, config.seed)
    if decoder.head is not None:
        decoder.head.requires_grad_(False)  # the language model's head has no part in a score
    layout.spread(model).eval()  # no dropout in reward models (NDET)
    comparisons = read_comparisons(inputs["compare"] / "comparisons.jsonl")
    heldout = read_comparisons(inputs["compare"] / "comparisons_heldout.jsonl")
    rankings = [ranking(tokenizer, comparison, decoder.config.context) for comparison in comparisons]
    heldout_answers = [ranking(tokenizer, comparison, decoder.config.context).answers for comparison in heldout]
    labels = [preferences(comparison) for comparison in heldout]
    order = Shuffled(len(rankings), config.seed)
    steps = math.ceil(config.epochs * len(rankings) / config.batch)
    say(f"  reward: {len(rankings):,} prompts, {sum(len(r.ranks) for r in rankings):,} answers, {steps:,} steps")

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

    identity = {
        "tokenizer": tokenizer.hash,
        "set of comparisons": file_digest(inputs["compare"] / "comparisons.jsonl"),
    }
    plan = Plan.of("reward", config, out, steps, identity, decoder.config)
    trained = Trained({"model": learned(model)}, build_optimizers(model, config.optim), layout)

    def documents(step: int) -> list[str]:
        return [comparisons[number].id for number in numbers(step)]

    learn = gradient_steps(trained, losses, plan, config, documents)
    train(trained, learn, plan, measure=measure, score=_mistakes)
    demonstrations = sample_demonstrations(inputs["conversations"] / "demonstrations.jsonl", config)
    raw_mean = center(model, tokenizer, demonstrations, config)
    scores = score_each(model, heldout_answers, config.micro_batch, tokenizer.pad, config.dtype)
    result = merged(layout.whole(model))
    world.once(lambda: save_reward(result, out, tokenizer))
    remove_checkpoint(out / "checkpoint")
    flat = torch.tensor([score for answers in scores for score in answers])
    return {
        "prompts": len(rankings),
        "heldout_prompts": len(heldout),
        **accuracies(heldout, scores, inputs["compare"] / "scores.jsonl"),
        "demonstration_mean_before": raw_mean,
        "heldout_score_mean": flat.mean().item(),
        "heldout_score_std": flat.std().item(),
    }


def _mistakes(measured: Mapping[str, float]) -> float | None:
    return 1 - measured["heldout_accuracy"] if "heldout_accuracy" in measured else None


def read_comparisons(path: Path) -> list[Comparison]:
    """The comparisons of a file. UserError when it holds none or none says which answer is better."""
    comparisons = read_jsonl(path, Comparison)
    if not any(len(comparison.tiers) > 1 for comparison in comparisons):
        raise UserError(f"{path} holds no comparison in which one answer is ranked above another.")
    return comparisons


def ranking(tokenizer: Tokenizer, comparison: Comparison, context: int) -> Ranking:
    """A comparison as ids. What exceeds the context is cut at the start, so that the end-of-turn is always read."""
    answers = []
    for answer in comparison.answers:
        ids = example(tokenizer, [*comparison.prompt, Message(role="assistant", content=answer)]).ids
        answers.append(ids[-context:])
    return Ranking(answers, [-int(value) for value in preferences(comparison)])


def preferences(comparison: Comparison) -> list[float]:
    """For each answer a number that is higher the better its tier: minus the tier's place."""
    place = {answer: tier for tier, answers in enumerate(comparison.tiers) for answer in answers}
    return [-float(place[answer]) for answer in range(len(comparison.answers))]


def ranking_parts(
    model: ScoredDecoder,
    rankings: Sequence[Ranking],
    micro_batch: int,
    pad: int,
    precision: Precision,
    layout: Layout,
) -> Iterator[Part]:
    """The mean ranking loss over prompts, in parts of whole prompts with about ``micro_batch`` answers at most.

    Each process has its share of the prompts. Where one has fewer parts or passes than another it goes through its
    first ones again, for nothing: processes that exchange weights must make equally many passes.
    """
    pairs = sum(int(better_pairs(*_ranks([r])).sum()) for r in rankings)
    shares = [
        list(_groups(rankings[rank :: layout.ranks] or rankings[:1], micro_batch)) for rank in range(layout.ranks)
    ]
    own = rankings[layout.rank :: layout.ranks]
    for number in range(max(len(groups) for groups in shares)):
        at_once = [groups[number] if number < len(groups) else groups[0] for groups in shares]
        group = at_once[layout.rank]
        counts = 1.0 if own and number < len(shares[layout.rank]) else 0.0
        passes = max(math.ceil(sum(len(r.ranks) for r in groups) / ROWS) for groups in at_once)
        ranks_BK, valid_BK = (tensor.to(model.bias.device) for tensor in _ranks(group))
        with autocast(precision, model.bias.device):
            scores_N = last_scores(model, [ids for item in group for ids in item.answers], pad, passes)
        scores_BK = torch.zeros(ranks_BK.shape, device=scores_N.device).masked_scatter(valid_BK, scores_N)
        loss = ranking_loss(scores_BK, ranks_BK, valid_BK) * (counts * len(group) / len(rankings))
        ahead_BKK = scores_BK[:, :, None] > scores_BK[:, None, :]
        right = counts * (ahead_BKK & better_pairs(ranks_BK, valid_BK)).sum() / max(1, pairs)
        tokens = sum(len(ids) for item in group for ids in item.answers) if counts else 0
        yield Part(loss, tokens, {"accuracy": right})


def last_scores(model: ScoredDecoder, sequences: Sequence[list[int]], pad: int, passes: int = 0) -> Tensor:
    """Scores [N] at the last token of each sequence (NDET). Padding is on the right, where causality hides it.

    Sequences go through the model in groups of like length, so that little of what is computed is padding; in at least
    ``passes`` passes, of which those that are too many count for nothing.
    """
    device = model.bias.device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    starts = [*range(0, len(order), ROWS)]
    starts += [0] * (passes - len(starts))
    scores, nothing = [], torch.zeros((), device=device)
    for number, first in enumerate(starts):
        chosen = [sequences[i] for i in order[first : first + ROWS]]
        last_N = torch.tensor([len(ids) - 1 for ids in chosen], device=device)
        tokens_NT = torch.full((len(chosen), len(chosen[-1])), pad)
        for row, ids in enumerate(chosen):
            tokens_NT[row, : len(ids)] = torch.tensor(ids)
        scores_N = model(tokens_NT.to(device)).gather(1, last_N[:, None]).squeeze(1)
        if number * ROWS < len(order):
            scores.append(scores_N)
        else:
            nothing = nothing + 0.0 * scores_N.sum()
    return torch.cat(scores)[torch.tensor(order).argsort().to(device)] + nothing


@torch.no_grad()
def score_each(
    model: ScoredDecoder, answers: Sequence[Sequence[list[int]]], micro_batch: int, pad: int, precision: Precision
) -> list[list[float]]:
    """The score of each answer to each prompt."""
    flat = [ids for group in answers for ids in group]
    scores: list[float] = []
    for first in range(0, len(flat), micro_batch):
        with autocast(precision, model.bias.device):
            scores += last_scores(model, flat[first : first + micro_batch], pad).tolist()
    one_by_one = iter(scores)
    return [[next(one_by_one) for _ in group] for group in answers]


def center(
    model: ScoredDecoder, tokenizer: Tokenizer, demonstrations: Sequence[Conversation], config: RewardConfig
) -> float:
    """Shift the model's scores so that the demonstrations' mean is 0 (InstructGPT 3.5); returns the mean before."""
    context = model.decoder.config.context
    ids = [[example(tokenizer, conversation.messages).ids[-context:]] for conversation in demonstrations]
    scores = score_each(model, ids, config.micro_batch, tokenizer.pad, config.dtype)
    mean = math.fsum(score for (score,) in scores) / len(scores)
    model.bias += mean
    return mean


def sample_demonstrations(path: Path, config: RewardConfig) -> list[Conversation]:
    """As many demonstrations as the config asks for, drawn by their ids."""
    conversations = read_jsonl(path, Conversation)
    if not conversations:
        raise UserError(f"{path} holds no demonstrations; run the stage conversations again.")
    drawn = sorted(conversations, key=lambda conversation: keyed_uniform("center", config.seed, conversation.id))
    return drawn[: config.demonstrations]


def accuracies(comparisons: Sequence[Comparison], scores: Sequence[list[float]], gold_file: Path) -> dict[str, float]:
    """Held-out pair accuracies.

    ``accuracy_labels``: the model against the labels as given. Where ``gold_file`` holds what the answers are worth
    without noise, against that order: ``accuracy`` of the model, ``labeler_agreement`` of the labels themselves and
    ``length_accuracy`` of the rule that the longer answer is better.
    """
    labels = [preferences(comparison) for comparison in comparisons]
    lengths = [[float(length(answer)) for answer in comparison.answers] for comparison in comparisons]
    found = {"accuracy_labels": pair_accuracy(scores, labels), "length_accuracy_labels": pair_accuracy(lengths, labels)}
    if not gold_file.exists():
        return found
    by_id = {record.id: record.scores for record in read_jsonl(gold_file, Scores)}
    missing = [
        comparison.id for comparison in comparisons if len(by_id.get(comparison.id, ())) != len(comparison.answers)
    ]
    if missing:
        raise UserError(f"{gold_file} has no scores for the answers of comparison {missing[0]!r}; run compare again.")
    gold = [by_id[comparison.id] for comparison in comparisons]
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


def _ranks(rankings: Sequence[Ranking]) -> tuple[Tensor, Tensor]:
    """``(ranks_BK, valid_BK)``, K the most answers of any."""
    most = max(len(item.ranks) for item in rankings)
    ranks_BK = torch.tensor([item.ranks + [0] * (most - len(item.ranks)) for item in rankings])
    valid_BK = torch.tensor([[k < len(item.ranks) for k in range(most)] for item in rankings])
    return ranks_BK, valid_BK


def _groups(rankings: Sequence[Ranking], most: int) -> Iterator[list[Ranking]]:
    """Rankings of like length together, so that little is padded, with at most ``most`` answers in a group."""
    group: list[Ranking] = []
    for item in sorted(rankings, key=lambda r: max(len(ids) for ids in r.answers)):
        if group and sum(len(r.ranks) for r in group) + len(item.ranks) > most:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


STAGE = Stage(
    name="reward",
    version=4,
    config=RewardConfig,
    inputs=("sft", "compare", "conversations"),
    run=run,
    summary="train the reward model on the comparisons",
    together=True,
)
