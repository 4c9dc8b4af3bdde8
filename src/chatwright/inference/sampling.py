"""Choosing the next token: penalties, filters and inverse-CDF sampling as pure functions over rows of logits.

A row carries its own settings and its own uniform number, so that what one request draws never depends on the others.
Axes: R rows, V vocabulary, C candidates, likeliest first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chatwright.errors import UserError

MOST_LOGPROBS = 20  # OpenAI's limit
FIRST_CANDIDATES = 256  # of the vocabulary: a filter seldom keeps more, and finding them is cheaper than sorting all


@dataclass(frozen=True)
class Sampling:
    """How to answer one prompt.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 keep every token. Filters come in Hugging Face's order: top-k,
    then top-p of what is left, then min-p, the share of the likeliest token's probability that a token needs.
    repetition_penalty: divides positive and multiplies negative logits of tokens in prompt and answer (CTRL, arXiv
    1909.05858). presence_penalty, frequency_penalty: taken off the logits of tokens of the answer, once and for each
    time (OpenAI). logit_bias: added to tokens' logits. stop: strings before which the text ends. min_tokens: before so
    many, the answer cannot end by itself. logprobs: None for none, 0 for those of the chosen tokens, k for the k
    likeliest too. schema: a JSON schema that the answer follows, {} for any JSON object. timeout: seconds.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    logprobs: int | None = 0
    schema: Mapping[str, Any] | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """UserError when a value makes no sense."""
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (no limit) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; it must be from 0 to 1.")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; it must be a positive number.")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number.")
        for token, bias in self.logit_bias.items():
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise UserError(f"logit_bias gives token {token} a bias of {bias}; it takes ids and finite numbers.")
        if "" in self.stop:
            raise UserError("stop has an empty string, before which every answer would end at once; leave it out.")
        if self.min_tokens < 0:
            raise UserError(f"min_tokens is {self.min_tokens}; it must not be negative.")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise UserError(f"logprobs is {self.logprobs}; it must be from 0 to {MOST_LOGPROBS}.")
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"timeout is {self.timeout}; it must be a positive number of seconds.")

    def uniforms(self, count: int) -> Tensor:
        """The first ``count`` numbers in [0, 1) of this seed, float32: one a token."""
        key = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(key)
        return torch.rand(self.max_tokens, generator=generator)[:count]

    @property
    def filtered(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def edits(self) -> bool:
        """Whether logits are changed by what was said, or by the request."""
        return bool(
            self.repetition_penalty != 1.0 or self.presence_penalty or self.frequency_penalty or self.logit_bias
        )


@dataclass(frozen=True)
class Row:
    """A row of logits to choose from. uniform: in [0, 1). answer, prompt: ids so far. banned, allowed: ids, or None."""

    sampling: Sampling
    uniform: float
    answer: Sequence[int] = ()
    prompt: Sequence[int] = ()
    banned: Sequence[int] = ()
    allowed_V: Tensor | None = None

    @property
    def edits(self) -> bool:
        """Whether its logits are not the model's own."""
        return self.sampling.edits or bool(self.banned) or self.allowed_V is not None


@dataclass(frozen=True)
class Choice:
    """What was chosen for a row. logprob: the model's own at the sampling temperature (greedy: at 1), before any edit
    or filter; None when not asked for. top: the likeliest ids with theirs.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


def choose(logits_RV: Tensor, rows: Sequence[Row]) -> list[Choice]:
    """A token for each row. Logits are float32 and are changed in place."""
    device = logits_RV.device
    temperatures = [row.sampling.temperature or 1.0 for row in rows]
    if any(t != 1.0 for t in temperatures):
        logits_RV /= torch.tensor(temperatures, device=device)[:, None]
    heard = [r for r, row in enumerate(rows) if row.sampling.logprobs is not None]
    logprobs_HV = _rows(logits_RV, heard).log_softmax(1)
    for r, row in enumerate(rows):
        if row.edits:
            edit(logits_RV[r], row)
    tokens_R = torch.empty(len(rows), dtype=torch.long, device=device)
    for kind, drawn in ((_is_greedy, _likeliest), (_is_plain, _draw_any), (_is_filtered, _draw_filtered)):
        chosen = [r for r, row in enumerate(rows) if kind(row)]
        if chosen:
            tokens_N = drawn(_rows(logits_RV, chosen), [rows[r] for r in chosen])
            if len(chosen) == len(rows):
                tokens_R = tokens_N
            else:
                tokens_R[torch.tensor(chosen, device=device)] = tokens_N
    tokens = tokens_R.tolist()
    logprobs: dict[int, float] = {}
    tops: dict[int, tuple[tuple[int, float], ...]] = {}
    if heard:
        chosen_H = logprobs_HV.gather(1, _rows(tokens_R, heard)[:, None]).squeeze(1)
        logprobs = dict(zip(heard, chosen_H.tolist(), strict=True))
        for h, r in enumerate(heard):
            if k := rows[r].sampling.logprobs:
                values, ids = logprobs_HV[h].topk(min(k, logprobs_HV.shape[1]))
                tops[r] = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return [Choice(token, logprobs.get(r), tops.get(r, ())) for r, token in enumerate(tokens)]


def edit(logits_V: Tensor, row: Row) -> None:
    """Apply a row's bias and penalties, which are of logits at temperature 1, and hide what it must not choose."""
    sampling, scale = row.sampling, row.sampling.temperature or 1.0
    size, device = logits_V.shape[0], logits_V.device
    if sampling.logit_bias:
        ids = [token for token in sampling.logit_bias if token < size]
        biases = [sampling.logit_bias[token] / scale for token in ids]
        logits_V[torch.tensor(ids, dtype=torch.long, device=device)] += torch.tensor(biases, device=device)
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*row.prompt, *row.answer}), dtype=torch.long, device=device)
        seen = seen[seen < size]
        values = logits_V[seen]
        factor = sampling.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / factor, values * factor)
    if row.answer and (sampling.presence_penalty or sampling.frequency_penalty):
        ids_N, counts_N = torch.tensor(row.answer, device=device).unique(return_counts=True)
        logits_V[ids_N] -= (sampling.presence_penalty + sampling.frequency_penalty * counts_N) / scale
    if row.banned:
        logits_V[torch.tensor(row.banned, dtype=torch.long, device=device)] = -math.inf
    if row.allowed_V is not None:
        logits_V.masked_fill_(~row.allowed_V[:size].to(device), -math.inf)


