"""GPT-3's sparse attention: a local band and a stride, at a cost that grows as n * (stride + n / stride).

The pattern (Child 2019, Sparse Transformers, arXiv 1904.10509): token t attends to the tokens at distances 0 to
``stride`` and at every multiple of ``stride``. It falls into two parts that share no key: distances below the stride,
in blocks of that many tokens, and the multiples, which are plain causal attention once tokens are sorted by their
remainder. Each part is one fused call on a CPU, and the log-sum-exps of their scores say how to weigh the two results.

Axes as in `chatwright.model.decoder`, and N blocks of L = stride tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -1e30  # finite, so that a part in which a token sees nothing weighs 0 and not NaN

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def sparse_pattern(queries: int, keys: int, stride: int, device: torch.device | str | None = None) -> Tensor:
    """Bool [1, T, S], true where the last ``queries`` of ``keys`` tokens may attend.

    >>> sparse_pattern(1, 8, 3)[0, 0].int().tolist()
    [0, 1, 0, 0, 1, 1, 1, 1]
    """
    index_S = torch.arange(keys, device=device)
    distance_TS = index_S[keys - queries :, None] - index_S
    return ((distance_TS >= 0) & ((distance_TS <= stride) | (distance_TS % stride == 0)))[None]


def sparse_attention(
    q_BHTE: Tensor,
    k_BKSE: Tensor,
    v_BKSE: Tensor,
    stride: int,
    mask_BTS: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention over the pattern, [B, H, T, E]; the queries are the last T of S tokens.

    mask_BTS: bool [B or 1, T, S], true where a token may attend besides; every token sees itself in it. H is a multiple
    of K, as in grouped-query attention. dropout: probability, on the attention weights.
    """
    groups = q_BHTE.shape[1] // k_BKSE.shape[1]
    if groups > 1:
        k_BKSE, v_BKSE = (x.repeat_interleave(groups, dim=1) for x in (k_BKSE, v_BKSE))
    T, S = q_BHTE.shape[2], k_BKSE.shape[2]
    if T < S:
        return _after_cache(q_BHTE, k_BKSE, v_BKSE, stride, mask_BTS, dropout)
    blocks = -(-T // stride)
    padding = (0, 0, 0, blocks * stride - T)
    if padding[3]:  # what is added comes after all others, where causality hides it
        q_BHTE, k_BKSE, v_BKSE = (F.pad(x, padding) for x in (q_BHTE, k_BKSE, v_BKSE))
        mask_BTS = None if mask_BTS is None else F.pad(mask_BTS, (0, padding[3], *padding[2:]))
    near_BNLW, far_BLMM = _part_masks(blocks, stride, mask_BTS, q_BHTE.device)
    if q_BHTE.device.type == "cpu" and not dropout:
        masked_far = None if mask_BTS is None else far_BLMM  # without a mask it is plainly causal
        y_BHTE = _Fused.apply(q_BHTE, k_BKSE, v_BKSE, stride, near_BNLW, masked_far)
    else:
        y_BHTE = _in_parts(q_BHTE, k_BKSE, v_BKSE, stride, near_BNLW, far_BLMM, dropout)
    return y_BHTE[:, :, :T]


def _after_cache(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, stride: int, mask_BTS: Any, dropout: float) -> Tensor:
    """Queries after a cache: one token looks up its few keys, several go through the explicit mask."""
    T, S = q_BHTE.shape[2], k_BHSE.shape[2]
    if T == 1:
        index_S = torch.arange(S, device=q_BHTE.device)
        distance_S = S - 1 - index_S
        seen = index_S[(distance_S <= stride) | (distance_S % stride == 0)]
        k_BHSE, v_BHSE = k_BHSE[:, :, seen], v_BHSE[:, :, seen]
        allowed = None if mask_BTS is None else mask_BTS[:, None, :, seen]
    else:
        allowed = sparse_pattern(T, S, stride, q_BHTE.device)[:, None]
        allowed = allowed if mask_BTS is None else allowed & mask_BTS[:, None]
    return F.scaled_dot_product_attention(q_BHTE, k_BHSE, v_BHSE, attn_mask=allowed, dropout_p=dropout)


def _part_masks(blocks: int, stride: int, mask_BTS: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """What may be seen in each part, bool: near [B or 1, N, L, 2L], far [B or 1, 1 or L, M, M] with M = N - 1.

    near: a block's tokens, and as keys the block before it and itself. far: of the tokens with one remainder all but
    the first as queries, all but the last as keys.
    """
    index_L = torch.arange(stride, device=device)
    distance_LW = index_L[:, None] - torch.cat((index_L - stride, index_L))
    near_NLW = ((distance_LW >= 0) & (distance_LW < stride)).repeat(blocks, 1, 1)
    near_NLW[0, :, :stride] = False  # nothing comes before the first block
    far_MM = torch.ones(blocks - 1, blocks - 1, dtype=torch.bool, device=device).tril()
    if mask_BTS is None:
        return near_NLW[None], far_MM[None, None]
    mask_BNLNL = mask_BTS.unflatten(2, (blocks, stride)).unflatten(1, (blocks, stride))
    own_BNLL = mask_BNLNL.diagonal(0, 1, 3).permute(0, 3, 1, 2)
    before_BNLL = torch.zeros_like(own_BNLL)
    before_BNLL[:, 1:] = mask_BNLNL.diagonal(-1, 1, 3).permute(0, 3, 1, 2)
    near_BNLW = torch.cat((before_BNLL, own_BNLL), dim=3) & near_NLW
    itself_LW = torch.eye(stride, 2 * stride, dtype=torch.bool, device=device).roll(stride, 1)
    same_BLNN = mask_BNLNL.diagonal(0, 2, 4).permute(0, 3, 1, 2)
    return near_BNLW | itself_LW, same_BLNN[:, :, 1:, :-1] & far_MM


def _near(x_BHTE: Tensor, stride: int) -> Tensor:
    """Blocks of tokens, [B N, H, L, E]; a view where tokens lie outside heads in memory."""
    return x_BHTE.unflatten(2, (-1, stride)).transpose(1, 2).flatten(0, 1)


def _with_block_before(x_BHTE: Tensor, stride: int) -> Tensor:
    """Each block after the one before it, zeros before the first: [B N, H, 2 L, E]."""
    x_BNHLE = x_BHTE.unflatten(2, (-1, stride)).transpose(1, 2)
    B, N, H, L, E = x_BNHLE.shape
    y_BNHWE = x_BNHLE.new_empty(B, N, 2 * L, H, E).transpose(2, 3)
    y_BNHWE[:, :, :, L:] = x_BNHLE
    y_BNHWE[:, 1:, :, :L] = x_BNHLE[:, :-1]
    y_BNHWE[:, 0, :, :L] = 0
    return y_BNHWE.flatten(0, 1)


def _far(x_BHTE: Tensor, stride: int) -> Tensor:
    """Tokens sorted by remainder, [B, L H, M, E]; a view where tokens lie outside heads in memory."""
    return x_BHTE.unflatten(2, (-1, stride)).permute(0, 3, 1, 2, 4).flatten(1, 2)


class _Fused(torch.autograd.Function):
    """Both parts by PyTorch's fused kernel for CPUs; nothing of the size of the scores is kept.

    Given the log-sum-exp and the result of both parts together, the kernel's backward pass gives each part its exact
    gradients: it needs the final weights exp(score - logsumexp) and the product of the result with its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTE: Tensor,
        k_BHTE: Tensor,
        v_BHTE: Tensor,
        stride: int,
        near_BNLW: Tensor,
        far_BLMM: Tensor | None,
    ) -> Tensor:
        B, H, T, E = q_BHTE.shape
        near, far = _additive(near_BNLW, far_BLMM, q_BHTE)
        keys, values = (_with_block_before(x, stride) for x in (k_BHTE, v_BHTE))
        y, lse = _fused(_near(q_BHTE, stride), keys, values, 0.0, False, attn_mask=near)
        y_BNHLE = y.unflatten(0, (B, -1))
        lse_BNHL = lse.unflatten(0, (B, -1))
        if stride < T:
            q, k, v = q_BHTE[:, :, stride:], k_BHTE[:, :, :-stride], v_BHTE[:, :, :-stride]
            y, lse = _fused(*(_far(x, stride) for x in (q, k, v)), 0.0, far is None, attn_mask=far)
            far_BMHLE = y.unflatten(1, (stride, H)).permute(0, 3, 2, 1, 4)
            far_lse_BMHL = lse.unflatten(1, (stride, H)).permute(0, 3, 2, 1)
            together_BMHL = torch.logaddexp(lse_BNHL[:, 1:], far_lse_BMHL)
            share_BMHL1 = (far_lse_BMHL - together_BMHL).exp()[..., None].to(y.dtype)
            y_BNHLE[:, 1:].lerp_(far_BMHLE, share_BMHL1)
            lse_BNHL[:, 1:] = together_BMHL
        y_BHTE = q_BHTE.new_empty(B, T, H, E).transpose(1, 2)
        y_BHTE.unflatten(2, (-1, stride)).copy_(y_BNHLE.transpose(1, 2))
        ctx.save_for_backward(q_BHTE, k_BHTE, v_BHTE, y_BHTE, lse_BNHL, near_BNLW, far_BLMM)
        ctx.stride = stride
        return y_BHTE

    @staticmethod
    def backward(ctx: Any, dy_BHTE: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTE, k_BHTE, v_BHTE, y_BHTE, lse_BNHL, near_BNLW, far_BLMM = ctx.saved_tensors
        stride, B, H = ctx.stride, q_BHTE.shape[0], q_BHTE.shape[1]
        near, far = _additive(near_BNLW, far_BLMM, q_BHTE)
        keys, values = (_with_block_before(x, stride) for x in (k_BHTE, v_BHTE))
        dy, q, y = (_near(x, stride) for x in (dy_BHTE, q_BHTE, y_BHTE))
        dq, *dkv = _fused_backward(dy, q, keys, values, y, lse_BNHL.flatten(0, 1), 0.0, False, attn_mask=near)
        grads = [dq.unflatten(0, (B, -1)).transpose(1, 2)]
        for d in dkv:
            d_BHNWE = d.unflatten(0, (B, -1)).transpose(1, 2)
            d_BHNLE = d_BHNWE[:, :, :, stride:]
            d_BHNLE[:, :, :-1] += d_BHNWE[:, :, 1:, :stride]
            grads.append(d_BHNLE)
        grads = [d_BHNLE.flatten(2, 3) for d_BHNLE in grads]
        if q_BHTE.shape[2] > stride:
            dy, q, y = (_far(x[:, :, stride:], stride) for x in (dy_BHTE, q_BHTE, y_BHTE))
            k, v = (_far(x[:, :, :-stride], stride) for x in (k_BHTE, v_BHTE))
            lse = lse_BNHL[:, 1:].permute(0, 1, 3, 2).flatten(2, 3).transpose(1, 2)  # as the kernel lays it out
            parts = _fused_backward(dy, q, k, v, y, lse, 0.0, far is None, attn_mask=far)
            for i, (grad, part) in enumerate(zip(grads, parts, strict=True)):
                part_BHTE = part.unflatten(1, (stride, H)).permute(0, 2, 3, 1, 4).flatten(2, 3)
                (grad[:, :, stride:] if i == 0 else grad[:, :, :-stride]).add_(part_BHTE)
        return *grads, None, None, None


def _additive(near_BNLW: Tensor, far_BLMM: Tensor | None, q_BHTE: Tensor) -> tuple[Tensor, Tensor | None]:
    """The masks as the fused kernel takes them; none for the far part where it is plainly causal."""
    B, H = q_BHTE.shape[:2]
    near = torch.zeros(near_BNLW.shape, dtype=q_BHTE.dtype).masked_fill_(~near_BNLW, HIDDEN)
    near = near.expand(B, -1, -1, -1).flatten(0, 1)[:, None]
    if far_BLMM is None:
        return near, None
    far = torch.zeros(far_BLMM.shape, dtype=q_BHTE.dtype).masked_fill_(~far_BLMM, HIDDEN)
    return near, far[:, :, None].expand(B, -1, H, -1, -1).flatten(1, 2)


def _in_parts(
    q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, stride: int, near_BNLW: Tensor, far_BLMM: Tensor, dropout: float
) -> Tensor:
    """The same in plain operations, for other devices and for dropout: one softmax over both parts' scores."""
    T, E = q_BHTE.shape[2:]
    q_BHNLE, k_BHNLE, v_BHNLE = (x.unflatten(2, (-1, stride)) for x in (q_BHTE, k_BHTE, v_BHTE))
    near_k_BHNWE, near_v_BHNWE = (F.pad(x, (0, 0, stride, 0)).unfold(2, 2 * stride, stride) for x in (k_BHTE, v_BHTE))
    scale = 1 / math.sqrt(E)
    near_scores = torch.einsum("bhnle,bhnew->bhnlw", q_BHNLE * scale, near_k_BHNWE)
    far_scores = torch.einsum("bhmle,bhnle->bhmln", q_BHNLE * scale, k_BHNLE)
    far_mask_BLNN = F.pad(far_BLMM, (0, 1, 1, 0))
    near_scores = near_scores.masked_fill(~near_BNLW[:, None], -torch.inf)
    far_scores = far_scores.masked_fill(~far_mask_BLNN.transpose(1, 2)[:, None], -torch.inf)
    precise = torch.promote_types(q_BHTE.dtype, torch.float32)
    weights = torch.cat((near_scores, far_scores), dim=-1).softmax(dim=-1, dtype=precise).to(v_BHTE.dtype)
    weights = F.dropout(weights, dropout)
    near_w, far_w = weights.split((2 * stride, T // stride), dim=-1)
    y_BHNLE = torch.einsum("bhnlw,bhnew->bhnle", near_w, near_v_BHNWE)
    y_BHNLE = y_BHNLE + torch.einsum("bhmln,bhnle->bhmle", far_w, v_BHNLE)
    return y_BHNLE.flatten(2, 3)
