"""Trains the classifier, measures it on texts that it never saw, and writes it: safetensors and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from safetensors.numpy import save_file

from chatwright.errors import UserError
from chatwright.service.moderation.classifier import DESCRIPTION, WEIGHTS, Classifier, windows
from chatwright.service.moderation.features import FEATURES, features
from chatwright.service.moderation.sources import LICENCES, Example, read_sources
from chatwright.service.moderation.text import normal
from chatwright.storage import file_digest, whole_folder, write_json

LEAST = 30  # examples of a category to learn from, and ...
LEAST_TESTED = 5  # ... to measure it by
FALSE_ALARMS = 0.02  # of each set's harmless texts, on the validation part
STRENGTH = 4.0  # inverse of the regularisation
RESAMPLES = 300  # of the bootstrap


@dataclass(frozen=True)
class Measure:
    """How a category does on a source's test texts at its threshold. Intervals are of 95%, by bootstrap."""

    category: str
    source: str
    texts: int
    harmful: int
    auc: float
    auc_interval: tuple[float, float]
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    f1: float
    false_alarms: float


def train(data: Path, out: Path, false_alarms: float = FALSE_ALARMS, seed: int = 0) -> dict[str, Any]:
    """Train on the sets in `data` and write the folder `out`; returns what `moderation.json` says.

    false_alarms: the share of each set's harmless texts that may be flagged, by which the thresholds are chosen.
    """
    from sklearn.linear_model import LogisticRegression  # a second, and only here

    if out.exists():
        raise UserError(f"{out} exists already; name a new folder.")
    examples = read_sources(data)
    categories = _learnable(examples)
    sources = np.array([example.source for example in examples])
    split = np.array([example.split for example in examples])
    with Progress(transient=True) as progress:
        task = progress.add_task("reading", total=len(examples) + len(categories))
        columns, parts, owners = [], [], []
        for number, example in enumerate(examples):
            columns.append(features(example.text))
            if example.split != "train":  # measured as they are judged later, by their worst part
                own = [features(part) for part in windows(normal(example.text))]
                parts += own
                owners += [number] * len(own)
            progress.advance(task)
        matrix, parts_matrix = _matrix(columns), _matrix(parts)
        weights, bias, thresholds, measures = [], [], {}, []
        for category in categories:
            progress.update(task, description=f"learning {category}")
            labels = np.array([example.labels.get(category, False) for example in examples])
            known = np.array([category in example.labels for example in examples])
            learned = (split == "train") & known
            # liblinear runs on one thread, so the weights do not depend on the number of cores.
            model = LogisticRegression(solver="liblinear", C=STRENGTH, class_weight="balanced", random_state=seed)
            model.fit(matrix[learned], labels[learned])
            weights.append(model.coef_[0].astype(np.float16))
            bias.append(np.float32(model.intercept_[0]))
            logits = np.full(len(examples), -np.inf)
            np.maximum.at(logits, owners, parts_matrix @ weights[-1].astype(np.float32) + bias[-1])
            scores = 1 / (1 + np.exp(-logits))
            chosen = (split == "validation") & known
            thresholds[category] = threshold_for(scores[chosen], ~labels[chosen], sources[chosen], false_alarms)
            for source in sorted(set(sources)):
                tested = (split == "test") & known & (sources == source)
                if min(labels[tested].sum(), (~labels[tested]).sum()) >= LEAST_TESTED:
                    measures.append(_measure(category, source, scores[tested], labels[tested], thresholds[category]))
            progress.advance(task)
    return _write(out, examples, thresholds, np.array(weights), np.array(bias), measures, false_alarms, seed)


