"""Neighbours of the chat that are easy to see through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatwright.service.openai_api import ApiError


@dataclass(frozen=True)
class Verdict:
    flagged: bool
    categories: tuple[str, ...]
    version: str
    message: str


@dataclass
class Forbidding:
    """A moderator that minds one word."""

    word: str

    def check(self, text: str) -> Verdict:
        if self.word in text:
            return Verdict(True, ("harm",), "rules-1", "Please let us talk of something else.")
        return Verdict(False, (), "rules-1", "")


@dataclass
class Counting:
    """Metrics that remember what they were told."""

    firsts: list[tuple[str, float]] = field(default_factory=list)
    answers: list[tuple[str, str, int, int, float]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def first_token(self, model: str, seconds: float) -> None:
        self.firsts.append((model, seconds))

    def answered_chat(self, model: str, reason: str, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
        self.answers.append((model, reason, prompt_tokens, answer_tokens, seconds))

    def database_wait(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass
class Full:
    """A limiter whose one bucket is empty when `closed`."""

    bucket: str
    closed: bool = False
    rates: dict[str, str] = field(default_factory=dict)
    hits: list[tuple[str, str, int]] = field(default_factory=list)

    def hit(self, bucket: str, key: str, cost: int = 1) -> None:
        self.hits.append((bucket, key, cost))
        if self.closed and bucket == self.bucket:
            error = ApiError(429, "slow down")
            error.headers = {"Retry-After": "7"}  # type: ignore[attr-defined]
            raise error

    def configure(self, rates: Mapping[str, str]) -> None:
        self.rates = dict(rates)
