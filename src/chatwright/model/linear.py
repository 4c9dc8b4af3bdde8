"""Linear maps. In bfloat16 on a CPU PyTorch's cast the weight, write the bias into every row and then multiply; here
the first two are done within the product, and no copy of the weight is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatwright import native


class Linear(nn.Linear):
    """x weight^T + bias, as `nn.Linear` has it."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and torch.backends.mkldnn.is_available()
            and native.eager(x, self.weight)
        ):
            return _Linear.apply(x.to(torch.bfloat16), self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1]).contiguous()
        ctx.save_for_backward(x_NI, weight_OI)
        if native.fast_products(16, weight_OI.shape[1]):
            y_NO = native.product(x_NI, weight_OI, bias_O)
        else:
            low_OI, low_O = weight_OI.to(x.dtype), None if bias_O is None else bias_O.to(x.dtype)
            y_NO = torch.ops.mkldnn._linear_pointwise(x_NI, low_OI, low_O, "none", [], "")
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        dy_NO = dy.reshape(-1, dy.shape[-1]).contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dx_NI = None
        if of_x and native.fast_products(16, weight_OI.shape[0]):
            dx_NI = native.product(dy_NO, weight_OI, transposed=True)
        elif of_x:
            dx_NI = dy_NO @ weight_OI.to(dy.dtype)
        return (
            None if dx_NI is None else dx_NI.view(*dy.shape[:-1], -1),
            (dy_NO.T @ x_NI).float() if of_weight else None,
            dy_NO.sum(0).float() if of_bias else None,
        )
