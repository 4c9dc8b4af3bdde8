"""What the chat needs of its neighbours: a rate limiter, a moderator, and somebody who counts. Each may be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Limiter(Protocol):
    """Counts what accounts and sources use. Safe in any thread."""

    def hit(self, bucket: str, key: str, cost: int = 1) -> None:
        """Count it. ApiError 429, with the seconds to wait, when it is too much. A cost of 0 asks if any is left."""

    def configure(self, rates: Mapping[str, str]) -> None:
        """Take new rates, `"20/minute"` a bucket, "" for no limit. UserError when one cannot be read."""


class Decision(Protocol):
    """What a moderator thinks of a text. message: kind words for the person, "" when nothing is wrong."""

    @property
    def flagged(self) -> bool: ...
    @property
    def categories(self) -> Sequence[str]: ...
    @property
    def version(self) -> str: ...
    @property
    def message(self) -> str: ...


class Moderator(Protocol):
    """Judges a text in a few milliseconds. Safe in any thread."""

    def check(self, text: str) -> Decision:
        """Whether the text may be said here."""


class Metrics(Protocol):
    """Counts what the chat does. Called in any thread, must return at once."""

    def first_token(self, model: str, seconds: float) -> None:
        """An answer's first piece came so long after it was asked for."""

    def answered_chat(self, model: str, reason: str, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
        """An answer ended."""

    def database_wait(self, seconds: float) -> None:
        """A writer waited so long for its turn."""
