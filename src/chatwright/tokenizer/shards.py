"""Token shards: the mixture as one long row of ids, an end-of-text after every document, and their reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from chatwright.corpus.mixture import Item, draw
from chatwright.corpus.table import read_kept, read_weights
from chatwright.errors import UserError
from chatwright.records import Document
from chatwright.stage import Headline, Inputs, Stage, StageConfig, progress_bar
from chatwright.storage import file_digest, read_json, whole_file, write_json
from chatwright.tokenizer.bpe import Tokenizer

ENCODE_BATCH = 2000  # documents encoded at a time: bounds memory, keeps the cores busy


class ShardsConfig(StageConfig):
    """tokens: length of the training shard; sources are repeated or cut to their weights to reach it."""

    tokens: int = Field(default=8_000_000, gt=0)


@dataclass(frozen=True)
class TokenShard:
    """A row of ids on disk. tokens: read-only memory map. Document i is tokens[offsets[i]:offsets[i + 1]].

    bytes: UTF-8 bytes of the text that the ids stand for (end-of-text counts none), for bits per byte. Nothing but the
    index is read when a shard is opened, however long it is.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: int
    tokenizer_hash: str
    names: Path

    @classmethod
    def open(cls, folder: Path, split: str) -> TokenShard:
        """Open the `train` or `heldout` shard of a shards folder. UserError when it is missing or cut short."""
        index = read_json(Path(folder) / "index.json")
        dtype = np.dtype(index["dtype"])
        part = index[split]
        tokens = _mapped(Path(folder) / f"{split}.bin", dtype, part["tokens"])
        offsets = _mapped(Path(folder) / f"{split}.offsets.bin", np.dtype(np.int64), part["documents"] + 1)
        return cls(tokens, offsets, part["bytes"], index["tokenizer"], Path(folder) / f"{split}.documents.parquet")

    def documents(self, start: int, end: int) -> list[str]:
        """The ids of the documents that tokens ``start`` .. ``end - 1`` belong to, in their order."""
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        after = int(np.searchsorted(self.offsets, end, side="left"))
        return pq.read_table(self.names, columns=["id"])["id"].slice(first, after - first).to_pylist()


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """A memory map of ``count`` numbers. UserError when the file is missing or of another length."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `chatwright shards`.")
    if path.stat().st_size != count * dtype.itemsize:
        raise UserError(f"{path} is not as long as its index.json says; make it again with `chatwright shards`.")
    return np.memmap(path, dtype=dtype, mode="r") if count else np.zeros(0, dtype)


@dataclass(frozen=True)
class _Encoded:
    """Documents encoded once. Document i is ids[starts[i]:starts[i + 1]], its end-of-text included.

    items: their sizes in tokens. bytes: their lengths in UTF-8 bytes.
    """

    items: list[Item]
    bytes: np.ndarray
    ids: np.ndarray
    starts: np.ndarray


def run(config: ShardsConfig, inputs: Inputs, out: Path) -> Headline:
    """Write both shards, each with its documents' offsets and ids, index.json, and exposures.parquet: how often each
    document comes."""
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    weights = read_weights(inputs["corpus"])
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    train = _encode(tokenizer, read_kept(inputs["corpus"], "train"), dtype, "encoding")
    heldout = _encode(tokenizer, read_kept(inputs["corpus"], "heldout"), dtype, "encoding held-out")
    order = draw(train.items, weights, config.tokens, config.seed)
    index: dict[str, Any] = {
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.hash,
        "sources": _count_sources(train, heldout, order, weights),
        "train": _write_shard(out, "train", train, order),
        "heldout": _write_shard(out, "heldout", heldout, range(len(heldout.items))),
    }
    _write_exposures(out / "exposures.parquet", train, heldout, order)
    write_json(out / "index.json", index)
    return {
        "train_tokens": index["train"]["tokens"],
        "heldout_tokens": index["heldout"]["tokens"],
        "bytes_per_token": round(index["train"]["bytes"] / index["train"]["tokens"], 3),
        "epochs": {source: entry["epochs"] for source, entry in index["sources"].items()},
    }


def _encode(tokenizer: Tokenizer, documents: Sequence[Document], dtype: np.dtype, title: str) -> _Encoded:
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    with progress_bar(title, len(documents)) as bar:
        for first in range(0, len(documents), ENCODE_BATCH):
            for ids in tokenizer.encode_batch([d.text for d in documents[first : first + ENCODE_BATCH]]):
                parts.append(np.array([*ids, tokenizer.end_of_text], dtype))
                lengths.append(len(ids) + 1)
            bar.update(min(first + ENCODE_BATCH, len(documents)), "documents")
    return _Encoded(
        items=[Item(d.id, d.source, length) for d, length in zip(documents, lengths, strict=True)],
        bytes=np.array([len(d.text.encode()) for d in documents], np.int64),
        ids=np.concatenate(parts) if parts else np.zeros(0, dtype),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _write_shard(folder: Path, split: str, encoded: _Encoded, order: Sequence[int]) -> dict[str, Any]:
    """Write the documents named by `order`, one after another; return the shard's part of index.json."""
    with whole_file(folder / f"{split}.bin") as partial, partial.open("wb") as shard:
        for i in order:
            shard.write(encoded.ids[encoded.starts[i] : encoded.starts[i + 1]].tobytes())
    offsets = np.cumsum([0, *(encoded.items[i].size for i in order)], dtype=np.int64)
    with whole_file(folder / f"{split}.offsets.bin") as partial:
        partial.write_bytes(offsets.tobytes())
    with whole_file(folder / f"{split}.documents.parquet") as partial:
        ids = pa.array([encoded.items[i].id for i in order], pa.string())
        pq.write_table(pa.table({"id": ids}), partial, compression="zstd")
    return {
        "tokens": int(offsets[-1]),
        "bytes": int(encoded.bytes[list(order)].sum()),
        "documents": len(order),
        "digest": file_digest(folder / f"{split}.bin"),
    }


def _count_sources(train: _Encoded, heldout: _Encoded, order: list[int], weights: dict[str, float]) -> dict[str, Any]:
    """For each source: its weight, what it has, what of it is in the training shard, and how often that repeats it."""
    available = Counter[str]()
    documents = Counter(item.source for item in train.items)
    for item in train.items:
        available[item.source] += item.size
    drawn = Counter[str]()
    for i in order:
        drawn[train.items[i].source] += train.items[i].size
    kept_out = Counter[str]()
    for item in heldout.items:
        kept_out[item.source] += item.size
    return {
        source: {
            "weight": weights[source],
            "documents": documents[source],
            "available_tokens": available[source],
            "tokens": drawn[source],
            "epochs": round(drawn[source] / available[source], 3),
            "heldout_tokens": kept_out[source],
        }
        for source in sorted(documents)
    }


def _write_exposures(path: Path, train: _Encoded, heldout: _Encoded, order: list[int]) -> None:
    times = Counter(order)
    columns = {
        "id": [item.id for item in (*train.items, *heldout.items)],
        "tokens": [item.size for item in (*train.items, *heldout.items)],
        "times": [times[i] for i in range(len(train.items))] + [0] * len(heldout.items),
    }
    with whole_file(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


STAGE = Stage(
    name="shards",
    version=2,
    config=ShardsConfig,
    inputs=("corpus", "tokenizer"),
    run=run,
    summary="write the mixture as token shards",
)
