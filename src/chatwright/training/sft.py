"""Stage sft: the pretrained model learns to answer, from demonstrations, with some pretraining text mixed in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from chatwright.errors import UserError
from chatwright.formats import Malformed, by_prompt, load_conversations
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.records import Conversation, Message
from chatwright.stage import Headline, Inputs, Stage, read_metrics, say
from chatwright.storage import digest, read_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render_with_mask
from chatwright.training import world
from chatwright.training.batches import Ahead, Example, Packed
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.config import CheckpointConfig, GradientConfig, TuningConfig, lay_under
from chatwright.training.heldout import bits_per_byte
from chatwright.training.language import language_parts, summed_nats
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, restore_best, train
from chatwright.training.lora import add_adapters, learned, merged
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.pretrain import open_shard, open_windows
from chatwright.training.runtime import Precision, autocast
from chatwright.training.schedules import ScheduleConfig

KEPT = "kept"  # models of the way, in a stage's folder

# The two fine-tuned models of InstructGPT, 1.3B (appendix C). Demonstrations are packed here, so that a row of a batch
# holds some of them; no weight decay is ours, since none is printed.
ADAM = {"kind": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.0}  # C
COSINE = {"kind": "cosine", "warmup": 0.0, "floor": 0.1}  # C.1: to a tenth, no warm-up
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The baseline that people compare with. Its checkpoint is chosen by reward, not by loss (stage choose).
    "instructgpt-baseline": {
        "epochs": 16.0,  # C.1
        "batch": 32,  # C.1
        "residual_dropout": 0.2,  # C.1
        "pretrain_share": 0.0,
        "optim": {**ADAM, "lr": 9.65e-6},  # C.1
        "schedule": COSINE,
        "keep_epochs": 1.0,  # ours: what the checkpoints are is not said
    },
    # What PPO starts from and is held near to.
    "instructgpt-init": {
        "epochs": 2.0,  # C.3
        "batch": 32,  # as the baseline
        "pretrain_share": 0.1,  # C.3
        "pretrain_weight": 0.11,  # ours: a text row then weighs as much as a row of demonstrations
        "optim": {**ADAM, "lr": 5e-6},  # C.3
        "schedule": COSINE,
    },
}


class SftConfig(TuningConfig, GradientConfig):
    """What is learned from, and for how long.

    preset: the settings of one of InstructGPT's two models (see `PRESETS`), which other keys override. data: your own
    conversations in place of the stage's demonstrations, in any form that `formats.load_conversations` reads; a share
    ``heldout`` of them, by prompt, is kept out, and ``malformed`` says what becomes of those that cannot be read.

    epochs: passes over them; ``steps`` overrides it. batch: rows of a step, conversations packed, each of ``length``
    tokens or the model's context; ``pretrain_share`` of them are pretraining text (InstructGPT C.1: 10%), whose mean
    loss is added ``pretrain_weight`` times. micro_batch: rows that go through the model at a time. residual_dropout: of
    what each sub-block adds to the residual stream; the model's own when left out. The held-out loss and, where text is
    mixed in, the bits per byte of ``eval_tokens`` of held-out text are measured before the first step, every
    ``eval_every`` steps and at the end. result: which weights are left, the last or those of the checkpoint with the
    lowest held-out loss.
    keep_epochs: a model folder is kept in ``kept`` after each so many epochs and at the end, for the stage choose.
    """

    preset: Literal["instructgpt-baseline", "instructgpt-init"] | None = None
    data: Path | None = None
    heldout: float = Field(default=0.03, gt=0, lt=1)
    malformed: Malformed = "refuse"
    epochs: float = Field(default=2.0, gt=0)  # InstructGPT C.1, the model that PPO starts from
    steps: int | None = Field(default=None, gt=0)
    batch: int = Field(default=16, gt=0)
    length: int | None = Field(default=None, gt=1)
    micro_batch: int = Field(default=16, gt=0)
    pretrain_share: float = Field(default=0.1, ge=0, lt=1)
    pretrain_weight: float = Field(default=0.2, ge=0)
    residual_dropout: float | None = Field(default=None, ge=0, lt=1)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(kind="cosine")  # InstructGPT C.1: cosine to a tenth
    eval_every: int = Field(default=50, gt=0)
    eval_tokens: int = Field(default=32_768, gt=0)
    checkpoint: CheckpointConfig = CheckpointConfig(every=50)
    result: Literal["last", "best"] = "last"
    keep_epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _takes_the_rest_from_preset(self) -> SftConfig:
        lay_under(self, PRESETS[self.preset] if self.preset else {})
        return self

    @model_validator(mode="after")
    def _leaves_room_for_conversations(self) -> SftConfig:
        if self.text_rows >= self.batch:
            raise ValueError(
                f"pretrain_share ({self.pretrain_share}) of {self.batch} rows leaves none for conversations"
            )
        return self

    @property
    def text_rows(self) -> int:
        """Rows of a step that hold pretraining text; at least one when any is asked for."""
        return max(1, round(self.pretrain_share * self.batch)) if self.pretrain_share else 0

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Demonstrations unless there are own conversations; shards where their text is mixed in."""
        spared = {"conversations": self.data is not None, "shards": not self.text_rows}
        return tuple(name for name in inputs if not spared.get(name))


