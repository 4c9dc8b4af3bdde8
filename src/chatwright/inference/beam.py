"""Beam search, by which GPT-3's evaluation writes free answers: the best of several texts that grow side by side.

Candidates, finished texts and the end of the search are those of Hugging Face's `generate` with
``early_stopping="never"``. Of the likeliest continuations of all texts, the first ``width`` that do not end go on;
among the first ``width`` of all, those that end are finished, and the ``width`` with the best scores are kept. The
search ends when even at the best length nothing that goes on could score more than the worst of these. Texts that run
into ``max_tokens`` are finished there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chatwright.errors import UserError
from chatwright.inference import scheduler
from chatwright.inference.blocks import BLOCK
from chatwright.inference.engine import Engine
from chatwright.inference.scheduler import Work

Penalty = Callable[[int], float]  # of a length in tokens; a score is a log-probability divided by it


def gnmt(alpha: float) -> Penalty:
    """``((5 + length) / 6) ** alpha``: Wu et al. 2016, arXiv 1609.08144, eq. 14; T5's."""
    return lambda length: ((5 + length) / 6) ** alpha


def power(alpha: float) -> Penalty:
    """``length ** alpha``: Hugging Face's length_penalty."""
    return lambda length: length**alpha


WIDTH = 4  # GPT-3, arXiv 2005.14165, section 2.4
PENALTY = gnmt(0.6)  # the same


@dataclass(frozen=True)
class Beam:
    """An answer.

    tokens: the end of turn included when it was reached. logprob: the sum over them. score: logprob / penalty(length).
    finish_reason: "stop" for an end of turn, "length" at max_tokens or the context's end. text: without end of turn.
    """

    tokens: list[int]
    logprob: float
    score: float
    finish_reason: Literal["stop", "length"]
    text: str


class Continuation(NamedTuple):
    """A token after text number ``parent``. logprob: of that text's answer and the token."""

    parent: int
    token: int
    logprob: float


@torch.inference_mode()
def beam_search(
    engine: Engine,
    prompt: list[int],
    max_tokens: int,
    *,
    width: int = WIDTH,
    penalty: Penalty = PENALTY,
    answers: int = 1,
) -> list[Beam]:
    """The best ``answers`` found to a prompt, best first; fewer only where no more can be written.

    ``max_tokens`` is cut to what the context leaves. ``penalty`` must only rise or only fall. Width 1 is greedy.
    UserError for a prompt that is empty or fills the context, settings without sense, or too little memory for so many
    texts; RuntimeError while the engine has requests under way.
    """
    most = _checked(engine, prompt, max_tokens, width, answers)
    stops = engine.tokenizer.stops
    finished: list[Beam] = []
    logprobs = [0.0]
    texts = _Texts(engine, prompt, most)
    try:
        for length in range(1, most + 1):
            ranked = continuations(texts.logits(), logprobs, width * (1 + len(stops)))
            for parent, token, logprob in ranked[:width]:
                if token in stops or length == most:
                    tokens = [*texts.answer(parent), token]
                    reason: Literal["stop", "length"] = "stop" if token in stops else "length"
                    text = engine.tokenizer.decode(tokens)
                    finished.append(Beam(tokens, logprob, logprob / penalty(length), reason, text))
            finished = sorted(finished, key=lambda beam: -beam.score)[:width]
            going = [continuation for continuation in ranked if continuation.token not in stops][:width]
            if length == most or not going:
                break
            best = going[0].logprob / max(penalty(length), penalty(most))
            # Alone, the likeliest text has no rival: its end is the end, as in greedy search.
            if len(finished) == width and (width == 1 or best <= finished[-1].score):
                break
            texts.grow(going)
            logprobs = [continuation.logprob for continuation in going]
    finally:
        texts.release()
    return finished[:answers]


