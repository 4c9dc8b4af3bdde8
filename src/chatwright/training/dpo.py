"""Stage dpo: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) on the comparisons.

The reward of an answer is ``beta * log(pi / pi_SFT)``, and the policy is its own reward model: the loss is the reward
model's, over the same pairs. Nothing is sampled, and no reward model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.records import Comparison
from chatwright.stage import Headline, Inputs, Stage, progress_bar, say
from chatwright.storage import digest, file_digest
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training import world
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.comparisons import ComparisonsConfig, as_ids, mistakes, read
from chatwright.training.config import CheckpointConfig, GradientConfig, StartConfig, TuningConfig
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, train
from chatwright.training.lora import add_adapters, learned, merged
from chatwright.training.objectives import better_pairs, ranking_loss
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.order import Shuffled
from chatwright.training.parallel import Layout
from chatwright.training.ppo.rollout import collate, in_groups, response_logprobs
from chatwright.training.rankings import fitted, groups_of, in_step, preferences, ranks_of
from chatwright.training.reward import pair_accuracy
from chatwright.training.runtime import Precision, autocast
from chatwright.training.schedules import ScheduleConfig

ROWS = 16  # answers side by side in one forward pass, alike in length


class DpoConfig(StartConfig, ComparisonsConfig, TuningConfig, GradientConfig):
    """How the policy learns from rankings (see `ComparisonsConfig`); numbers from the DPO paper, appendix B, or ours.

    batch: prompts in a step, each with all its answers and all their pairs. micro_batch: answers whose activations are
    kept at a time. beta: how much a nat of distance from the SFT model is worth. label_smoothing: share of the labels
    that is taken to be the wrong way round (cDPO, Mitchell 2023).
    """

    epochs: float = Field(default=1.0, gt=0)  # ours: as the reward model
    batch: int = Field(default=64, gt=0)
    micro_batch: int = Field(default=64, gt=0)
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    optim: OptimConfig = OptimConfig(kind="adamw", lr=1e-6, weight_decay=0.0)  # the paper's RMSprop has this rate, too
    schedule: ScheduleConfig = ScheduleConfig(kind="constant", warmup=0.1)  # 150 steps there
    eval_every: int = Field(default=20, gt=0)
    eval_prompts: int = Field(default=128, gt=0)
    checkpoint: CheckpointConfig = CheckpointConfig(every=20)


def dpo_loss(
    logprobs_BK: Tensor, ref_logprobs_BK: Tensor, ranks_BK: Tensor, valid_BK: Tensor, beta: float, smoothing: float = 0
) -> Tensor:
    """Mean over prompts and their pairs of ``-log sigmoid(beta * difference of log(pi / pi_ref))`` (eq. 7).

    Log-probabilities are of whole answers; ranks and ``valid_BK`` as in `ranking_loss`, whose scores are here the
    implicit rewards. With K = 2 this is the paper's loss; more answers give all their pairs.

    The better of two answers has become a nat likelier, the other one as much less:

    >>> now, before = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]])
    >>> pair = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    >>> round(dpo_loss(now, before, *pair, beta=0.5).item(), 4)  # log(1 + exp(-0.5 * 2))
    0.3133
    """
    rewards_BK = beta * (logprobs_BK - ref_logprobs_BK)
    loss = ranking_loss(rewards_BK, ranks_BK, valid_BK)
    return loss if not smoothing else (1 - smoothing) * loss + smoothing * ranking_loss(rewards_BK, -ranks_BK, valid_BK)


@dataclass(frozen=True)
class Choices:
    """A comparison as ids: the prompt that asks for an answer, the answers, and these answers' ranks, 0 the best."""

    prompt: list[int]
    answers: list[list[int]]
    ranks: list[int]

    @property
    def tokens(self) -> int:
        """How many go through the model."""
        return sum(len(self.prompt) + len(answer) for answer in self.answers)


def choices(tokenizer: Tokenizer, comparison: Comparison, context: int) -> Choices | None:
    """A comparison as ids; None where it does not fit into the context (see `fitted`)."""
    found = fitted(tokenizer, comparison, context)
    if found is None:
        return None
    messages, texts = found
    prompt = render(tokenizer, messages, generation_prompt=True)
    assert all(ids[: len(prompt)] == prompt for ids in texts), "the template writes a prompt as if no answer came"
    return Choices(prompt, [ids[len(prompt) :] for ids in texts], [-int(value) for value in preferences(comparison)])


Answered = tuple[list[int], list[int]]  # the ids of a prompt, and those of an answer to it


