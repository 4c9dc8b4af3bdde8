"""Linear maps. PyTorch's write the bias into every row of the result before a product in bfloat16 on a CPU: a tenth."""

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
            self.bias is not None
            and x.dtype == torch.bfloat16
            and x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and torch.backends.mkldnn.is_available()
            and native.eager(x, self.weight, self.bias)
        ):
            return _Linear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """oneDNN adds the bias within the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        x_NI, low_OI = x.reshape(-1, x.shape[-1]), weight_OI.to(x.dtype)
        ctx.save_for_backward(x_NI, low_OI)
        ctx.dtypes = weight_OI.dtype, bias_O.dtype
        y_NO = torch.ops.mkldnn._linear_pointwise(x_NI, low_OI, bias_O.to(x.dtype), "none", [], "")
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_NI, low_OI = ctx.saved_tensors
        dy_NO = dy.reshape(-1, dy.shape[-1])
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dx = (dy_NO @ low_OI).view(*dy.shape[:-1], -1) if of_x else None
        dweight_OI = (dy_NO.T @ x_NI).to(ctx.dtypes[0]) if of_weight else None
        return dx, dweight_OI, dy_NO.sum(0).to(ctx.dtypes[1]) if of_bias else None