def run(config: SftConfig, inputs: Inputs, out: Path) -> Headline:
    """Fine-tune the model of ``pretrain`` and leave it in ``out`` as a Hugging Face folder."""
    layout = config.layout()
    model, tokenizer = load_model(inputs["pretrain"])
    if config.residual_dropout is not None:
        model.drop_residuals(config.residual_dropout)
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    layout.spread(model, rows_alike=True).train()
    context = min(config.length or model.config.context, model.config.context)
    name, training, kept_out = read_talks(config, inputs, out)
    examples, cut = as_examples(training, name, tokenizer, context)
    packed = Packed(examples, context, tokenizer.pad, config.seed)
    heldout_examples, _ = as_examples(kept_out, name, tokenizer, context)
    heldout = Packed(heldout_examples, context, tokenizer.pad, config.seed)
    rows = config.batch - config.text_rows
    steps = config.steps or math.ceil(config.epochs * len(packed) / rows)
    wanted = sum(sum(example.mask) for example in examples)
    say(
        f"  sft: {len(examples):,} conversations ({cut} shortened) with {wanted:,} tokens to learn, "
        f"in {len(packed):,} rows of {context}; {steps:,} steps of {rows} such rows and {config.text_rows} of text, "
        f"{steps * rows / len(packed):.2f} epochs"
    )

    pin = layout.device.type == "cuda"
    talk = Ahead(packed, pin=pin)
    settings: dict[str, Any] = {"micro_batch": config.micro_batch, "precision": config.dtype, "layout": layout}
    if config.text_rows:
        shard = open_shard(inputs["shards"], "train", tokenizer)
        prose = Ahead(open_windows(shard, context, config.seed), pin=pin)
        text = open_shard(inputs["shards"], "heldout", tokenizer).tokens

    def losses(step: int) -> Iterator[Part]:
        yield from language_parts(model, talk, step * rows, rows, **settings)
        if config.text_rows:
            first = step * config.text_rows
            yield from language_parts(model, prose, first, config.text_rows, weight=config.pretrain_weight, **settings)

    kept = kept_steps(config, len(packed) / rows, steps)

    def measure(done: int) -> Mapping[str, float]:
        if done in kept:
            so_far = merged(layout.whole(model))
            world.once(lambda: save_model(so_far, out / KEPT / f"step-{done:06}", tokenizer))
        if done % config.eval_every and done != steps:
            return {}
        measured = {"heldout_loss": heldout_loss(model, heldout, config.batch, config.dtype)}
        if config.text_rows:
            bits = bits_per_byte(model, tokenizer, text, sample=config.eval_tokens, precision=config.dtype)
            measured["bits_per_byte"] = bits
        return measured

    content = digest([talk.model_dump(mode="json") for talk in training])
    identity = {"tokenizer": tokenizer.hash, "set of demonstrations": content}
    whole = model.config if config.lora is None else None  # adapters take fewer operations
    plan = Plan.of("sft", config, out, steps, identity, whole)
    trained = Trained({"model": learned(model)}, build_optimizers(model, config.optim), layout)
    learn = gradient_steps(trained, losses, plan, config, lambda step: packed.documents(step * rows, rows))
    train(trained, learn, plan, measure=measure, score=lambda measured: measured.get("heldout_loss"))
    if config.result == "best":
        restore_best(trained, plan)
    result = merged(layout.whole(model))
    world.once(lambda: save_model(result, out, tokenizer))
    remove_checkpoint(out / "checkpoint")
    measured = [line for line in read_metrics(out) if "heldout_loss" in line]
    first, last = measured[0], measured[-1]
    curves = [key for key in ("heldout_loss", "bits_per_byte") if key in last]
    return {
        **{f"{key}_start": first[key] for key in curves},
        **{key: last[key] for key in curves},
        "conversations": len(examples),
        "shortened": cut,
        "steps": steps,
        "epochs": steps * rows / len(packed),
    }


