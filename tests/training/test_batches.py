from __future__ import annotations

import doctest
from collections import Counter

import numpy as np
import pytest
import torch

from chatwright.training import batches
from chatwright.training.batches import PADDING, Example, Packed, Windows, pack
from chatwright.training.order import Shuffled


def test_worked_examples_hold() -> None:
    assert doctest.testmod(batches).failed == 0


def test_shuffled_shows_each_number_once_an_epoch_in_a_new_order() -> None:
    order = Shuffled(7, seed=1)
    epochs = [[number for _, number in order.take(7 * epoch, 7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_shuffled_depends_on_place_and_seed_alone() -> None:
    whole = Shuffled(5, seed=1).take(0, 20)
    assert Shuffled(5, seed=1).take(13, 4) == whole[13:17]
    assert Shuffled(5, seed=2).take(0, 20) != whole


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
