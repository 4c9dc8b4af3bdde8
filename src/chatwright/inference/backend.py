"""What an engine must do for rollouts and evaluation, whoever computes: `Engine`, or vLLM by `VllmBackend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chatwright.inference.engine import Engine, Scored
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.inference.vllm import VllmBackend
from chatwright.tokenizer.bpe import Tokenizer


class EngineBackend(Protocol):
    """Answers and scores many texts at once. Prompts, answers and continuations are ids of ``tokenizer``."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer."""

    @property
    def version(self) -> int:
        """Of the weights: how often `refresh` was called. A completion says of which version it is."""

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[Completion]:
        """Answer each prompt, in the order given. UserError for a prompt that is empty or fills the context."""

    def score(self, prompt: list[int], continuations: Sequence[list[int]]) -> list[Scored]:
        """Log-probabilities of each continuation of a prompt, at temperature 1. UserError when one is too long."""

    def refresh(self) -> None:
        """Take up the weights again from where they came, a model or a folder, after they were changed there."""


BACKENDS: tuple[type[EngineBackend], ...] = (Engine, VllmBackend)  # mypy checks that they are