def continuations(logits_RV: Tensor, logprobs: Sequence[float], count: int) -> list[Continuation]:
    """The likeliest continuations of R texts with these log-probabilities, likeliest first; all where they are fewer.

    Of equally likely ones, those of the earlier text and then of the smaller id come first.

    >>> logits_RV = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    >>> [(parent, token) for parent, token, _ in continuations(logits_RV, [-0.1, -2.0], 3)]
    [(0, 0), (0, 1), (1, 0)]
    """
    sums_RV = logits_RV.log_softmax(1) + torch.tensor(logprobs, device=logits_RV.device)[:, None]
    top_C = sums_RV.flatten().topk(min(count, sums_RV.numel()))
    ranked = sorted(zip(top_C.values.tolist(), top_C.indices.tolist(), strict=True), key=lambda c: (-c[0], c[1]))
    V = logits_RV.shape[1]
    return [Continuation(place // V, place % V, logprob) for logprob, place in ranked]


def _checked(engine: Engine, prompt: list[int], max_tokens: int, width: int, answers: int) -> int:
    """The most tokens of an answer, when all is well; see `beam_search`."""
    if engine.busy:
        raise RuntimeError("a beam search was started while requests are under way; finish or cancel them first")
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; it must be at least 1.")
    if width < 1:
        raise UserError(f"width is {width}; a beam search needs at least one beam.")
    if not 1 <= answers <= width:
        raise UserError(f"answers is {answers}; it must be from 1 to the width of the search, {width}.")
    engine._check(prompt)
    most = min(max_tokens, engine.model.config.context - len(prompt))
    shared = len(prompt) // BLOCK
    last = -(-(len(prompt) + most - 1) // BLOCK)  # an answer's last token is not computed
    needed, total = shared + width * (last - shared), engine.load.blocks
    if needed > total:
        raise UserError(
            f"{width} beams of {len(prompt) + most} tokens need {needed} blocks of {BLOCK} and the engine's memory "
            f"holds {total}; ask for fewer beams or tokens, or give the engine more memory."
        )
    return most


class _Texts:
    """The unfinished texts, all of one length, in the engine's cache. Common beginnings share their full blocks."""

    def __init__(self, engine: Engine, prompt: list[int], most: int) -> None:
        self._engine, self._pool = engine, engine._pool
        self._prompt = len(prompt)
        text = engine._sequence(prompt, most)
        if engine.prefix_cache:
            text.blocks = self._pool.find([text.digest(block) for block in range((len(prompt) - 1) // BLOCK)])
            self._pool.share(text.blocks)
            text.named, text.computed = len(text.blocks), len(text.blocks) * BLOCK
        self._texts = [text]  # likeliest first

    def answer(self, index: int) -> list[int]:
        """What a text has after the prompt."""
        return self._texts[index].tokens[self._prompt :]

    def logits(self) -> Tensor:
        """Of the token after each text, float32 [R, V]; what is missing of them is computed."""
        while True:
            logits_RV = self._engine.forward([self._part(text) for text in self._texts])
            if self._texts[0].computed == len(self._texts[0].tokens):
                return logits_RV

    def grow(self, going: Sequence[Continuation]) -> None:
        """Put these continuations in the place of the texts."""
        children = Counter(continuation.parent for continuation in going)
        parents = list(self._texts)
        for index, text in enumerate(parents):
            if index not in children:  # first, so that there is room for copies
                self._drop(text)
        grown = []
        for parent, token, _ in going:
            children[parent] -= 1
            text = self._fork(parents[parent]) if children[parent] else parents[parent]
            grown.append((text, token))
        for text, token in grown:
            text.tokens.append(token)
        self._texts = [text for text, _ in grown]

    def release(self) -> None:
        """Give all blocks back."""
        for text in list(self._texts):
            self._drop(text)

    def _part(self, text: scheduler.Sequence) -> Work:
        """The next tokens to compute of a text, which gets blocks for them."""
        count = min(len(text.tokens) - text.computed, self._engine._scheduler.budget)
        while len(text.blocks) * BLOCK < text.computed + count:
            text.blocks.append(self._pool.take())
        return Work(text, text.computed, count)

    def _fork(self, text: scheduler.Sequence) -> scheduler.Sequence:
        """The same text once more, with a last block of its own where that is not full."""
        full = text.computed // BLOCK
        copy = scheduler.Sequence(list(text.tokens), text.limit, text.reusable, computed=text.computed)
        self._texts.append(copy)
        self._pool.share(text.blocks[:full])
        copy.blocks, copy.named = text.blocks[:full], full
        if full < len(text.blocks):
            copy.blocks.append(self._pool.take())
            self._engine._cache.copy(text.blocks[full], copy.blocks[full])
        return copy

    def _drop(self, text: scheduler.Sequence) -> None:
        self._texts.remove(text)
        self._pool.release(text.blocks)
