from __future__ import annotations

import random

import numpy as np
import pytest

from chatwright.corpus.quality import keep, pareto, score_texts
from chatwright.errors import UserError

GOOD = ["the", "river", "flows", "through", "a", "valley", "of", "old", "towns"]
BAD = ["click", "buy", "now", "cheap", "the", "a", "free", "offer", "win"]


def _texts(count: int) -> tuple[list[str], list[str], list[bool]]:
    rng = random.Random(0)
    good = [" ".join(rng.choices(GOOD, k=20)) for _ in range(count)]
    bad = [" ".join(rng.choices(BAD, k=20)) for _ in range(count)]
    return [f"id{i}" for i in range(2 * count)], good + bad, [True] * count + [False] * count


@pytest.mark.parametrize("score", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_documents_stay_as_often_as_the_papers_rule_says(score: float) -> None:
    draws = 40_000
    kept = np.mean([keep(score, pareto(f"doc{i}", seed=1)) for i in range(draws)])
    expected = (2 - score) ** -9  # .002, .026, .424, .645, 1
    assert kept == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / draws) + 1e-9)


def test_the_draw_is_distributed_as_numpys() -> None:
    ours = np.quantile([pareto(f"doc{i}", seed=2) for i in range(20_000)], [0.1, 0.5, 0.9])
    theirs = np.quantile(np.random.default_rng(0).pareto(9, 200_000), [0.1, 0.5, 0.9])
    assert ours == pytest.approx(theirs, rel=0.05)


def test_the_draw_depends_on_the_id_and_the_seed_alone() -> None:
    assert pareto("a", 1) == pareto("a", 1)
    assert len({pareto("a", 1), pareto("b", 1), pareto("a", 2)}) == 3


def test_the_classifier_tells_curated_from_raw_text_it_never_saw() -> None:
    ids, texts, curated = _texts(100)
    judged = score_texts(ids, texts, curated, seed=1)
    assert judged.auc > 0.95
    assert np.mean(judged.scores[:100]) > 0.8 > 0.2 > np.mean(judged.scores[100:])


def test_scores_of_random_labels_are_worthless() -> None:
    """The AUC is of texts the model never saw: it cannot learn labels by heart."""
    ids, texts, _ = _texts(150)
    rng = random.Random(3)
    judged = score_texts(ids, texts[:150] * 2, [rng.random() < 0.5 for _ in ids], seed=1)
    assert 0.35 < judged.auc < 0.65


def test_the_order_of_documents_does_not_change_their_scores() -> None:
    ids, texts, curated = _texts(60)
    forward = dict(zip(ids, score_texts(ids, texts, curated, 1).scores, strict=True))
    backward = dict(zip(ids[::-1], score_texts(ids[::-1], texts[::-1], curated[::-1], 1).scores, strict=True))
    assert forward == backward


def test_too_few_documents_are_a_user_error() -> None:
    with pytest.raises(UserError, match="needs more documents"):
        score_texts(["a", "b"], ["x", "y"], [True, False], seed=1)