def draw(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One column a row from softmax(logits): the first whose cumulative probability exceeds the uniform number."""
    cdf_RV = logits_RV.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    # A float32 uniform is at most 1 - 2^-24: the threshold stays below the total, no token of probability 0 is drawn.
    threshold_R1 = uniform_R[:, None].double() * cdf_RV[:, -1:]
    return torch.searchsorted(cdf_RV, threshold_R1, right=True).squeeze(1)


def candidates(logits_RV: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """The tokens that a row's filters keep: ``(logits_RC, ids_RC)``, likeliest first, -inf where a row keeps fewer.

    Tokens as likely as the last that top-k keeps stay, too. Of equally likely ones the smaller id comes first.

    >>> kept, ids = candidates(torch.tensor([[1.0, 3.0, 2.0]]), [Sampling(top_k=2)])
    >>> kept.tolist(), ids.tolist()
    ([[3.0, 2.0, -inf]], [[1, 2, 0]])
    """
    device, size = logits_RV.device, logits_RV.shape[1]
    k_R1 = torch.tensor([s.top_k or size for s in samplings], device=device).clamp_max(size)[:, None]
    top_p_R1 = torch.tensor([s.top_p for s in samplings], dtype=torch.float64, device=device)[:, None]
    min_p_R1 = torch.tensor([s.min_p for s in samplings], dtype=torch.float64, device=device)[:, None]
    limited_R1 = k_R1 < size
    most = max((s.top_k for s in samplings), default=0)
    count = min(max(FIRST_CANDIDATES, most + 1), size)
    lse_R1 = None
    while True:
        values_RC, ids_RC = logits_RV.topk(count, dim=1)
        by_id_RC = ids_RC.argsort(dim=1)
        values_RC, ids_RC = values_RC.gather(1, by_id_RC), ids_RC.gather(1, by_id_RC)
        values_RC, order_RC = values_RC.sort(dim=1, descending=True, stable=True)
        ids_RC = ids_RC.gather(1, order_RC)
        smallest_R1 = values_RC.gather(1, (k_R1 - 1).clamp_max(count - 1))
        in_k_RC = ~limited_R1 | (values_RC >= smallest_R1)
        kept_RC = values_RC.double().masked_fill(~in_k_RC, -math.inf)
        if lse_R1 is None and not bool(limited_R1.all()):
            lse_R1 = logits_RV.double().logsumexp(1, keepdim=True)
        whole_R1 = kept_RC.logsumexp(1, keepdim=True)
        if lse_R1 is not None:
            whole_R1 = torch.where(limited_R1, whole_R1, lse_R1)
        probs_RC = (kept_RC - whole_R1).exp()
        before_RC = probs_RC.cumsum(1) - probs_RC  # mass of the likelier tokens
        dropped_RC = ~in_k_RC | ((before_RC >= top_p_R1) & (top_p_R1 < 1)) | (probs_RC < min_p_R1 * probs_RC[:, :1])
        dropped_RC[:, 0] = False
        # Complete once the least likely candidate of every row is dropped, for good.
        beyond_R = torch.where(limited_R1[:, 0], ~in_k_RC[:, -1], dropped_RC[:, -1])
        if count == size or bool(beyond_R.all()):
            return values_RC.masked_fill(dropped_RC, -math.inf), ids_RC
        count = min(size, 16 * count)


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows; no copy where they are all."""
    if len(rows) == len(values):
        return values
    return values[torch.tensor(rows, dtype=torch.long, device=values.device)]


def _is_greedy(row: Row) -> bool:
    return row.sampling.temperature == 0


def _is_plain(row: Row) -> bool:
    return row.sampling.temperature > 0 and not row.sampling.filtered


def _is_filtered(row: Row) -> bool:
    return row.sampling.temperature > 0 and row.sampling.filtered


def _likeliest(logits_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    return logits_NV.argmax(1)


def _draw_any(logits_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    return draw(logits_NV, torch.tensor([row.uniform for row in rows], device=logits_NV.device))


def _draw_filtered(logits_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    logits_NC, ids_NC = candidates(logits_NV, [row.sampling for row in rows])
    columns_N = draw(logits_NC, torch.tensor([row.uniform for row in rows], device=logits_NV.device))
    return ids_NC.gather(1, columns_N[:, None]).squeeze(1)
