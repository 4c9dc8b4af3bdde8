from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from chatwright.corpus.dedup import exact_clusters, jaccard, near_clusters, representatives, shingles


def _near_copies(seed: int) -> dict[str, str]:
    """Families of texts at every distance: copies with 0 to 12 of 60 words replaced, and unrelated texts."""
    rng = random.Random(seed)
    texts = {}
    for family in range(25):
        base = [f"w{rng.randrange(300)}" for _ in range(60)]
        for copy in range(5):
            changed = list(base)
            for place in rng.sample(range(60), rng.choice((0, 1, 1, 2, 3, 12))):
                changed[place] = f"x{rng.randrange(300)}"
            texts[f"{family}/{copy}"] = " ".join(changed)
    return texts


def _quadratic_clusters(texts: dict[str, str], threshold: float) -> set[frozenset[str]]:
    """Connected components over all pairs, the slow and certain way."""
    groups = {name: {name} for name in texts}
    sets = {name: shingles(text) for name, text in texts.items()}
    for a, b in combinations(texts, 2):
        if jaccard(sets[a], sets[b]) >= threshold and groups[a] is not groups[b]:
            joined = groups[a] | groups[b]
            groups.update(dict.fromkeys(joined, joined))
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def test_near_clusters_equal_those_of_all_pairs() -> None:
    for seed in range(5):
        texts = _near_copies(seed)
        assert {frozenset(group) for group in near_clusters(texts, 0.8)} == _quadratic_clusters(texts, 0.8)


def test_clusters_and_representatives_do_not_depend_on_order() -> None:
    texts = _near_copies(9)
    names = list(texts)
    random.Random(1).shuffle(names)
    shuffled = {name: texts[name] for name in names}
    rank = {name: (hash(name) % 7, name) for name in texts}
    assert near_clusters(shuffled, 0.8) == near_clusters(texts, 0.8)
    assert representatives(near_clusters(shuffled, 0.8), rank) == representatives(near_clusters(texts, 0.8), rank)


def test_the_lowest_rank_of_a_cluster_stays() -> None:
    assert representatives([["a", "b", "c"]], {"a": (2,), "b": (1,), "c": (3,)}) == {"a": "b", "c": "b"}


def test_exact_means_equal_words() -> None:
    texts = {"a": "Hello, World", "b": "hello world!", "c": "hello word", "d": "...", "e": "???"}
    assert exact_clusters(texts) == [["a", "b"]]


@given(texts=st.lists(st.text(max_size=30), max_size=8))
def test_any_text_has_shingles_and_is_near_itself(texts: list[str]) -> None:
    for text in texts:
        assert jaccard(shingles(text), shingles(text)) == 1
    near_clusters(dict(zip("abcdefgh", texts, strict=False)), 0.8)
