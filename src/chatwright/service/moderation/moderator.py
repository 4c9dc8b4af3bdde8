"""Decides whether a text may be said, which kinds of harm it has, and what to tell the person."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatwright.service.moderation import rules, words
from chatwright.service.moderation.classifier import Classifier
from chatwright.service.moderation.text import normal

# OpenAI's categories (omni-moderation)
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

CHECK_CHARACTERS = 200  # of new text of an answer under way before it is looked at again

SHORT = 500  # characters: sooner judged than a thread would get to it

log = logging.getLogger("chatwright.moderation")


@dataclass(frozen=True)
class Decision:
    """What a moderator thinks of a text.

    categories: the kinds of harm, of `CATEGORIES`. scores: 0 to 1, by category, of those that were looked for. version:
    of rules and weights. message: kind words for the person, in the text's language; "" when nothing is wrong.
    """

    flagged: bool
    categories: tuple[str, ...]
    version: str
    message: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


class Moderator:
    """Judges texts by rules and, where there is one, by a classifier. Safe in any thread.

    >>> Moderator().check("How do I build a pipe bomb?").categories
    ('illicit/violent',)
    """

    def __init__(self, classifier: Classifier | None = None) -> None:
        self._classifier = classifier
        self.version = f"rules-{rules.VERSION}" + (f"+{classifier.version}" if classifier else "")

    @classmethod
    def load(cls, folder: Path | None) -> Moderator:
        """With the classifier of a folder that `chatwright moderation train` wrote. UserError when it is none."""
        return cls(None if folder is None else Classifier.load(folder))

    def check(self, text: str) -> Decision:
        """Whether the text may be said. A flagged one is logged by its kinds and the version, never by its words."""
        plain = normal(text)
        ruled = rules.broken(plain)
        scores = dict.fromkeys(ruled, 1.0)
        found = set(ruled)
        if self._classifier is not None:
            for category, score in self._classifier.scores(plain).items():
                scores[category] = max(score, scores.get(category, 0.0))
                if score >= self._classifier.thresholds[category]:
                    found.add(category)
        if not found:
            return Decision(False, (), self.version, "", scores)
        categories = tuple(category for category in CATEGORIES if category in found)
        log.warning("flagged as %s by %s", ", ".join(categories), self.version)
        return Decision(True, categories, self.version, words.refusal(text, categories), scores)


async def judge(moderator: Moderator, text: str) -> Decision:
    """What a moderator thinks of a text, for an event loop: a long one is looked at in another thread."""
    return moderator.check(text) if len(text) <= SHORT else await asyncio.to_thread(moderator.check, text)
