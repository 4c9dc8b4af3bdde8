"""The tokenizer stage: learn the merges on a sample of the mixture."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chatwright.corpus.mixture import Item, draw
from chatwright.corpus.table import read_kept, read_weights
from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.tokenizer.bpe import train_bpe


class TokenizerConfig(StageConfig):
    """vocab_size: ids in all, special tokens included. sample_bytes: text to learn from, drawn by the mixture."""

    vocab_size: int = Field(default=4096, ge=260)
    sample_bytes: int = Field(default=10_000_000, gt=0)


def run(config: TokenizerConfig, inputs: Inputs, out: Path) -> Headline:
    """Write tokenizer.json and tokenizer_config.json."""
    documents = read_kept(inputs["corpus"], "train")
    weights = read_weights(inputs["corpus"])
    items = [Item(d.id, d.source, len(d.text.encode())) for d in documents]
    chosen = draw(items, weights, config.sample_bytes, config.seed)
    tokenizer = train_bpe((documents[i].text for i in chosen), config.vocab_size)
    tokenizer.save(out)
    probe = [documents[i].text for i in chosen[:1000]]
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(probe))
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": round(sum(len(text.encode()) for text in probe) / tokens, 3),
        "hash": tokenizer.hash,
    }


STAGE = Stage(
    name="tokenizer",
    version=1,
    config=TokenizerConfig,
    inputs=("corpus",),
    run=run,
    summary="learn a byte-level BPE vocabulary on the mixture",
)
