"""A request while the engine works on it, and what it gets in the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from chatwright.inference.constraint import Constraint
from chatwright.inference.sampling import Choice, Row, Sampling
from chatwright.inference.scheduler import Sequence
from chatwright.inference.text import AnswerText

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


@dataclass(frozen=True)
class Timing:
    """When things happened, in seconds of `time.monotonic`. began: it was asked for. tokens: each token came. ended: no
    more came.
    """

    began: float
    tokens: list[float]
    ended: float


@dataclass(frozen=True)
class Delta:
    """What an answer grew by. text: whole characters. tokens, logprobs, top_logprobs: as in `Completion`."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[tuple[tuple[int, float], ...]]


@dataclass(frozen=True)
class Completion:
    """An answer.

    tokens: the end of turn included when it was reached. logprobs: the log-probability of each, top_logprobs: the
    likeliest at each place, as asked for. finish_reason: "stop" for an end of turn or a stop string, "length" at
    max_tokens or the context's end. text: without end of turn and stop string. cached: tokens of the prompt that were
    in the cache. version: of the weights (see `Engine.refresh`). timing: None where nobody took the time.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    text: str = ""
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    cached: int = 0
    version: int = 0
    timing: Timing | None = field(default=None, compare=False)


@dataclass(eq=False)
class Request:
    """What is asked of the engine: an answer, or with ``scored_from`` the log-probabilities of what is given from there
    on, or with ``pooled`` the state after it. Done once ``finish_reason`` is set.
    """

    sequence: Sequence
    sampling: Sampling
    text: AnswerText | None = None
    uniforms: list[float] = field(default_factory=list)
    constraint: Constraint | None = None
    scored_from: int | None = None
    pooled: bool = False
    stops: frozenset[int] = frozenset()
    version: int = 0

    answer: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    greedy: bool = True  # whether each scored token was the likeliest
    state: Tensor | None = None
    finish_reason: FinishReason | None = None
    began: float = field(default_factory=time.monotonic)
    came: list[float] = field(default_factory=list)  # when each token of the answer was chosen
    ended: float | None = None

    @property
    def generates(self) -> bool:
        """Whether an answer is wanted."""
        return self.scored_from is None and not self.pooled

    @property
    def overdue(self) -> bool:
        """Whether its time is over."""
        return self.sampling.timeout is not None and time.monotonic() > self.began + self.sampling.timeout

    def row(self, ahead: int = 0) -> Row:
        """What its next token is chosen by; ``ahead``: so many tokens later, where drafts were right."""
        place = len(self.answer) + ahead
        early = place < self.sampling.min_tokens
        return Row(
            self.sampling,
            self.uniforms[place] if self.uniforms else 0.0,
            self.answer,
            self.sequence.tokens[: self.sequence.prompt] if self.sampling.repetition_penalty != 1.0 else (),
            sorted(self.stops) if early else (),
            self.constraint.allowed() if self.constraint else None,
        )

    def take(self, choice: Choice) -> None:
        """Add a chosen token to the answer; sets ``finish_reason`` when it is the last."""
        self.answer.append(choice.token)
        self.came.append(time.monotonic())
        self.sequence.tokens.append(choice.token)
        if choice.logprob is not None:
            self.logprobs.append(choice.logprob)
        if self.sampling.logprobs:
            self.top_logprobs.append(choice.top)
        if self.constraint is not None:
            self.constraint.take(choice.token)
        if self.text is not None:
            self.text.feed(choice.token)
        if (
            choice.token in self.stops
            or (self.text is not None and self.text.stopped)
            or (self.constraint is not None and self.constraint.complete)
        ):
            self.finish("stop")
        elif len(self.sequence.tokens) >= self.sequence.limit:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """No more tokens come."""
        self.finish_reason = reason
        self.ended = time.monotonic()
        if self.text is not None:
            self.text.end()

    def completion(self) -> Completion:
        """What was answered so far."""
        return Completion(
            self.answer,
            self.logprobs,
            self.finish_reason or "cancelled",
            "".join(self.text.pieces) if self.text is not None else "",
            self.top_logprobs,
            self.sequence.cached,
            self.version,
            Timing(self.began, self.came, time.monotonic() if self.ended is None else self.ended),
        )

    def since(self, tokens: int, pieces: int) -> Delta:
        """What came after the first ``tokens`` tokens and ``pieces`` pieces of text."""
        return Delta(
            "" if self.text is None else "".join(self.text.pieces[pieces:]),
            self.answer[tokens:],
            self.logprobs[tokens:],
            self.top_logprobs[tokens:],
        )
