from __future__ import annotations

import random
from collections import Counter

import pytest

from chatwright.corpus.mixture import Item, draw, epochs, shares

ITEMS = [Item(f"a{i}", "a", 10 + i % 5) for i in range(40)] + [Item(f"b{i}", "b", 100) for i in range(300)]
WEIGHTS = {"a": 3.0, "b": 1.0}


def test_weights_need_not_sum_to_one() -> None:
    gpt3 = {"crawl": 60, "webtext2": 22, "books1": 8, "books2": 8, "wikipedia": 3}  # GPT-3 table 2.2: sums to 101
    assert sum(shares(gpt3).values()) == pytest.approx(1)
    sizes = {"crawl": 410, "webtext2": 19, "books1": 12, "books2": 55, "wikipedia": 3}  # billions of tokens
    gone_through = epochs(gpt3, sizes, total=300)
    assert gone_through["wikipedia"] == pytest.approx(3.4 * 60 / 68.7, rel=0.02)  # 3/101 of 300 over 3
    assert gone_through["crawl"] == pytest.approx(0.44, abs=0.01)  # as the paper's table prints


def test_sources_get_their_share_to_within_a_document() -> None:
    drawn = Counter()
    for i in draw(ITEMS, WEIGHTS, 8000, seed=1):
        drawn[ITEMS[i].source] += ITEMS[i].size
    assert 6000 <= drawn["a"] < 6000 + 14
    assert 2000 <= drawn["b"] < 2000 + 100


def test_documents_come_without_replacement_until_all_have_come() -> None:
    order = [i for i in draw(ITEMS, WEIGHTS, 8000, seed=1) if ITEMS[i].source == "a"]
    for start in range(0, len(order) - 40, 40):
        assert len(set(order[start : start + 40])) == 40
    assert order[:40] != order[40:80]  # a fresh order each epoch
    counts = Counter(i for i in draw(ITEMS, WEIGHTS, 8000, seed=1) if ITEMS[i].source == "b")
    assert max(counts.values()) == 1


def test_sources_are_spread_evenly() -> None:
    order = draw(ITEMS, WEIGHTS, 8000, seed=1)
    half = sum(ITEMS[i].size for i in order[: len(order) // 2] if ITEMS[i].source == "a")
    assert 0.4 < half / 6000 < 0.6


def test_the_order_of_items_does_not_change_the_draw() -> None:
    shuffled = random.Random(0).sample(ITEMS, len(ITEMS))
    names = [ITEMS[i].id for i in draw(ITEMS, WEIGHTS, 5000, seed=1)]
    assert [shuffled[i].id for i in draw(shuffled, WEIGHTS, 5000, seed=1)] == names
    assert [ITEMS[i].id for i in draw(ITEMS, WEIGHTS, 5000, seed=2)] != names


def test_a_source_without_documents_leaves_its_share_to_the_others() -> None:
    assert sum(ITEMS[i].size for i in draw(ITEMS[:40], WEIGHTS, 1000, seed=1)) >= 1000
