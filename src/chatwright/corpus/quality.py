"""The quality filter of GPT-3, appendix A: a classifier tells curated from raw text, a Pareto draw decides.

Logistic regression on hashed word features, curated sources against raw ones. A raw document stays iff a Pareto draw
exceeds 1 - score, so that some low-scoring text stays too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatwright.errors import UserError
from chatwright.storage import keyed_uniform

FEATURES = 2**18  # Spark's HashingTF default, as in GPT-3 appendix A
PARETO_SHAPE = 9  # GPT-3 appendix A: numpy.random.pareto(9) > 1 - score
FOLDS = 2
PER_CLASS = 20_000  # documents a fold learns from at most, of each class: enough for the AUC to be flat


@dataclass(frozen=True)
class Scores:
    """scores: each text's probability of being curated. auc: over all texts. By models that never saw the text."""

    scores: list[float]
    auc: float


def score_texts(ids: Sequence[str], texts: Sequence[str], curated: Sequence[bool], seed: int) -> Scores:
    """Score every text by cross-fitting: two halves, keyed on ids, each scored by the model of the other half.

    A document is so never scored by a model that learned it as an example of raw text.
    """
    # imported here: it takes a second, and most commands judge no text
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fold = np.array([int(keyed_uniform(seed, "fold", name) * FOLDS) for name in ids])
    target = np.array(curated)
    vectorizer = HashingVectorizer(
        n_features=FEATURES, lowercase=True, tokenizer=str.split, token_pattern=None, norm=None, alternate_sign=False
    )
    features = vectorizer.transform(texts)
    scores = np.zeros(len(ids))
    for held in range(FOLDS):
        rows = _training_rows(ids, target, fold != held, seed)
        if len(set(target[rows])) < 2:
            raise UserError(
                "The quality filter needs more documents: of curated and of raw text at least a handful each."
            )
        # liblinear runs on one thread, so the scores do not depend on the number of cores.
        model = LogisticRegression(solver="liblinear", class_weight="balanced").fit(features[rows], target[rows])
        if (fold == held).any():
            scores[fold == held] = model.predict_proba(features[fold == held])[:, 1]
    return Scores([round(float(score), 6) for score in scores], float(roc_auc_score(target, scores)))


def _training_rows(ids: Sequence[str], target: np.ndarray, usable: np.ndarray, seed: int) -> np.ndarray:
    """At most PER_CLASS rows of each class, chosen and ordered by a key of the id."""
    chosen: list[int] = []
    for value in (False, True):
        rows = np.flatnonzero(usable & (target == value))
        chosen += sorted(rows.tolist(), key=lambda row: keyed_uniform(seed, "train", ids[row]))[:PER_CLASS]
    return np.array(chosen, dtype=np.int64)


def pareto(document_id: str, seed: int) -> float:
    """A draw of `numpy.random.pareto(9)` (Lomax) that depends on the document's id alone: inverse CDF of a uniform."""
    return (1 - keyed_uniform(seed, "pareto", document_id)) ** (-1 / PARETO_SHAPE) - 1


def keep(score: float, draw: float) -> bool:
    """GPT-3's rule. P(keep) = (2 - score)^-9: .002, .026, .424, 1 at score 0, .5, .9, 1."""
    return draw > 1 - score
