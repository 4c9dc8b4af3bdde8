"""Choosing the next token: temperature, top-k and top-p as pure functions over logits, and inverse-CDF sampling.

A row of a batch carries its own settings and its own uniform numbers, so that what one request draws never depends on
its neighbours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from chatwright.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How to answer one prompt. temperature 0 is greedy; top_k 0 and top_p 1 keep every token."""

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """UserError when a value makes no sense."""
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (no limit) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")

    def uniforms(self, count: int) -> Tensor:
        """The first ``count`` numbers in [0, 1) of this seed, float32: one a token."""
        key = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(key)
        return torch.rand(self.max_tokens, generator=generator)[:count]


def scale(logits_BV: Tensor, temperature_B: Tensor) -> Tensor:
    """Logits at each row's temperature; a greedy row (temperature 0) stays at temperature 1."""
    return logits_BV / torch.where(temperature_B == 0, 1.0, temperature_B)[:, None]


def keep_top_k(logits_BV: Tensor, top_k_B: Tensor) -> Tensor:
    """Logits with all but each row's ``top_k`` largest at -inf; 0 keeps all. Ties with the smallest kept stay.

    >>> keep_top_k(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2])).tolist()
    [[-inf, 3.0, 2.0]]
    """
    vocab_size = logits_BV.shape[1]
    k_B = torch.where(top_k_B == 0, vocab_size, top_k_B).clamp_max(vocab_size)
    largest_BK = logits_BV.topk(int(k_B.max()), dim=1).values
    smallest_kept_B1 = largest_BK.gather(1, k_B[:, None] - 1)
    return logits_BV.masked_fill(logits_BV < smallest_kept_B1, -torch.inf)


def keep_top_p(logits_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Logits with only each row's nucleus: the fewest most likely tokens that together reach ``top_p``; 1 keeps all.

    >>> keep_top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([0.6])).isfinite().tolist()
    [[True, True, False]]
    """
    sorted_BV, order_BV = logits_BV.sort(dim=1, descending=True, stable=True)
    probs_BV = sorted_BV.softmax(dim=1, dtype=torch.float64)
    before_BV = probs_BV.cumsum(dim=1) - probs_BV  # mass of the more likely tokens
    dropped_BV = (before_BV >= top_p_B[:, None]) & (top_p_B[:, None] < 1)
    dropped_BV[:, 0] = False
    return logits_BV.masked_fill(torch.zeros_like(dropped_BV).scatter_(1, order_BV, dropped_BV), -torch.inf)


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token a row from softmax(logits): the first whose cumulative probability exceeds the row's uniform number."""
    cdf_BV = logits_BV.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    # A float32 uniform is at most 1 - 2^-24: the threshold stays below the total, no token of probability 0 is drawn.
    threshold_B1 = uniform_B[:, None].double() * cdf_BV[:, -1:]
    return torch.searchsorted(cdf_BV, threshold_B1, right=True).squeeze(1)
