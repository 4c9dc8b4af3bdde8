"""Stage pretrain: next-token prediction on the shards, from nothing to a model folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.cost import train_flops
from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.stage import Headline, Inputs, Stage, read_metrics, say
from chatwright.storage import digest, file_digest
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.shards import TokenShard
from chatwright.training import world
from chatwright.training.batches import Ahead, Mixed, Rows, Windows
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.config import GradientConfig
from chatwright.training.heldout import bits_per_byte
from chatwright.training.language import language_parts
from chatwright.training.loop import Part, Plan, Trained, gradient_steps, restore_best, train
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.parallel import Layout, part
from chatwright.training.samples import write_samples
from chatwright.training.schedules import grown


class WeighedShards(BaseModel):
    """A folder of token shards, named by its ``index.json``, and its weight; weights need not sum to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    index: Path
    weight: float = Field(gt=0)


class PretrainConfig(GradientConfig):
    """What is trained, and for how long.

    model: a preset's name and the fields to change, ``{preset = "modern", layers = 4, d_model = 192, ...}``; vocab_size
    comes from the tokenizer. steps: optimiser steps of ``batch`` rows of the model's context; over the first
    ``batch_ramp`` of them, a share, the batch grows evenly from ``batch_start`` rows (GPT-3, appendix B: from 32k
    tokens, over the first 4 to 12 billion of 300). micro_batch: rows that go through the model at a time; it changes
    memory and speed, not what is computed. eval_tokens: about so many tokens of the held-out shard, evenly spread, are
    evaluated before the first step, every ``eval_every`` steps and at the end; then too the model goes on with
    ``prompts``, into samples.jsonl. data: token shards to learn from, each as often as its weight says, in place of the
    stage's. result: which weights are left, the last or those of the checkpoint with the fewest bits per byte.
    """

    model: dict[str, Any]
    data: tuple[WeighedShards, ...] = ()
    steps: int = Field(default=1000, gt=0)
    batch: int = Field(default=32, gt=0)
    batch_start: int | None = Field(default=None, gt=0)
    batch_ramp: float = Field(default=0.0, ge=0, le=1)
    micro_batch: int = Field(default=32, gt=0)
    eval_every: int = Field(default=100, gt=0)
    eval_tokens: int = Field(default=32_768, gt=0)
    prompts: tuple[str, ...] = ()
    result: Literal["last", "best"] = "last"

    @model_validator(mode="after")
    def _ramp_has_both_ends(self) -> PretrainConfig:
        if (self.batch_start is not None) != (self.batch_ramp > 0):
            raise ValueError("batch_start and batch_ramp go together")
        if self.batch_start is not None and self.batch_start > self.batch:
            raise ValueError(f"batch_start ({self.batch_start}) must not exceed batch ({self.batch})")
        return self

    def first_rows(self) -> list[int]:
        """Where in the order of rows each step begins, and at last how many rows all steps have."""
        ramp = math.ceil(self.batch_ramp * self.steps)
        sizes = [grown(step, ramp, self.batch_start or self.batch, self.batch) for step in range(self.steps)]
        return [0, *accumulate(sizes)]


def run(config: PretrainConfig, inputs: Inputs, out: Path) -> Headline:
    """Train a new model on ``shards`` and leave it in ``out`` as a Hugging Face folder."""
    layout = config.layout()
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    model_config = model_from_table(config.model, tokenizer.vocab_size)
    heldout = open_shard(inputs["shards"], "heldout", tokenizer)
    rows = open_rows(config, inputs["shards"], tokenizer, model_config.context)
    model, trained = new_model(model_config, config.optim, layout, config.seed)
    say(_plan(config, model_config, rows, layout))
    ahead = Ahead(rows, pin=layout.device.type == "cuda")
    firsts = config.first_rows()

    def losses(step: int) -> Iterator[Part]:
        place = firsts[step], firsts[step + 1] - firsts[step]
        yield from language_parts(
            model, ahead, *place, micro_batch=config.micro_batch, precision=config.dtype, layout=layout
        )

    def measure(done: int) -> Mapping[str, float]:
        if done % config.eval_every and done != config.steps:
            return {}
        bits = bits_per_byte(model, tokenizer, heldout.tokens, sample=config.eval_tokens, precision=config.dtype)
        if config.prompts:
            write_samples(out, done, layout.whole(model), tokenizer, config.prompts)
        return {"bits_per_byte": bits}

    plan = Plan.of(
        "pretrain",
        config,
        out,
        config.steps,
        {
            "tokenizer": tokenizer.hash,
            "corpus": digest([file_digest(index) for index in indices(config, inputs["shards"])]),
        },
        model_config,
    )

    def documents(step: int) -> list[str]:
        return rows.documents(firsts[step], firsts[step + 1] - firsts[step])

    learn = gradient_steps(trained, losses, plan, config, documents)
    train(trained, learn, plan, measure=measure, score=lambda measured: measured.get("bits_per_byte"))
    if config.result == "best":
        restore_best(trained, plan)
    result = layout.whole(model)
    world.once(lambda: save_model(result, out, tokenizer))
    remove_checkpoint(out / "checkpoint")
    return _headline(config, model_config, out)


