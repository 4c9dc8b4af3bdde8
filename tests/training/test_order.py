from __future__ import annotations

import numpy as np
import pytest

from chatwright.training.order import CYCLE, Shuffled, Woven


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64, 1000, 4097])
def test_an_epoch_has_every_number_once_and_epochs_differ(n: int) -> None:
    order = Shuffled(n, seed=3)
    epochs = [[number for _, number in order.take(epoch * n, n)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert [epoch for epoch, _ in order.take(0, 3 * n)] == [e for e in range(3) for _ in range(n)]
    if n > 16:
        assert epochs[0] != epochs[1] != epochs[2]


def test_places_are_drawn_evenly() -> None:
    counts = np.zeros((8, 8))
    for seed in range(2000):
        for place, (_, number) in enumerate(Shuffled(8, seed).take(0, 8)):
            counts[place, number] += 1
    assert ((counts - 250) ** 2 / 250).sum() < 90  # chi-squared with 49 degrees of freedom: beyond 90 once in 3,000


def test_neighbours_and_places_do_not_correlate() -> None:
    numbers = np.array([number for _, number in Shuffled(50_000, seed=1).take(0, 50_000)])
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.02


def test_any_place_of_a_huge_order_is_found_at_once() -> None:
    order = Shuffled(10**12, seed=1)
    assert order.take(10**15 + 5, 2) == order.take(10**15 + 4, 3)[1:]


def test_woven_sources_have_their_weights_and_their_own_order() -> None:
    woven = Woven([0.6, 0.3, 0.1], seed=2)
    places = woven.take(0, 3 * CYCLE)
    for source, weight in enumerate((0.6, 0.3, 0.1)):
        own = [place for found, place in places if found == source]
        assert abs(len(own) - weight * 3 * CYCLE) <= 3
        assert own == list(range(len(own)))
    window = np.bincount([source for source, _ in places[1000:3000]], minlength=3) / 2000
    assert window == pytest.approx([0.6, 0.3, 0.1], abs=0.05)
    assert woven.take(70_000, 5) == places[70_000:70_005]


def test_weights_need_not_sum_to_one_and_the_seed_moves_the_pattern() -> None:
    assert Woven([6, 3, 1], 2).take(0, 100) == Woven([0.6, 0.3, 0.1], 2).take(0, 100)
    assert Woven([6, 3, 1], 2).take(0, 100) != Woven([6, 3, 1], 3).take(0, 100)
