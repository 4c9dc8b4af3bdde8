"""The trained classifier: one logistic regression a category over hashed n-grams, read from safetensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from chatwright.errors import UserError
from chatwright.service.moderation.features import FEATURES, features
from chatwright.storage import file_digest, read_json

WEIGHTS, DESCRIPTION = "model.safetensors", "moderation.json"
WINDOW = 400  # characters that are judged together: a long text must not thin out its one bad sentence

_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]*")


class Classifier:
    """Scores texts. weights_CF and bias_C: of each category. thresholds: from which score on a category is flagged."""

    def __init__(
        self, weights_CF: np.ndarray, bias_C: np.ndarray, thresholds: Mapping[str, float], version: str
    ) -> None:
        self.thresholds, self.version = dict(thresholds), version
        self._weights_FC = np.ascontiguousarray(weights_CF.T.astype(np.float32))
        self._bias_C = bias_C.astype(np.float32)

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Read what training wrote. UserError when it is missing or something else."""
        path = Path(folder) / WEIGHTS
        description = read_json(Path(folder) / DESCRIPTION)
        try:
            arrays = load_file(path)
            weights, bias, thresholds = arrays["weights"], arrays["bias"], description["thresholds"]
            if weights.shape != (len(thresholds), FEATURES) or bias.shape != (len(thresholds),):
                raise KeyError("shape")
        except (OSError, SafetensorError, KeyError, TypeError):
            raise UserError(f"{folder} holds no classifier; train one with `chatwright moderation train`.") from None
        return cls(weights, bias, thresholds, f"classifier-{file_digest(path)[:8]}")

    def scores(self, text: str) -> dict[str, float]:
        """The probability of each category, of the worst part of the text."""
        logits_C = np.max([self._logits(part) for part in windows(text)], axis=0)
        probabilities_C = 1 / (1 + np.exp(-logits_C))
        return dict(zip(self.thresholds, map(float, probabilities_C), strict=True))

    def _logits(self, text: str) -> np.ndarray:
        columns = features(text)
        if not len(columns):
            return np.full_like(self._bias_C, -20.0)
        return self._weights_FC[columns].sum(axis=0) / np.sqrt(len(columns)) + self._bias_C


def windows(text: str) -> Iterator[str]:
    """The text in parts of whole sentences, up to `WINDOW` characters each where sentences are shorter."""
    part = ""
    for sentence in _SENTENCE.findall(text):
        for first in range(0, len(sentence), WINDOW):
            piece = sentence[first : first + WINDOW]
            if part and len(part) + len(piece) > WINDOW:
                yield part
                part = ""
            part += piece
    yield part