def threshold_for(scores: np.ndarray, harmless: np.ndarray, sources: np.ndarray, false_alarms: float) -> float:
    """The lowest threshold at which at most this share of each set's harmless texts is flagged.

    Of what is flagged, how much is harmful depends on how much harm there is, which no set knows of a service; how
    often an ordinary text is refused does not.

    >>> scores = np.array([0.1, 0.2, 0.3, 0.9])
    >>> threshold_for(scores, scores < 0.5, np.array(["a"] * 4), 1 / 3)
    0.20000000000000004
    """
    highest = 0.0
    for source in set(sources):
        ordered = np.sort(scores[harmless & (sources == source)])[::-1]
        allowed = int(false_alarms * len(ordered) + 1e-9)
        if allowed < len(ordered):
            highest = max(highest, float(np.nextafter(ordered[allowed], 2.0)))
    return highest


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a harmful text scores above a harmless one; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1, ties share theirs
    positive = int(labels.sum())
    negative = len(labels) - positive
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _measure(category: str, source: str, scores: np.ndarray, labels: np.ndarray, threshold: float) -> Measure:
    flagged = scores >= threshold
    right = int((flagged & labels).sum())
    draws = np.random.default_rng(0).integers(0, len(scores), (RESAMPLES, len(scores)))
    aucs, precisions = [], []
    for draw in draws:
        drawn = labels[draw]
        if drawn.any() and not drawn.all():
            aucs.append(auc(scores[draw], drawn))
        if flagged[draw].any():
            precisions.append(float(drawn[flagged[draw]].mean()))
    precision = right / max(1, int(flagged.sum()))
    recall = right / int(labels.sum())
    return Measure(
        category,
        source,
        len(labels),
        int(labels.sum()),
        round(auc(scores, labels), 4),
        _interval(aucs),
        round(precision, 4),
        _interval(precisions),
        round(recall, 4),
        round(2 * precision * recall / max(1e-9, precision + recall), 4),
        round(float((flagged & ~labels).sum() / (~labels).sum()), 4),
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def _learnable(examples: Sequence[Example]) -> list[str]:
    """The categories with enough examples of harm to learn and to measure."""
    counts: dict[tuple[str, str], int] = {}
    for example in examples:
        for category, harmful in example.labels.items():
            counts[category, example.split] = counts.get((category, example.split), 0) + harmful
    names = sorted({category for category, _ in counts})
    enough = [
        name
        for name in names
        if counts.get((name, "train"), 0) >= LEAST
        and min(counts.get((name, split), 0) for split in ("validation", "test")) >= LEAST_TESTED
    ]
    if not enough:
        raise UserError(f"No category has {LEAST} harmful texts to learn from; add another of the sets.")
    return enough


def _matrix(columns: Sequence[np.ndarray]) -> Any:
    """Sparse rows of unit length, as the classifier computes them."""
    from scipy.sparse import csr_matrix

    lengths = np.array([len(c) for c in columns])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    return csr_matrix((values, np.concatenate(columns), starts), shape=(len(columns), FEATURES))


def _write(
    out: Path,
    examples: Sequence[Example],
    thresholds: dict[str, float],
    weights: np.ndarray,
    bias: np.ndarray,
    measures: Sequence[Measure],
    false_alarms: float,
    seed: int,
) -> dict[str, Any]:
    """Write the folder, whole or not at all."""
    sources = {
        name: {
            "licence": LICENCES[name],
            **{
                split: sum(e.source == name and e.split == split for e in examples)
                for split in ("train", "validation", "test")
            },
        }
        for name in sorted({e.source for e in examples})
    }
    with whole_folder(out) as folder:
        save_file({"weights": weights, "bias": bias}, folder / WEIGHTS)
        description = {
            "version": f"classifier-{file_digest(folder / WEIGHTS)[:8]}",
            "config": {"features": FEATURES, "strength": STRENGTH, "false_alarms": false_alarms, "seed": seed},
            "thresholds": thresholds,
            "sources": sources,
            "measures": [asdict(measure) for measure in measures],
        }
        write_json(folder / DESCRIPTION, description)
        Classifier.load(folder)
    return description


def as_table(description: dict[str, Any]) -> str:
    """The measures as a table in Markdown."""
    lines = [
        "| category | set | texts | harmful | AUC | precision | recall | F1 | false alarms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for m in description["measures"]:
        auc_low, auc_high = m["auc_interval"]
        low, high = m["precision_interval"]
        lines.append(
            f"| {m['category']} | {m['source']} | {m['texts']} | {m['harmful']} | {m['auc']:.3f} "
            f"({auc_low:.3f} to {auc_high:.3f}) | {m['precision']:.2f} ({low:.2f} to {high:.2f}) | {m['recall']:.2f} | "
            f"{m['f1']:.2f} | {m['false_alarms']:.1%} |"
        )
    return "\n".join(lines)
