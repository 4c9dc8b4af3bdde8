"""Stage pretrain: next-token prediction on the shards, from nothing to a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.stage import Headline, Inputs, Stage, StageConfig, read_metrics, say
from chatwright.storage import digest
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.shards import TokenShard
from chatwright.training.batches import Windows
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.heldout import bits_per_byte
from chatwright.training.language import language_parts
from chatwright.training.loop import Part, Trained, train
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.runtime import Precision, prepare, resolve
from chatwright.training.schedules import ScheduleConfig


class PretrainConfig(StageConfig):
    """What is trained, and for how long.

    model: a preset's name and the fields to change, ``{preset = "modern", layers = 4, d_model = 192, ...}``; vocab_size
    comes from the tokenizer. steps: optimiser steps of ``batch`` rows of the model's context. micro_batch: rows that go
    through the model at a time; it changes memory and speed, not what is computed. eval_tokens: about so many tokens of
    the held-out shard, evenly spread, are evaluated before the first step, every ``eval_every`` steps and at the end.
    """

    model: dict[str, Any]
    steps: int = Field(default=1000, gt=0)
    batch: int = Field(default=32, gt=0)
    micro_batch: int = Field(default=32, gt=0)
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    dtype: Precision = "auto"
    eval_every: int = Field(default=100, gt=0)
    eval_tokens: int = Field(default=32_768, gt=0)
    checkpoint_every: int = Field(default=100, gt=0)


def run(config: PretrainConfig, inputs: Inputs, out: Path) -> Headline:
    """Train a new model on ``shards`` and leave it in ``out`` as a Hugging Face folder."""
    device = prepare()
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    shard, heldout = (
        open_shard(inputs["shards"], "train", tokenizer),
        open_shard(inputs["shards"], "heldout", tokenizer),
    )
    model_config = model_from_table(config.model, tokenizer.vocab_size)
    windows = open_windows(shard, model_config.context, config.seed)
    model, trained = new_model(model_config, config.optim, config.dtype, config.seed)
    say(_plan(config, model_config, windows, resolve(config.dtype, device)))

    def losses(step: int) -> Iterator[Part]:
        batch = windows.batch(step * config.batch, config.batch)
        yield from language_parts(model, batch, config.micro_batch, config.dtype)

    def measure(done: int) -> Mapping[str, float]:
        if done % config.eval_every and done != config.steps:
            return {}
        bits = bits_per_byte(model, tokenizer, heldout.tokens, sample=config.eval_tokens, precision=config.dtype)
        return {"bits_per_byte": bits}

    train(
        trained,
        losses,
        title="pretrain",
        out=out,
        steps=config.steps,
        multiplier=lambda step: config.schedule.multiplier(step, config.steps),
        clip=config.optim.clip,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        identity=digest([config.model_dump(mode="json"), tokenizer.hash]),
        measure=measure,
    )
    save_model(model, out, tokenizer)
    remove_checkpoint(out / "checkpoint")
    return _headline(config, model_config, out)


def new_model(config: ModelConfig, optim: OptimConfig, dtype: Precision, seed: int) -> tuple[Decoder, Trained]:
    """A decoder with fresh weights on the device of `prepare`, and what trains it."""
    model = Decoder(config)
    init_weights(model, torch.Generator().manual_seed(seed))
    model.to(prepare())
    return model, Trained({"model": model}, build_optimizers(model, optim))


def model_from_table(table: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The model that a recipe's table describes. UserError when it names no preset or fixes the vocabulary."""
    fields = dict(table)
    if "preset" not in fields:
        raise UserError('pretrain.model needs a preset, such as preset = "modern".')
    if "vocab_size" in fields:
        raise UserError(
            "pretrain.model must not set vocab_size: it comes from the tokenizer; set tokenizer.vocab_size."
        )
    return preset(fields.pop("preset"), vocab_size=vocab_size, **fields)


def open_shard(folder: Path, split: str, tokenizer: Tokenizer) -> TokenShard:
    """A split of the shards. UserError when another tokenizer made it."""
    shard = TokenShard.open(folder, split)
    if shard.tokenizer_hash != tokenizer.hash:
        raise UserError(f"{folder} was made by another tokenizer than the model's; run the stage shards again.")
    return shard


def open_windows(shard: TokenShard, context: int, seed: int) -> Windows:
    """Windows of a shard. UserError when it is too short for one."""
    if len(shard.tokens) <= context:
        raise UserError(
            f"The training shard holds {len(shard.tokens)} tokens, too few for one window of {context}; "
            "add text to the corpus, raise shards.tokens or shorten the model's context."
        )
    return Windows(shard.tokens, context, seed)


def train_flops(config: ModelConfig, tokens: int) -> float:
    """Floating-point operations of training on ``tokens``: 6 N D and attention.

    N counts the head but no other embedding; attention takes 12 * layers * heads * d_head * context a token, halved
    because half of it is masked (Kaplan 2020, section 2.1; Chowdhery 2022, appendix B).
    """
    matrices = parameter_count(config, embeddings=False) + config.vocab_size * config.d_model
    attention = 12 * config.layers * config.heads * config.d_head * config.context / 2
    return tokens * (6 * matrices + attention)


def _plan(config: PretrainConfig, model: ModelConfig, windows: Windows, dtype: torch.dtype) -> str:
    """Every number that follows from the config, in a line."""
    tokens = config.steps * config.batch * model.context
    return (
        f"  pretrain: {parameter_count(model):,} parameters "
        f"({parameter_count(model, embeddings=False):,} without embeddings), "
        f"{config.steps:,} steps x {config.batch} rows x {model.context} = {tokens:,} tokens, "
        f"{tokens / (windows.order.n * windows.length):.2f} epochs, {train_flops(model, tokens):.3g} FLOPs, "
        f"{dtype} on {torch.get_num_threads()} threads"
    )


def _headline(config: PretrainConfig, model: ModelConfig, out: Path) -> Headline:
    lines = read_metrics(out)
    measured = [line["bits_per_byte"] for line in lines if "bits_per_byte" in line]
    rates = sorted(line["tokens_per_second"] for line in lines if "tokens_per_second" in line)
    tokens = config.steps * config.batch * model.context
    return {
        "bits_per_byte_start": measured[0],
        "bits_per_byte": measured[-1],
        "tokens": tokens,
        "tokens_per_second": rates[len(rates) // 2],
        "parameters": parameter_count(model),
        "flops": train_flops(model, tokens),
    }


STAGE = Stage(
    name="pretrain",
    version=2,
    config=PretrainConfig,
    inputs=("shards", "tokenizer"),
    run=run,
    summary="train the language model on the shards",
)
