"""How well scores order the pairs that people ordered: accuracy and its interval, by source and length; calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from chatwright.evaluation.checks import wilson
from chatwright.formats import prompt_id
from chatwright.labelling.simulated import length
from chatwright.records import Comparison

RESAMPLES = 2000
ROOM = 10_000_000  # numbers drawn at a time: 80 MB
BINS = 10  # of confidence, from a half to 1
# Words of the better answer minus those of the worse: above the bound before, up to this one. Ours.
LENGTHS = (
    (-50, "better one shorter by over 50 words"),
    (-11, "shorter by 11 to 50"),
    (10, "within 10"),
    (50, "longer by 11 to 50"),
    (math.inf, "longer by over 50"),
)


@dataclass(frozen=True)
class Pair:
    """Two answers of which one is ranked above the other.

    prompt: what they answer, with all that begins like it. margin: the better one's score minus the worse one's.
    longer: words of the better one minus those of the worse.
    """

    prompt: str
    source: str
    margin: float
    longer: int

    @property
    def right(self) -> float:
        """1 where the scores order the pair as its label does, a half where they tie."""
        return _half_step(self.margin)

    @property
    def right_by_length(self) -> float:
        """Likewise for the rule that the longer answer is better."""
        return _half_step(self.longer)


def _half_step(x: float) -> float:
    return 0.5 if x == 0 else float(x > 0)


def pairs(comparisons: Sequence[Comparison], scores: Sequence[Sequence[float]]) -> list[Pair]:
    """Every pair of answers of different tiers."""
    found = []
    for comparison, values in zip(comparisons, scores, strict=True):
        tier = {answer: t for t, tied in enumerate(comparison.tiers) for answer in tied}
        words = [length(answer) for answer in comparison.answers]
        prompt = prompt_id(comparison)
        for i, j in combinations(range(len(values)), 2):
            if tier[i] != tier[j]:
                a, b = (i, j) if tier[i] < tier[j] else (j, i)
                found.append(Pair(prompt, comparison.source, values[a] - values[b], words[a] - words[b]))
    return found


def mean_interval(values: Sequence[float], groups: Sequence[str], *, share: bool = True) -> tuple[float, float] | None:
    """The 95% interval of a mean of values that are not independent within a group: whole groups are drawn again.

    The percentile bootstrap over prompts, always with the same draws. Where it has no spread, as with one prompt or
    when all is right, a ``share`` has Wilson's interval of as many trials as there are groups. Of other means nothing
    is known from one group: None.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for value, group in zip(values, groups, strict=True):
        sums[names[group]] += value
        counts[names[group]] += 1
    draw = np.random.default_rng(0)
    means: list[float] = []
    while len(means) < RESAMPLES:  # as many at a time as there is room for
        drawn = draw.integers(len(names), size=(min(RESAMPLES - len(means), 1 + ROOM // len(names)), len(names)))
        means += (sums[drawn].sum(1) / counts[drawn].sum(1)).tolist()
    low, high = (float(x) for x in np.quantile(means, [0.025, 0.975]))
    if share and low == high:
        return wilson(low * len(names), len(names))
    return (low, high) if share or len(names) > 1 else None


def rate(values: Sequence[float], groups: Sequence[str], *, share: bool = True) -> dict[str, Any]:
    """A mean with its interval, None where nothing is known of that, and how much it is of."""
    interval = mean_interval(values, groups, share=share)
    return {
        "value": float(np.mean(values)),
        "interval": None if interval is None else list(interval),
        "pairs": len(values),
        "prompts": len(set(groups)),
    }


def accuracy(found: Sequence[Pair]) -> dict[str, Any]:
    """Of the scores, of the rule that the longer answer is better on the same pairs, and by how much they differ."""
    groups = [pair.prompt for pair in found]
    gains = [pair.right - pair.right_by_length for pair in found]
    return {
        **rate([pair.right for pair in found], groups),
        "length_rule": rate([pair.right_by_length for pair in found], groups),
        "above_length_rule": rate(gains, groups, share=False),
    }


def by_source(found: Sequence[Pair]) -> dict[str, Any]:
    """`accuracy` of the pairs of each source, in the order of their names."""
    return {name: accuracy([p for p in found if p.source == name]) for name in sorted({p.source for p in found})}


def by_length(found: Sequence[Pair]) -> dict[str, Any]:
    """`accuracy` by how much longer the better answer is; a taste for length alone is right on one side alone."""
    parts: dict[str, list[Pair]] = {name: [] for _, name in LENGTHS}
    for pair in found:
        parts[next(name for bound, name in LENGTHS if pair.longer <= bound)].append(pair)
    return {name: accuracy(part) for name, part in parts.items() if part}


def calibration(found: Sequence[Pair]) -> dict[str, Any]:
    """Whether the odds that scores give are those that labels have.

    A margin m says that the higher answer is the better with probability sigmoid(m): the confidence. Pairs are put into
    bins of it, and in each the share of those that are right is held against the mean confidence. ece: the mean gap,
    weighed by pairs (expected calibration error, Guo 2017). log_loss: mean of -log sigmoid(margin), in nats; log 2 =
    0.693 is that of a coin.
    """
    confidence = np.array([1 / (1 + math.exp(-min(abs(pair.margin), 500))) for pair in found])
    right = np.array([pair.right for pair in found])
    place = np.minimum((confidence - 0.5) * 2 * BINS, BINS - 1).astype(int)
    bins = []
    for number in sorted(set(place.tolist())):
        chosen = np.flatnonzero(place == number).tolist()
        groups = [found[i].prompt for i in chosen]
        bins.append({"confidence": float(confidence[chosen].mean()), **rate(right[chosen].tolist(), groups)})
    gaps = [abs(part["value"] - part["confidence"]) * part["pairs"] for part in bins]
    log_loss = float(np.mean([np.logaddexp(0, -pair.margin) for pair in found]))
    return {"ece": math.fsum(gaps) / len(found), "log_loss": log_loss, "bins": bins}


def shift(before: Iterable[float], after: Iterable[float], groups: Sequence[str], spread: float) -> dict[str, Any]:
    """The mean of what is added to a score, in units of ``spread``, with its interval over prompts."""
    return rate([(b - a) / spread for a, b in zip(before, after, strict=True)], groups, share=False)
