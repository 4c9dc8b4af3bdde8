from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from chatwright.corpus.table import Row, write_rows
from chatwright.errors import UserError
from chatwright.storage import file_digest, read_json, write_json
from chatwright.tokenizer import shards, stage
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.shards import ShardsConfig, TokenShard

TOKENS = 3000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for source, count in (("small", 5), ("large", 200)):
        for i in range(count):
            text = f"Document {i} of the {source} source says {i * 7} things, 你好."
            rows.append(
                Row(f"{source}/{i}", source, None, text, len(text), split="heldout" if i % 10 == 3 else "train")
            )
    dropped = Row("large/bad", "large", None, "never seen", 10)
    dropped.drop("quality", "bad")
    write_rows(folder / "documents.parquet", [*rows, dropped])
    entry = {"weight": 0.5, "documents": 1, "bytes": 1}
    write_json(folder / "mixture.json", {"sources": {"small": entry, "large": entry}})
    return folder


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    stage.run(stage.TokenizerConfig(vocab_size=300, sample_bytes=5000), {"corpus": corpus}, out / "tokenizer")
    shards.run(ShardsConfig(tokens=TOKENS), {"corpus": corpus, "tokenizer": out / "tokenizer"}, out / "shards")
    return out


def _documents(built: Path, split: str) -> list[str]:
    tokenizer = Tokenizer.load(built / "tokenizer")
    shard = TokenShard.open(built / "shards", split)
    documents = []
    for start, end in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
        ids = shard.tokens[start:end].tolist()
        assert ids[-1] == tokenizer.end_of_text
        assert tokenizer.end_of_text not in ids[:-1]
        documents.append(tokenizer.decode(ids))
    return documents


def test_every_document_is_whole_and_ends_with_end_of_text(built: Path, corpus: Path) -> None:
    known = {row["text"] for row in pq.read_table(corpus / "documents.parquet").to_pylist() if row["split"] == "train"}
    assert set(_documents(built, "train")) <= known


def test_held_out_documents_come_once_and_never_in_training(built: Path, corpus: Path) -> None:
    rows = pq.read_table(corpus / "documents.parquet").to_pylist()
    expected = sorted(row["text"] for row in rows if row["split"] == "heldout")
    heldout = _documents(built, "heldout")
    assert sorted(heldout) == expected
    assert not set(heldout) & set(_documents(built, "train"))
    assert TokenShard.open(built / "shards", "heldout").bytes == sum(len(text.encode()) for text in expected)


def test_sources_get_their_weight_and_the_small_one_is_repeated(built: Path) -> None:
    index = read_json(built / "shards" / "index.json")
    sources = index["sources"]
    assert abs(sources["small"]["tokens"] - TOKENS / 2) < 60
    assert abs(sources["large"]["tokens"] - TOKENS / 2) < 60
    assert sources["small"]["epochs"] > 5 > 1 > sources["large"]["epochs"]
    assert sources["small"]["epochs"] == pytest.approx(
        sources["small"]["tokens"] / sources["small"]["available_tokens"], abs=1e-3
    )


def test_exposures_count_how_often_each_document_comes(built: Path) -> None:
    train = _documents(built, "train")
    exposures = {row["id"]: row["times"] for row in pq.read_table(built / "shards" / "exposures.parquet").to_pylist()}
    assert exposures["small/1"] == train.count("Document 1 of the small source says 7 things, 你好.")
    assert sum(exposures.values()) == len(train)
    assert exposures["small/3"] == 0  # held out


def test_the_same_inputs_give_the_same_bytes(built: Path, corpus: Path, tmp_path: Path) -> None:
    shards.run(ShardsConfig(tokens=TOKENS), {"corpus": corpus, "tokenizer": built / "tokenizer"}, tmp_path)
    for name in ("train.bin", "heldout.bin", "index.json", "exposures.parquet"):
        assert file_digest(tmp_path / name) == file_digest(built / "shards" / name)


def test_the_shard_is_a_memory_map_of_the_narrowest_type(built: Path) -> None:
    shard = TokenShard.open(built / "shards", "train")
    assert isinstance(shard.tokens, np.memmap)
    assert shard.tokens.dtype == np.uint16
    assert shard.tokenizer_hash == Tokenizer.load(built / "tokenizer").hash


def test_a_missing_or_truncated_shard_is_a_user_error(built: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        TokenShard.open(tmp_path, "train")
    for name in ("index.json", "train.bin"):
        (tmp_path / name).write_bytes((built / "shards" / name).read_bytes())
    (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-2])
    with pytest.raises(UserError, match="not as long"):
        TokenShard.open(tmp_path, "train")
