from __future__ import annotations

import doctest
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chatwright.storage import write_json
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.shards import TokenShard
from chatwright.training import batches
from chatwright.training.batches import PADDING, Ahead, Example, Mixed, Packed, Windows, pack


def test_worked_examples_hold() -> None:
    assert doctest.testmod(batches).failed == 0


@pytest.mark.parametrize("spare", [0, 3])
def test_an_epoch_of_windows_shows_every_token_once(spare: int) -> None:
    tokens = np.arange(10 * 8 + 1 + spare, dtype=np.uint16)
    windows = Windows(tokens, length=8, seed=0)
    for epoch in range(4):
        seen = windows.batch(10 * epoch, 10).tokens_BT.flatten().tolist()
        first = min(seen)
        assert first <= spare
        assert sorted(seen) == list(range(first, first + 80))


def test_each_target_is_the_next_token_even_across_a_window_edge() -> None:
    batch = Windows(np.arange(100, dtype=np.uint16), length=9, seed=0).batch(5, 6)
    assert torch.equal(batch.targets_BT, batch.tokens_BT + 1)
    assert batch.mask_BT.all()


def test_windows_of_a_step_do_not_depend_on_the_steps_before() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    straight = Windows(tokens, 10, seed=3)
    for step in range(40):
        batch = straight.batch(step * 8, 8)
    assert torch.equal(batch.tokens_BT, Windows(tokens, 10, seed=3).batch(39 * 8, 8).tokens_BT)


def test_packing_keeps_each_item_once_and_whole_and_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 300).tolist()
    rows = pack(lengths, 64)
    assert Counter(item for row in rows for item in row) == Counter(range(300))
    assert all(sum(lengths[item] for item in row) <= 64 for row in rows)
    assert sum(lengths) / (64 * len(rows)) > 0.95


def test_packed_rows_predict_only_within_a_conversation() -> None:
    examples = [Example([10, 11, 12, 13], [False, True, False, True]), Example([20, 21, 22], [False, False, True])]
    packed = Packed(examples, length=6, pad=99, seed=0)
    batch = packed.rows([0])
    assert batch.tokens_BT.tolist() == [[10, 11, 12, 20, 21, 99]]
    assert batch.targets_BT.tolist() == [[11, 12, 13, 21, 22, 99]]
    assert batch.mask_BT.tolist() == [[True, False, True, False, True, False]]
    assert batch.documents_BT.tolist() == [[0, 0, 0, 1, 1, PADDING]]


def test_a_hundred_gigabytes_are_read_in_constant_memory(tmp_path: Path) -> None:
    tokens = 50_000_000_000
    with (tmp_path / "train.bin").open("wb") as shard:
        shard.truncate(2 * tokens)  # sparse: it takes no room on the disk
        for place in (0, 7 * tokens // 9, tokens - 1):
            shard.seek(2 * place)
            shard.write(b"\x05\x00")
    np.array([0, 7 * tokens // 9, tokens], np.int64).tofile(tmp_path / "train.offsets.bin")
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "train.documents.parquet")
    part = {"tokens": tokens, "bytes": tokens, "documents": 2}
    write_json(tmp_path / "index.json", {"dtype": "uint16", "tokenizer": "t", "train": part})

    code = """
import resource, sys
from pathlib import Path
from chatwright.tokenizer.shards import TokenShard
from chatwright.training.batches import Windows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shard = TokenShard.open(Path(sys.argv[1]), "train")
windows = Windows(shard.tokens, 1024, seed=1, name=shard.documents)
seen = set()
for step in (0, 1, 10**6, 10**9, 10**12):
    batch = windows.batch(step * 32, 32)
    assert batch.tokens_BT.shape == (32, 1024)
    seen |= set(windows.documents(step * 32, 32))
assert seen == {"a", "b"}, seen
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024, "more than 64 MiB"


def mixed(seed: int = 0) -> Mixed:
    few, many = Windows(np.arange(50), 7, seed), Windows(np.arange(1000, 3000), 7, seed)
    return Mixed([few, many], [3.0, 1.0], seed)


def test_mixed_rows_come_by_weight_each_source_once_an_epoch() -> None:
    rows = mixed().batch(0, 400)
    small = [int(row[0]) for row in rows.tokens_BT if row[0] < 1000]
    assert len(small) == pytest.approx(300, abs=20)
    for first in range(0, len(small) - 7, 7):
        assert len(set(small[first : first + 7])) == 7
    assert mixed().counted(5, 10) == 70
    assert torch.equal(mixed().batch(123, 9).tokens_BT, rows.tokens_BT[123:132])


def test_rows_that_are_lacking_count_for_nothing() -> None:
    batch = Windows(np.arange(100), 9, seed=0).batch(0, 2)
    filled = batch.filled(5)
    assert filled.tokens_BT.shape == (5, 9)
    assert filled.mask_BT.sum() == batch.mask_BT.sum()
    assert torch.equal(filled.tokens_BT[:2], batch.tokens_BT)


def test_batches_made_ahead_are_those_asked_for() -> None:
    windows = Windows(np.arange(1000), 9, seed=0)
    ahead = Ahead(windows, pin=False)
    for first in range(0, 40, 4):
        guess = (first + 4, 4, 4) if first % 8 else (first + 5, 4, 4)  # every second guess is wrong
        assert torch.equal(ahead.batch(first, 4, 4, guess).tokens_BT, windows.batch(first, 4).tokens_BT)
    assert ahead.batch(3, 0, 2, (0, 1, 1)).mask_BT.sum() == 0


def test_a_batch_names_its_documents(inputs: dict[str, Path], tokenizer: Tokenizer) -> None:
    shard = TokenShard.open(inputs["shards"], "train")
    windows = Windows(shard.tokens, 48, seed=0, name=shard.documents)
    batch = windows.batch(5, 1)
    names = windows.documents(5, 1)
    texts = [tokenizer.decode(shard.tokens[start:end].tolist()) for start, end in pairwise(shard.offsets)]
    numbers = [int(name.removeprefix("train/")) for name in names]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert tokenizer.decode(batch.tokens_BT[0].tolist()) in "".join(texts[number] for number in numbers)
