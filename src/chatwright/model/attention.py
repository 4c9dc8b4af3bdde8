"""Dense attention: PyTorch's fused kernel, and for short rows on a CPU plain products, which are faster."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Keys up to which plain products are used. Beside the fused kernel, forward and backward in bfloat16, 4,096 tokens in
# heads of 64 on two cores: 2.9 times as fast at 128 keys, 2.3 at 256, 2.1 at 512, 1.3 at 1,024. The fused kernel keeps
# no probabilities, plain products B * H * T * S of them.
SHORT = 512


def dense_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask_BTS: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, each of K key-value heads serving H / K query heads.

    mask_BTS: bool [B or 1, T, S], true where a query attends; None is causal for T > 1 (then T = S) and all for T = 1.
    """
    T, S = q_BHTE.shape[2], k_BKSE.shape[2]
    causal = mask_BTS is None and T > 1
    if dropout == 0.0 and 1 < T == S <= SHORT and q_BHTE.dtype == torch.bfloat16 and q_BHTE.device.type == "cpu":
        return _ShortAttention.apply(q_BHTE, k_BKSE, v_BKSE, _bias(mask_BTS, T, q_BHTE))
    return F.scaled_dot_product_attention(
        q_BHTE,
        k_BKSE,
        v_BKSE,
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=causal,
        dropout_p=dropout,
        enable_gqa=k_BKSE.shape[1] < q_BHTE.shape[1],
    )


def _bias(mask_BTS: Tensor | None, T: int, like: Tensor) -> Tensor:
    """0 where a query attends and -inf elsewhere, [B or 1, T, S]."""
    if mask_BTS is None:
        return torch.full((1, T, T), -math.inf, dtype=like.dtype, device=like.device).triu(1)
    return torch.zeros(mask_BTS.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask_BTS, -math.inf)


class _ShortAttention(torch.autograd.Function):
    """Batched matrix products over B * K key-value heads; the G queries that share one stand below each other."""

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, bias_BTS: Tensor) -> Tensor:
        B, H, T, E = q_BHTE.shape
        K, S = k_BKSE.shape[1:3]
        ctx.shapes = q_BHTE.shape, k_BKSE.shape
        with torch.autocast(q_BHTE.device.type, enabled=False):
            q_NRE = q_BHTE.reshape(B * K, H // K * T, E)
            k_NSE, v_NSE = k_BKSE.reshape(B * K, S, E), v_BKSE.reshape(B * K, S, E)
            if bias_BTS.shape[0] == 1:
                bias_NRS = bias_BTS.repeat(1, H // K, 1)
            else:
                bias_NRS = bias_BTS[:, None, None].expand(B, K, H // K, T, S).reshape(B * K, -1, S)
            scores_NRS = torch.baddbmm(bias_NRS, q_NRE, k_NSE.mT, alpha=1 / math.sqrt(E))
            p_NRS = torch._softmax(scores_NRS, -1, False)
            ctx.save_for_backward(q_NRE, k_NSE, v_NSE, p_NRS)
            return torch.bmm(p_NRS, v_NSE).view(q_BHTE.shape)

    @staticmethod
    def backward(ctx: Any, dy_BHTE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NRE, k_NSE, v_NSE, p_NRS = ctx.saved_tensors
        q_shape, k_shape = ctx.shapes
        dy_NRE = dy_BHTE.reshape(q_NRE.shape)
        dv_NSE = torch.bmm(p_NRS.mT, dy_NRE)
        dp_NRS = torch.bmm(dy_NRE, v_NSE.mT)
        ds_NRS = torch._softmax_backward_data(dp_NRS, p_NRS, -1, p_NRS.dtype)
        scale = 1 / math.sqrt(q_shape[-1])
        dq_NRE = torch.bmm(ds_NRS, k_NSE).mul_(scale)
        dk_NSE = torch.bmm(ds_NRS.mT, q_NRE).mul_(scale)
        return dq_NRE.view(q_shape), dk_NSE.view(k_shape), dv_NSE.view(k_shape), None
