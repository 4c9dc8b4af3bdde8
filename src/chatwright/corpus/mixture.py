"""The mixture: how much of each source, how often that repeats it, and in which order documents come.

GPT-3 section 2.2: sources are drawn by weight, not by size, so small good ones are repeated; within a source documents
come without replacement until all have come once. Weights need not sum to 1 (GPT-3's sum to 1.01): they are normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatwright.storage import keyed_uniform


@dataclass(frozen=True)
class Item:
    """A document as the mixture sees it. size: in whatever the mixture is measured in, bytes or tokens."""

    id: str
    source: str
    size: int


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights, made to sum to 1.

    >>> shares({"a": 3, "b": 1})
    {'a': 0.75, 'b': 0.25}
    """
    total = sum(weights.values())
    return {source: weight / total for source, weight in weights.items()}


def epochs(weights: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """How often each source is gone through when `total` is drawn from sources of `sizes`.

    >>> epochs({"books": 1, "web": 1}, {"books": 100, "web": 1000}, total=1000)
    {'books': 5.0, 'web': 0.5}
    """
    return {source: share * total / sizes[source] for source, share in shares(weights).items()}


def draw(items: Sequence[Item], weights: Mapping[str, float], total: int, seed: int) -> list[int]:
    """Indices into `items`, in order, of a draw of about `total`: every source by its weight, evenly spread.

    Only sources that have items share the weight. Each source gives whole documents until its quota is reached (so it
    exceeds it by less than one document), in a fresh order each epoch. Orders are keyed on ids: the order of `items`
    does not matter.
    """
    by_source: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.size > 0 and weights[item.source] > 0:
            by_source.setdefault(item.source, []).append(index)
    placed: list[tuple[float, str, int, int]] = []
    for source, share in shares({source: weights[source] for source in sorted(by_source)}).items():
        chosen = _draw_source(items, by_source[source], share * total, seed)
        drawn = sum(items[index].size for index in chosen)
        before = 0
        for nth, index in enumerate(chosen):
            offset = keyed_uniform(seed, "place", source, nth) * items[index].size
            placed.append(((before + offset) / drawn, source, nth, index))
            before += items[index].size
    return [index for _, _, _, index in sorted(placed)]


def _draw_source(items: Sequence[Item], members: list[int], quota: float, seed: int) -> list[int]:
    """Documents of one source, without replacement within an epoch, until their sizes reach `quota`."""
    chosen: list[int] = []
    drawn = 0
    epoch = 0
    while True:
        for index in sorted(members, key=lambda i: (keyed_uniform(seed, "order", epoch, items[i].id), items[i].id)):
            if drawn >= quota:
                return chosen
            chosen.append(index)
            drawn += items[index].size
        epoch += 1
