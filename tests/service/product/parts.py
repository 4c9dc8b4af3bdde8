"""Neighbours of the chat that are easy to see through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatwright.service.api_error import ApiError


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
class Full:
    """A limiter whose one bucket is empty when `closed`."""

    bucket: str
    closed: bool = False
    rates: dict[str, str] = field(default_factory=dict)
    hits: list[tuple[str, str, int]] = field(default_factory=list)

    def hit(self, bucket: str, key: str, cost: int = 1) -> None:
        self.hits.append((bucket, key, cost))
        if self.closed and bucket == self.bucket:
            raise ApiError(429, "slow down", retry_after=7)

    def configure(self, rates: Mapping[str, str]) -> None:
        self.rates = dict(rates)
