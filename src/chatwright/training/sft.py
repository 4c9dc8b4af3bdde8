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
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.records import Conversation, Message
from chatwright.stage import Headline, Inputs, Stage, read_metrics, say
from chatwright.storage import file_digest, read_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render_with_mask
from chatwright.training import world
from chatwright.training.batches import Ahead, Example, Packed
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.config import CheckpointConfig, GradientConfig, TuningConfig
from chatwright.training.heldout import bits_per_byte
from chatwright.training.language import language_parts, summed_nats
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, restore_best, train
from chatwright.training.lora import add_adapters, learned, merged
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.pretrain import open_shard, open_windows
from chatwright.training.runtime import Precision, autocast
from chatwright.training.schedules import ScheduleConfig


class SftConfig(TuningConfig, GradientConfig):
    """What is learned from, and for how long.

    data: a file of your own conversations in place of the stage's demonstrations. epochs: passes over them; ``steps``
    overrides it. batch: rows of the model's context in a step, conversations packed; ``pretrain_share`` of them are
    pretraining text (InstructGPT C.1: 10%), whose mean loss is added ``pretrain_weight`` times. micro_batch: rows that
    go through the model at a time. The held-out loss and, on ``eval_tokens`` of held-out text, the bits per byte are
    measured before the first step, every ``eval_every`` steps and at the end. result: which weights are left, the last
    or those of the checkpoint with the lowest held-out loss.
    """

    data: Path | None = None
    epochs: float = Field(default=2.0, gt=0)  # InstructGPT C.1, the model that PPO starts from
    steps: int | None = Field(default=None, gt=0)
    batch: int = Field(default=16, gt=0)
    micro_batch: int = Field(default=16, gt=0)
    pretrain_share: float = Field(default=0.1, ge=0, lt=1)
    pretrain_weight: float = Field(default=0.2, ge=0)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(kind="cosine")  # InstructGPT C.1: cosine to a tenth
    eval_every: int = Field(default=50, gt=0)
    eval_tokens: int = Field(default=32_768, gt=0)
    checkpoint: CheckpointConfig = CheckpointConfig(every=50)
    result: Literal["last", "best"] = "last"

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


def run(config: SftConfig, inputs: Inputs, out: Path) -> Headline:
    """Fine-tune the model of ``pretrain`` and leave it in ``out`` as a Hugging Face folder."""
    layout = config.layout()
    model, tokenizer = load_model(inputs["pretrain"])
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    layout.spread(model, rows_alike=True).train()
    context = model.config.context
    path = config.data or inputs["conversations"] / "demonstrations.jsonl"
    examples, cut = read_examples(path, tokenizer, context)
    packed = Packed(examples, context, tokenizer.pad, config.seed)
    heldout_examples, _ = read_examples(inputs["conversations"] / "demonstrations_heldout.jsonl", tokenizer, context)
    heldout = Packed(heldout_examples, context, tokenizer.pad, config.seed)
    windows = open_windows(open_shard(inputs["shards"], "train", tokenizer), context, config.seed)
    text = open_shard(inputs["shards"], "heldout", tokenizer).tokens
    rows = config.batch - config.text_rows
    steps = config.steps or math.ceil(config.epochs * len(packed) / rows)
    wanted = sum(sum(example.mask) for example in examples)
    say(
        f"  sft: {len(examples):,} conversations ({cut} shortened) with {wanted:,} tokens to learn, "
        f"in {len(packed):,} rows of {context}; {steps:,} steps of {rows} such rows and {config.text_rows} of text, "
        f"{steps * rows / len(packed):.2f} epochs"
    )

    talk, prose = (Ahead(rows_, pin=layout.device.type == "cuda") for rows_ in (packed, windows))
    settings: dict[str, Any] = {"micro_batch": config.micro_batch, "precision": config.dtype, "layout": layout}

    def losses(step: int) -> Iterator[Part]:
        yield from language_parts(model, talk, step * rows, rows, **settings)
        if config.text_rows:
            first = step * config.text_rows
            yield from language_parts(model, prose, first, config.text_rows, weight=config.pretrain_weight, **settings)

    def measure(done: int) -> Mapping[str, float]:
        if done % config.eval_every and done != steps:
            return {}
        bits = bits_per_byte(model, tokenizer, text, sample=config.eval_tokens, precision=config.dtype)
        return {"heldout_loss": heldout_loss(model, heldout, config.batch, config.dtype), "bits_per_byte": bits}

    identity = {"tokenizer": tokenizer.hash, "set of demonstrations": file_digest(path)}
    plan = Plan.of("sft", config, out, steps, identity, model.config)
    trained = Trained({"model": learned(model)}, build_optimizers(model, config.optim), layout)
    learn = gradient_steps(trained, losses, plan, config, lambda step: packed.documents(step * rows, rows))
    train(trained, learn, plan, measure=measure, score=lambda measured: measured.get("heldout_loss"))
    if config.result == "best":
        restore_best(trained, plan)
    result = merged(layout.whole(model))
    world.once(lambda: save_model(result, out, tokenizer))
    remove_checkpoint(out / "checkpoint")
    measured = [line for line in read_metrics(out) if "heldout_loss" in line]
    return {
        "heldout_loss_start": measured[0]["heldout_loss"],
        "heldout_loss": measured[-1]["heldout_loss"],
        "bits_per_byte_start": measured[0]["bits_per_byte"],
        "bits_per_byte": measured[-1]["bits_per_byte"],
        "conversations": len(examples),
        "shortened": cut,
        "steps": steps,
        "epochs": steps * rows / len(packed),
    }


def read_examples(path: Path, tokenizer: Tokenizer, context: int) -> tuple[list[Example], int]:
    """The conversations of a file as ids, and how many lost turns to fit the context. UserError when none are left."""
    conversations = read_jsonl(path, Conversation)
    if not conversations:
        raise UserError(f"{path} holds no conversations; write one JSON object with id and messages a line.")
    examples, cut = [], 0
    for conversation in conversations:
        messages = fitting(tokenizer, conversation.messages, context)
        cut += len(messages) < len(conversation.messages)
        if messages:
            examples.append(replace(example(tokenizer, messages), name=conversation.id))
    if not examples:
        raise UserError(f"No conversation of {path} fits into the model's context of {context} tokens; shorten them.")
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
    version=3,
    config=SftConfig,
    inputs=("pretrain", "conversations", "shards"),
    run=run,
    summary="fine-tune the model on demonstrations",
    together=True,
)
