"""A small engine: left-padded batches over a key-value cache, rows dropped as they finish, text streamed to one reader.

The result of a request depends on its own prompt, settings and seed; its neighbours in a batch can change logits by
rounding only. Log-probabilities are those of the model at the sampling temperature (greedy: at 1), before top-k and
top-p. Ids that the tokenizer does not have (a vocabulary rounded up) are never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chatwright.errors import UserError
from chatwright.inference.prompts import fit
from chatwright.inference.sampling import Sampling, draw, keep_top_k, keep_top_p, scale
from chatwright.model.decoder import Cache, Decoder
from chatwright.model.masks import positions_from_valid, valid_mask
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer

_SCORED_TOKENS = 8192  # of a batch of `Engine.logprobs`: bounds the memory of its logits


@dataclass(frozen=True)
class Completion:
    """An answer: its tokens, the end of turn included when it was reached ("stop"), and the log-probability of each."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine:
    """Answers prompts with a model. It changes neither the model's weights nor its mode."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    def generate(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[Completion]:
        """Answer each prompt, in the order given. ``max_tokens`` is cut to what the context leaves.

        UserError for a prompt that is empty or fills the context.
        """
        assert len(prompts) == len(samplings)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # less padding
        completions: dict[int, Completion] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = _Batch(self.model, self.tokenizer, [prompts[i] for i in rows], [samplings[i] for i in rows])
            while batch.active:
                batch.step()
            completions.update(zip(rows, batch.completions(), strict=True))
        return [completions[i] for i in range(len(prompts))]

    def stream(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[str, None, Completion]:
        """Yield the answer in pieces of whole characters; the generator's return value is the completion.

        ``stopped`` is asked before every token. Joined, the pieces are the decoded answer.
        """
        batch = _Batch(self.model, self.tokenizer, [prompt], [sampling])
        text = self.tokenizer.stream()
        while batch.active and not stopped():
            if piece := text.feed(int(batch.step())):
                yield piece
        if rest := text.rest():
            yield rest
        return batch.completions()[0]

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> str:
        """The answer to a conversation, as text; its oldest turns are dropped if it is too long."""
        return self.chat_batch([messages], sampling)[0]

    def chat_batch(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[str]:
        """`chat` for each conversation, all with the same settings and seed."""
        prompts = [self.prompt(messages, sampling.max_tokens) for messages in conversations]
        return [self.tokenizer.decode(c.tokens) for c in self.generate(prompts, [sampling] * len(prompts))]

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        """The prompt that asks for the next answer; oldest turns that leave it no room are dropped (see `fit`)."""
        return fit(messages, self.tokenizer, self.model.config.context, max_tokens).ids

    def logprobs(self, sequences: Sequence[list[int]], temperature: float = 1.0) -> list[Tensor]:
        """Log-probability of every token but the first given those before it: float32 [len - 1] a sequence."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]), reverse=True)
        results: dict[int, Tensor] = {}
        while order:
            longest = max(1, len(sequences[order[0]]))
            rows, order = order[: max(1, _SCORED_TOKENS // longest)], order[max(1, _SCORED_TOKENS // longest) :]
            logprobs_BT = self._logprobs([sequences[i] for i in rows], temperature)
            for i, row_T in zip(rows, logprobs_BT, strict=True):
                # A clone made outside inference mode is an ordinary tensor, which autograd may save.
                results[i] = row_T[: max(0, len(sequences[i]) - 1)].clone()
        return [results[i] for i in range(len(sequences))]

    def _logprobs(self, sequences: Sequence[list[int]], temperature: float) -> Tensor:
        device = self.model.embedding.weight.device
        tokens_BT = torch.full((len(sequences), max(map(len, sequences))), self.tokenizer.pad, device=device)
        for row, sequence in enumerate(sequences):  # padded on the right, where causal attention never looks
            tokens_BT[row, : len(sequence)] = torch.tensor(sequence, device=device)
        with _inference(self.model):
            logits_BTV = self.model(tokens_BT[:, :-1])[..., : self.tokenizer.vocab_size].float() / temperature
            chosen_BT = logits_BTV.gather(2, tokens_BT[:, 1:, None]).squeeze(2)
            return chosen_BT - logits_BTV.logsumexp(2)


class _Batch:
    """Prompts being answered together. Axes: B all rows, A those still in the cache (``rows_A``), N tokens answered."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, prompts: Sequence[list[int]], samplings: Sequence[Sampling]
    ) -> None:
        context = model.config.context
        for prompt in prompts:
            if not prompt:
                raise UserError("The prompt is empty; give it at least one token.")
            if len(prompt) >= context:
                raise UserError(
                    f"The prompt is {len(prompt)} tokens long and the model's context is {context}; please shorten it."
                )
        self.model = model
        self.stops = tokenizer.stops
        self.stops_S = torch.tensor(sorted(tokenizer.stops))
        self.vocab_size = tokenizer.vocab_size
        device = model.embedding.weight.device
        limits = [min(s.max_tokens, context - len(p)) for p, s in zip(prompts, samplings, strict=True)]
        longest, most = max(map(len, prompts)), max(limits)
        B = len(prompts)

        self.tokens_BN = torch.zeros(B, most, dtype=torch.long)
        self.logprobs_BN = torch.zeros(B, most)
        self.lengths_B = torch.zeros(B, dtype=torch.long)
        self.steps = 0

        self.rows_A = torch.arange(B)
        self.done_A = torch.zeros(B, dtype=torch.bool)
        self.limits_A = torch.tensor(limits)
        self.temperature_A = torch.tensor([s.temperature for s in samplings], device=device)
        self.top_k_A = torch.tensor([s.top_k for s in samplings], device=device)
        self.top_p_A = torch.tensor([s.top_p for s in samplings], device=device, dtype=torch.float64)
        self.uniforms_AN = torch.zeros(B, most)
        next_BT = torch.full((B, longest), tokenizer.pad)
        self.valid_AS = torch.zeros(B, longest + most, dtype=torch.bool)
        self.valid_AS[:, longest:] = True
        for row, (prompt, sampling, limit) in enumerate(zip(prompts, samplings, limits, strict=True)):
            self.uniforms_AN[row, :limit] = sampling.uniforms(limit)
            next_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
            self.valid_AS[row, longest - len(prompt) : longest] = True
        self.padded = min(map(len, prompts)) < longest
        self.valid_AS, self.uniforms_AN = self.valid_AS.to(device), self.uniforms_AN.to(device)
        self.positions_AS = positions_from_valid(self.valid_AS).clamp_max(context - 1)  # of rows that are done
        self.next_AT = next_BT.to(device)
        with _inference(model):
            self.cache = Cache(model.config, B, longest + most, model.embedding.weight.dtype, device)

    @property
    def active(self) -> int:
        """Number of rows that still need tokens."""
        return int((~self.done_A).sum())

    def step(self) -> Tensor:
        """Choose one more token for every row, [A]; rows that are done choose too, and are not heard."""
        with _inference(self.model):
            logits_AV = self._next_logits()
            tokens_A, logprobs_A = self._choose(logits_AV)
        self.next_AT = tokens_A[:, None]
        tokens_A, logprobs_A = tokens_A.cpu(), logprobs_A.cpu()
        self.tokens_BN[self.rows_A, self.steps] = tokens_A
        self.logprobs_BN[self.rows_A, self.steps] = logprobs_A
        self.steps += 1
        self.lengths_B[self.rows_A[~self.done_A]] = self.steps
        self.done_A |= torch.isin(tokens_A, self.stops_S) | (self.limits_A == self.steps)
        if 0 < self.active <= 0.75 * len(self.rows_A):  # copying the cache pays only for several rows at once
            self._drop_done_rows()
        return tokens_A

    def completions(self) -> list[Completion]:
        """What was answered so far, by row."""
        finished = []
        for tokens_N, logprobs_N, length in zip(
            self.tokens_BN.tolist(), self.logprobs_BN.tolist(), self.lengths_B.tolist(), strict=True
        ):
            tokens = tokens_N[:length]
            reason: Literal["stop", "length"] = "stop" if tokens and tokens[-1] in self.stops else "length"
            finished.append(Completion(tokens, logprobs_N[:length], reason))
        return finished

    def _next_logits(self) -> Tensor:
        start, end = self.cache.length, self.cache.length + self.next_AT.shape[1]
        mask = None
        if self.padded:
            mask = self.valid_AS[:, None, :end] if start else valid_mask(self.valid_AS[:, :end])
        hidden_ATD = self.model.hidden(
            self.next_AT, positions_BT=self.positions_AS[:, start:end], mask_BTS=mask, cache=self.cache
        )
        return self.model.logits(hidden_ATD[:, -1])[:, : self.vocab_size].float()

    def _choose(self, logits_AV: Tensor) -> tuple[Tensor, Tensor]:
        scaled_AV = scale(logits_AV, self.temperature_A)
        greedy_A = self.temperature_A == 0
        if greedy_A.all():
            tokens_A = scaled_AV.argmax(1)
        else:
            kept_AV = keep_top_k(scaled_AV, self.top_k_A) if self.top_k_A.any() else scaled_AV
            kept_AV = keep_top_p(kept_AV, self.top_p_A) if (self.top_p_A < 1).any() else kept_AV
            tokens_A = draw(kept_AV, self.uniforms_AN[:, self.steps])
            if greedy_A.any():
                tokens_A = torch.where(greedy_A, scaled_AV.argmax(1), tokens_A)
        chosen_A = scaled_AV.gather(1, tokens_A[:, None]).squeeze(1)
        return tokens_A, chosen_A - scaled_AV.logsumexp(1)

    def _drop_done_rows(self) -> None:
        keep_A = (~self.done_A).nonzero().squeeze(1)
        self.rows_A, self.done_A, self.limits_A = self.rows_A[keep_A], self.done_A[keep_A], self.limits_A[keep_A]
        keep_A = keep_A.to(self.next_AT.device)
        self.temperature_A, self.top_k_A = self.temperature_A[keep_A], self.top_k_A[keep_A]
        self.top_p_A, self.uniforms_AN = self.top_p_A[keep_A], self.uniforms_AN[keep_A]
        self.valid_AS, self.positions_AS = self.valid_AS[keep_A], self.positions_AS[keep_A]
        self.next_AT = self.next_AT[keep_A]
        with _inference(self.model):
            self.cache.select(keep_A)


@contextmanager
def _inference(model: Decoder) -> Iterator[None]:
    """No autograd and no dropout inside; the model's mode is as before outside."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