def new_model(config: ModelConfig, optim: OptimConfig, layout: Layout, seed: int) -> tuple[Decoder, Trained]:
    """A decoder with fresh weights, spread as ``layout`` says, and what trains it."""
    generator = torch.Generator().manual_seed(seed)
    if layout.mesh is None:
        model = Decoder(config)
        init_weights(model, generator)
        layout.spread(model, rows_alike=True)
    else:  # no process ever holds more of it than its own part and one whole parameter
        with torch.device("meta"):
            model = Decoder(config)
        layout.spread(model, rows_alike=True)
        init_weights(model, generator, part)
    return model, Trained({"model": model}, build_optimizers(model, optim), layout)


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


def indices(config: PretrainConfig, shards: Path) -> list[Path]:
    """The ``index.json`` of every folder of shards that is learned from."""
    return [source.index for source in config.data] or [shards / "index.json"]


def open_rows(config: PretrainConfig, shards: Path, tokenizer: Tokenizer, context: int) -> Rows:
    """The windows of the stage's shards, or of the config's in their proportions."""
    folders = [index.parent for index in indices(config, shards)]
    windows = [open_windows(open_shard(folder, "train", tokenizer), context, config.seed) for folder in folders]
    if not config.data:
        return windows[0]
    return Mixed(windows, [source.weight for source in config.data], config.seed)


def open_windows(shard: TokenShard, context: int, seed: int) -> Windows:
    """Windows of a shard. UserError when it is too short for one."""
    if len(shard.tokens) <= context:
        raise UserError(
            f"The training shard holds {len(shard.tokens)} tokens, too few for one window of {context}; "
            "add text to the corpus, raise shards.tokens or shorten the model's context."
        )
    return Windows(shard.tokens, context, seed, shard.documents)


def _plan(config: PretrainConfig, model: ModelConfig, rows: Rows, layout: Layout) -> str:
    """Every number that follows from the config, in a line."""
    tokens = config.first_rows()[-1] * model.context
    epochs = f"{config.first_rows()[-1] / rows.order.n:.2f} epochs, " if isinstance(rows, Windows) else ""
    batch = config.batch if config.batch_start is None else f"{config.batch_start} to {config.batch}"
    where = f"{world.size()} processes" if layout.mesh is not None else f"{torch.get_num_threads()} threads"
    return (
        f"  pretrain: {parameter_count(model):,} parameters "
        f"({parameter_count(model, embeddings=False):,} without embeddings), "
        f"{config.steps:,} steps x {batch} rows x {model.context} = {tokens:,} tokens, "
        f"{epochs}{train_flops(model, tokens):.3g} FLOPs, {layout.dtype} on {where}"
    )


def _headline(config: PretrainConfig, model: ModelConfig, out: Path) -> Headline:
    lines = read_metrics(out)
    measured = [line["bits_per_byte"] for line in lines if "bits_per_byte" in line]
    rates = sorted(line["tokens_per_second"] for line in lines if "tokens_per_second" in line)
    tokens = config.first_rows()[-1] * model.context
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
    version=3,
    config=PretrainConfig,
    inputs=("shards", "tokenizer"),
    run=run,
    summary="train the language model on the shards",
    together=True,
)
