"""A small tokenizer, text shards and conversations that follow a rule, which a small model can learn in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chatwright.records import Comparison, Conversation, Message
from chatwright.storage import write_json, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer, train_bpe
from chatwright.training.parallel import Layout, ParallelConfig, lay_out

COLORS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "sky": "blue", "lemon": "yellow"}
SENTENCES = [f"The color of {thing} is {color}. " for thing, color in COLORS.items()]
MODEL = {"preset": "modern", "layers": 2, "d_model": 32, "heads": 2, "kv_heads": 1, "context": 48}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def alone() -> Layout:
    """One process on a CPU."""
    return lay_out(ParallelConfig(), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["user assistant " + sentence for sentence in SENTENCES] * 4, 300)


def conversation(name: str, thing: str, turns: int = 1) -> Conversation:
    messages = []
    for _ in range(turns):
        messages.append(Message(role="user", content=f"What is the color of {thing}?"))
        messages.append(Message(role="assistant", content=f"It is {COLORS[thing]}."))
    return Conversation(id=name, messages=messages)


def comparison(name: str, thing: str) -> Comparison:
    """Right answer, then a tie of two wrong ones, then a wrong one at length."""
    wrong = [color for color in COLORS.values() if color != COLORS[thing]]
    answers = [f"It is {wrong[0]}.", f"It is {COLORS[thing]}.", f"It is {wrong[1]}.", f"It is {wrong[2]}. " * 2]
    prompt = [Message(role="user", content=f"What is the color of {thing}?")]
    return Comparison(id=name, prompt=prompt, answers=answers, tiers=[[1], [0, 2], [3]], labeler="rule")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    """Folders of the stages before training: shards, tokenizer, conversations, compare."""
    root = tmp_path_factory.mktemp("inputs")
    folders = {name: root / name for name in ("shards", "tokenizer", "conversations", "compare")}
    for folder in folders.values():
        folder.mkdir()
    tokenizer.save(folders["tokenizer"])
    write_shards(folders["shards"], tokenizer)
    talks = [conversation(f"c{i}", list(COLORS)[i % 6], turns=1 + i % 2) for i in range(24)]
    write_jsonl(folders["conversations"] / "demonstrations.jsonl", talks)
    write_jsonl(folders["conversations"] / "demonstrations_heldout.jsonl", talks[:6])
    ranked = [comparison(f"r{i}", list(COLORS)[i % 6]) for i in range(12)]
    write_jsonl(folders["compare"] / "comparisons.jsonl", ranked)
    write_jsonl(folders["compare"] / "comparisons_heldout.jsonl", ranked[:6])
    scores = ({"id": item.id, "scores": [-0.5, 1.0, -1.0, -1.5]} for item in ranked)
    write_jsonl(folders["compare"] / "scores.jsonl", scores)
    return folders


def write_shards(folder: Path, tokenizer: Tokenizer) -> None:
    index = {"dtype": "uint16", "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.hash}
    generator = np.random.default_rng(0)
    for split, documents in (("train", 120), ("heldout", 30)):
        texts = ["".join(generator.permutation(SENTENCES)[:4]) for _ in range(documents)]
        ids = [[*document, tokenizer.end_of_text] for document in tokenizer.encode_batch(texts)]
        offsets = np.cumsum([0, *map(len, ids)])
        size = sum(len(text.encode()) for text in texts)
        np.array([token for document in ids for token in document], np.uint16).tofile(folder / f"{split}.bin")
        offsets.astype(np.int64).tofile(folder / f"{split}.offsets.bin")
        names = pa.array([f"{split}/{number}" for number in range(documents)])
        pq.write_table(pa.table({"id": names}), folder / f"{split}.documents.parquet")
        index[split] = {"tokens": int(offsets[-1]), "bytes": size, "documents": documents}
    write_json(folder / "index.json", index)
