"""What the MLP does between its matrices: GELU in its tanh form, or SwiGLU's silu(gate) * up."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright import native


def activate(x: Tensor, *, gated: bool) -> Tensor:
    """GELU (tanh form) of ``x``; with ``gated`` silu(gate) * up of a last axis that holds both, the gate first.

    In bfloat16 on a CPU by kernels of our own, in float32 between; PyTorch's take three to five times as long.
    """
    if x.dtype == torch.bfloat16 and type(x) is Tensor and not torch.compiler.is_compiling() and native.usable(x):
        return _Activation.apply(x, gated)
    if not gated:
        return F.gelu(x, approximate="tanh")
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gated: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.gated = gated
        return native.activate(x, gated=gated)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return native.activate_back(x, dy.contiguous(), gated=ctx.gated), None
