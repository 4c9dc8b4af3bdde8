"""Norms with backward passes of their own: on a CPU PyTorch's take about three times as long."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatwright import native


class LayerNorm(nn.LayerNorm):
    """(x - mean) / deviation * weight + bias over the last axis; bfloat16 on a CPU by kernels of our own."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.dtype == torch.bfloat16
            and self.weight.dtype == self.bias.dtype == torch.float32
            and native.eager(x, self.weight)
            and native.usable(x)
        ):
            return _LayerNorm.apply(x, self.weight, self.bias, self.eps)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, kept = native.layer_norm(x, weight_D, bias_D, eps)
        ctx.save_for_backward(x, weight_D, kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight_D, kept = ctx.saved_tensors
        return *native.layer_norm_back(x, weight_D, kept, dy.contiguous()), None


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467).

    Computed in float32 at least; the result has the weight's type.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (unit_rms(x, self.eps) * self.weight).to(self.weight.dtype)


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, at least float32.

    >>> unit_rms(torch.tensor([3.0, 4.0, 0.0, 0.0]), 0.0).tolist()
    [1.2000000476837158, 1.600000023841858, 0.0, 0.0]
    """
    return _UnitRms.apply(x, eps)


class _UnitRms(torch.autograd.Function):
    """With y = x r, r = 1/sqrt(mean(x^2) + eps): dx = r (dy - y mean(dy y))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
        inverse = (norm.square() / x.shape[-1] + eps).rsqrt()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        mean = (dy * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(dy, y, mean, value=-1).mul_(inverse), None