def answered(group: Sequence[Choices]) -> list[Answered]:
    """Each answer of each comparison, one after another, with its prompt."""
    return [(item.prompt, answer) for item in group for answer in item.answers]


def answer_logprobs(model: Decoder, pairs: Sequence[Answered], tokenizer: Tokenizer, precision: Precision) -> Tensor:
    """Log-probability of each answer, ``[N]`` float32."""
    device = model.embedding.weight.device

    def measure(tokens_BT: Tensor, valid_BT: Tensor, response_BT: Tensor) -> Tensor:
        settings = 1.0, tokenizer.vocab_size
        return response_logprobs(model, tokens_BT, valid_BT, response_BT, *settings, entropy=False)[0]

    prompts, answers = zip(*pairs, strict=True)
    with autocast(precision, device):
        return in_groups(measure, *collate(prompts, answers, tokenizer.pad, device), ROWS).sum(1)


def run(config: DpoConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the SFT model on the comparisons and leave it in ``out`` as a Hugging Face folder."""
    layout = config.layout()
    model, tokenizer = load_model(inputs["sft"])
    model.to(layout.device).eval()  # no dropout: the reference had none
    data = read(config, inputs, out).limited(config)
    most = min(config.max_tokens or model.config.context, model.config.context)

    def ids_of(comparison: Comparison) -> Choices | None:
        return choices(tokenizer, comparison, most)

    comparisons, items = as_ids(data.training, ids_of, data.name, most)
    heldout, heldout_items = as_ids(data.heldout, ids_of, data.name, most)
    order = Shuffled(len(items), config.seed)
    steps = math.ceil(config.epochs * len(items) / config.batch)
    too_long = len(data.training) + len(data.heldout) - len(items) - len(heldout)
    say(
        f"  dpo: {len(items):,} prompts, {sum(len(item.ranks) for item in items):,} answers, {steps:,} steps; "
        f"{len(heldout):,} held-out prompts; {too_long:,} left out, longer than {most:,} tokens"
    )
    # The reference is the model before its first step: its log-probabilities are computed once, and no copy is kept.
    with progress_bar("dpo: reference", len(items) + len(heldout)) as bar:
        references = _each(model, items, tokenizer, config, layout, bar.update)
        heldout_references = _each(
            model, heldout_items, tokenizer, config, layout, lambda done: bar.update(len(items) + done)
        )
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    layout.spread(model)

    def numbers(step: int) -> list[int]:
        return [number for _, number in order.take(step * config.batch, config.batch)]

    def losses(step: int) -> Iterator[Part]:
        chosen = numbers(step)
        yield from preference_parts(
            model, [items[i] for i in chosen], [references[i] for i in chosen], tokenizer, config, layout
        )

    def measure(done: int) -> Mapping[str, float]:
        if done % config.eval_every and done != steps:
            return {}
        part = slice(config.eval_prompts)
        after = _each(model, heldout_items[part], tokenizer, config, layout)
        found = judged(heldout_items[part], after, heldout_references[part], config.beta)
        return {f"heldout_{name}": value for name, value in found.items()}

    identity = {
        "tokenizer": tokenizer.hash,
        "SFT model": file_digest(inputs["sft"] / "model.safetensors"),
        "set of comparisons": digest([comparison.model_dump(mode="json") for comparison in data.training]),
    }
    plan = Plan.of("dpo", config, out, steps, identity)
    trained = Trained({"model": learned(model)}, build_optimizers(model, config.optim), layout)
    learn = gradient_steps(trained, losses, plan, config, lambda step: [comparisons[i].id for i in numbers(step)])
    train(trained, learn, plan, measure=measure, score=mistakes)
    after = _each(model, heldout_items, tokenizer, config, layout)
    result = merged(layout.whole(model))
    world.once(lambda: save_model(result, out, tokenizer))
    remove_checkpoint(out / "checkpoint")
    moved = [a - b for a, b in zip(after, heldout_references, strict=True)]
    found = judged(heldout_items, after, heldout_references, config.beta)
    return {
        "prompts": len(items),
        "heldout_prompts": len(heldout),
        "too_long": too_long,
        "heldout_loss": found["loss"],
        "accuracy_labels": found["accuracy"],
        "logprob_change_best": _of_rank(moved, heldout_items, best=True),
        "logprob_change_worst": _of_rank(moved, heldout_items, best=False),
        "steps": steps,
    }


def preference_parts(
    model: Decoder,
    items: Sequence[Choices],
    references: Sequence[Tensor],
    tokenizer: Tokenizer,
    config: DpoConfig,
    layout: Layout,
) -> Iterator[Part]:
    """The mean loss over prompts, in parts of whole prompts with about ``micro_batch`` answers at most."""
    pairs = sum(int(better_pairs(*ranks_of([item.ranks])).sum()) for item in items)
    for group, most, counts in _turns(items, config.micro_batch, layout):
        chosen = [items[i] for i in group]
        ranks_BK, valid_BK = (
            tensor.to(model.embedding.weight.device) for tensor in ranks_of([item.ranks for item in chosen])
        )
        texts = answered(chosen)
        filled = texts + texts[:1] * (most - len(texts))
        logprobs_N = answer_logprobs(model, filled, tokenizer, config.dtype)[: len(texts)]
        reference_N = torch.cat([references[i] for i in group]).to(logprobs_N.device)
        logprobs_BK, reference_BK = (
            torch.zeros(ranks_BK.shape, device=x_N.device).masked_scatter(valid_BK, x_N)
            for x_N in (logprobs_N, reference_N)
        )
        loss = dpo_loss(logprobs_BK, reference_BK, ranks_BK, valid_BK, config.beta, config.label_smoothing)
        rewards_BK = config.beta * (logprobs_BK - reference_BK).detach()
        margins_BKK = rewards_BK[:, :, None] - rewards_BK[:, None, :]
        better_BKK = better_pairs(ranks_BK, valid_BK)
        metrics = {
            "accuracy": counts * ((margins_BKK > 0) & better_BKK).sum() / max(1, pairs),
            "margin": counts * margins_BKK[better_BKK].sum() / max(1, pairs),
        }
        tokens = sum(item.tokens for item in chosen) if counts else 0
        yield Part(loss * (counts * len(group) / len(items)), tokens, metrics)


def judged(
    items: Sequence[Choices], after: Sequence[Tensor], before: Sequence[Tensor], beta: float
) -> dict[str, float]:
    """The mean loss of comparisons, log 2 where nothing has moved, and the share of their pairs in the right order."""
    losses = [
        dpo_loss(a[None], b[None], torch.tensor([item.ranks]), torch.ones(1, len(item.ranks), dtype=torch.bool), beta)
        for item, a, b in zip(items, after, before, strict=True)
    ]
    rewards = [(a - b).tolist() for a, b in zip(after, before, strict=True)]
    truth = [[-float(rank) for rank in item.ranks] for item in items]
    return {"loss": torch.stack(losses).mean().item(), "accuracy": pair_accuracy(rewards, truth)}


@torch.no_grad()
def _each(
    model: Decoder,
    items: Sequence[Choices],
    tokenizer: Tokenizer,
    config: DpoConfig,
    layout: Layout,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """The log-probabilities of each comparison's answers, ``[K]`` each; every process measures its share of them."""
    found: list[Tensor] = []
    for first in range(0, len(items), ROWS):
        group = items[first : first + ROWS]
        texts = answered(group)
        own = [texts[min(i, len(texts) - 1)] for i in layout.share(len(texts))]
        logprobs_N = layout.joined(answer_logprobs(model, own, tokenizer, config.dtype), len(texts))
        found += logprobs_N.cpu().split([len(item.ranks) for item in group])
        tell(len(found))
    return found


def _turns(items: Sequence[Choices], most: int, layout: Layout) -> Iterator[tuple[list[int], int, bool]]:
    """Part by part: the numbers of this process's items, the most answers that any process has, whether it counts.

    Each process has its share of the items (see `in_step`).
    """
    numbers, sizes = range(len(items)), [len(item.ranks) for item in items]
    shares = [groups_of(numbers[rank :: layout.ranks] or numbers[:1], sizes, most) for rank in range(layout.ranks)]
    for at_once, counts in in_step(shares, layout, len(items)):
        yield at_once[layout.rank], max(sum(sizes[i] for i in group) for group in at_once), counts


def _of_rank(moved: Sequence[Tensor], items: Sequence[Choices], *, best: bool) -> float:
    """Mean change, in nats, of the answers that are ranked first, or last."""
    place = min if best else max
    changes = [
        change[k].item()
        for change, item in zip(moved, items, strict=True)
        for k, rank in enumerate(item.ranks)
        if rank == place(item.ranks)
    ]
    return math.fsum(changes) / len(changes)


STAGE = Stage(
    name="dpo",
    version=2,
    config=DpoConfig,
    inputs=("sft", "compare"),
    run=run,
    summary="train the SFT model on the rankings, without a reward model",
    together=True,
    optional=True,
)