def read_talks(config: SftConfig, inputs: Inputs, out: Path) -> tuple[Path, list[Conversation], list[Conversation]]:
    """Where conversations are from, those to learn from and those to be measured on. UserError when there are none."""
    if config.data is None:
        folder = inputs["conversations"]
        files = [folder / "demonstrations.jsonl", folder / "demonstrations_heldout.jsonl"]
        training, heldout = (read_jsonl(file, Conversation) for file in files)
        return files[0], training, heldout
    training, heldout = by_prompt(load_conversations(config.data).accepted(config.malformed, out), config.heldout)
    if training and not heldout:
        raise UserError(f"{config.data} holds one prompt alone; give more, so that one can be kept out to measure on.")
    return config.data, training, heldout


def kept_steps(config: SftConfig, epoch: float, steps: int) -> set[int]:
    """After how many steps a model is kept for the stage choose; ``epoch``: steps of one."""
    if config.keep_epochs is None:
        return set()
    count = math.floor(steps / (config.keep_epochs * epoch))
    return {max(1, round(i * config.keep_epochs * epoch)) for i in range(1, count + 1)} | {steps}


def as_examples(
    conversations: Sequence[Conversation], name: Path, tokenizer: Tokenizer, context: int
) -> tuple[list[Example], int]:
    """Conversations as ids, and how many lost turns to fit the context. UserError when none are left."""
    if not conversations:
        raise UserError(f"{name} holds no conversations; write one JSON object with id and messages a line.")
    examples, cut = [], 0
    for conversation in conversations:
        messages = fitting(tokenizer, conversation.messages, context)
        cut += len(messages) < len(conversation.messages)
        if messages:
            examples.append(replace(example(tokenizer, messages), name=conversation.id))
    if not examples:
        raise UserError(f"No conversation of {name} fits into the model's context of {context} tokens; shorten them.")
    return examples, cut


def example(tokenizer: Tokenizer, messages: Sequence[Message]) -> Example:
    """The conversation's ids up to the end of its last turn and their mask; the newline after it is not predicted."""
    ids, mask = render_with_mask(tokenizer, messages)
    end = len(mask) - mask[::-1].index(True)
    return Example(ids[:end], mask[:end])


def fitting(tokenizer: Tokenizer, messages: Sequence[Message], context: int) -> Sequence[Message]:
    """The conversation, or as many of its first exchanges as fit into the context whole; empty when not one does."""
    while len(messages) >= 2:
        if len(example(tokenizer, messages).ids) - 1 <= context:
            return messages
        messages = messages[:-2]
    return ()


@torch.no_grad()
def heldout_loss(model: Decoder, packed: Packed, batch: int, precision: Precision) -> float:
    """Mean negative log-likelihood, in nats, of the tokens that the assistant has to write."""
    training, device = model.training, model.embedding.weight.device
    model.eval()
    nats, counted = 0.0, 0
    for first in range(0, len(packed), batch):
        rows = packed.rows(range(first, min(first + batch, len(packed)))).to(device)
        with autocast(precision, device):
            nats += summed_nats(model, rows).item()
        counted += int(rows.mask_BT.sum())
    model.train(training)
    return nats / counted


STAGE = Stage(
    name="sft",
    version=4,
    config=SftConfig,
    inputs=("pretrain", "conversations", "shards"),
    run=run,
    summary="fine-tune the model on demonstrations",
    together=True,
)
