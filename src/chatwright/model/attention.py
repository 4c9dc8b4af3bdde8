"""Dense attention: PyTorch's fused kernel; for short rows on a CPU, where it is slow, ours or products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright import native

# Keys up to which ours is used. Forward and backward in bfloat16, 4,096 tokens in 4 heads of 64 on two cores, fused /
# plain products / our kernel: 26 / 6.6 / 2.6 ms at 64 keys, 38 / 9.3 / 3.9 at 96, 31 / 17 / 6.5 at 256 and 72 / 35 / 15
# at 512. The fused kernel keeps no probabilities, the others B * H * T * S of them.
SHORT = 512


def dense_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask_BTS: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, each of K key-value heads serving H / K query heads.

    mask_BTS: bool [B or 1, T, S], true where a query attends; None is causal for T > 1 (then T = S) and all for T = 1.
    """
    T, S = q_BHTE.shape[2], k_BKSE.shape[2]
    if 1 < T == S and _is_short(q_BHTE, T, dropout):
        if _is_fast(q_BHTE):
            parts = (x.transpose(1, 2) for x in (q_BHTE, k_BKSE, v_BKSE))
            return _FastAttention.apply((q_BHTE.shape[1], k_BKSE.shape[1]), mask_BTS, *parts).transpose(1, 2)
        return _ShortAttention.apply(q_BHTE, k_BKSE, v_BKSE, _bias(mask_BTS, T, q_BHTE))
    return F.scaled_dot_product_attention(
        q_BHTE,
        k_BKSE,
        v_BKSE,
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=mask_BTS is None and T > 1,
        dropout_p=dropout,
        enable_gqa=k_BKSE.shape[1] < q_BHTE.shape[1],
    )


def self_attention(
    parts_BTNE: Sequence[Tensor], heads: int, kv_heads: int, mask_BTT: Tensor | None, dropout: float
) -> Tensor:
    """`dense_attention` of rows to themselves, [B, T, H, E], of queries, keys and values as they are made.

    parts_BTNE: queries, keys and values beside each other on the axis of the heads, cut into tensors somewhere.
    """
    T = parts_BTNE[0].shape[1]
    if T > 1 and _is_short(parts_BTNE[0], T, dropout) and _is_fast(parts_BTNE[0]):
        return _FastAttention.apply((heads, kv_heads), mask_BTT, *parts_BTNE)
    q_BHTE, k_BKTE, v_BKTE = (x.transpose(1, 2) for x in maps_of(parts_BTNE, heads, kv_heads))
    return dense_attention(q_BHTE, k_BKTE, v_BKTE, mask_BTT, dropout).transpose(1, 2)


def _is_short(x: Tensor, T: int, dropout: float) -> bool:
    return dropout == 0.0 and T <= SHORT and x.dtype == torch.bfloat16 and x.device.type == "cpu"


def _is_fast(x: Tensor) -> bool:
    return native.eager(x) and native.fast_short(x.shape[-1])


def maps_of(parts_BTNE: Sequence[Tensor], heads: int, kv_heads: int) -> list[Tensor]:
    """Queries, keys and values as views of the parts."""
    views: list[Tensor] = []
    for part_BTNE in parts_BTNE:
        left = part_BTNE
        while left.shape[2]:
            count = heads if not views else kv_heads
            views.append(left[:, :, :count])
            left = left[:, :, count:]
    assert len(views) == 3
    return views


class _FastAttention(torch.autograd.Function):
    """By our own kernel: the gradients have the parts' layout, so that nothing is copied together."""

    @staticmethod
    def forward(ctx: Any, heads: tuple[int, int], mask_BTT: Tensor | None, *parts_BTNE: Tensor) -> Tensor:
        parts_BTNE = tuple(part if part.stride(3) == 1 else part.contiguous() for part in parts_BTNE)
        mask_BTT = None if mask_BTT is None else mask_BTT.contiguous()
        q_BTHE, k_BTKE, v_BTKE = maps_of(parts_BTNE, *heads)
        y_BTHE, kept = native.attend_short(q_BTHE, k_BTKE, v_BTKE, mask_BTT, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(mask_BTT, kept, *parts_BTNE)
        ctx.heads = heads
        return y_BTHE

    @staticmethod
    def backward(ctx: Any, dy_BTHE: Tensor) -> tuple[Tensor | None, ...]:
        mask_BTT, kept, *parts_BTNE = ctx.saved_tensors
        dy_BTHE = dy_BTHE if dy_BTHE.stride(3) == 1 else dy_BTHE.contiguous()
        gradients = [part.new_empty(part.shape) for part in parts_BTNE]
        views = maps_of(gradients, *ctx.heads)
        native.attend_short_back(maps_of(parts_BTNE, *ctx.heads), mask_BTT, kept, dy_BTHE, views)
        return None, None, *gradients


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
