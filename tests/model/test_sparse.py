"""Sparse attention against a dense product with the explicit mask, forward and backward."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor

from chatwright.model import sparse
from chatwright.model.masks import document_mask, valid_mask
from chatwright.model.sparse import sparse_attention, sparse_pattern

TINY = 1e-13  # a dropout that drops nothing, but takes the path of plain operations


def dense(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, stride: int, mask_BTS: Tensor | None = None) -> Tensor:
    allowed = sparse_pattern(q_BHTE.shape[2], k_BKSE.shape[2], stride)
    allowed = allowed if mask_BTS is None else allowed & mask_BTS
    groups = q_BHTE.shape[1] // k_BKSE.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k_BKSE, v_BKSE))
    scores = q_BHTE @ k.transpose(-1, -2) / q_BHTE.shape[-1] ** 0.5
    return scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1) @ v


def drawn(batch: int, length: int, heads: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Leaves laid out as the decoder lays them, [B, T, H, E]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, heads, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def masks(batch: int, length: int) -> dict[str, Tensor | None]:
    index_T = torch.arange(length)
    starts_B1 = torch.tensor([[0], [length // 3], [length - 1]])[:batch]
    documents_BT = (index_T[None] * torch.tensor([[1], [3], [7]])[:batch] // max(1, length)).long()
    return {
        "none": None,
        "left": valid_mask(index_T >= starts_B1),
        "right": valid_mask(index_T < length - starts_B1),
        "documents": document_mask(documents_BT),
        "one for all": document_mask(documents_BT[-1:]),
    }


def test_doctests_hold() -> None:
    assert doctest.testmod(sparse).failed == 0


def test_the_pattern_is_the_papers() -> None:
    for t in range(30):
        for s in range(30):
            distance = t - s
            seen = distance >= 0 and (distance <= 7 or distance % 7 == 0)
            assert sparse_pattern(30, 30, 7)[0, t, s] == seen


@pytest.mark.parametrize("dropout", [0.0, TINY], ids=["fused", "plain"])
@pytest.mark.parametrize("mask", ["none", "left", "right", "documents", "one for all"])
@pytest.mark.parametrize("stride", [1, 3, 8, 64])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 16, 29, 48])
def test_values_and_gradients_equal_a_dense_product(length: int, stride: int, mask: str, dropout: float) -> None:
    leaves = [drawn(3, length, heads, seed=i) for i, heads in enumerate((4, 2, 2))]
    q, k, v = (x.transpose(1, 2) for x in leaves)
    mask_BTS = masks(3, length)[mask]
    ours, expected = sparse_attention(q, k, v, stride, mask_BTS, dropout), dense(q, k, v, stride, mask_BTS)
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)
    upstream = drawn(3, length, 4, seed=9).detach().transpose(1, 2)
    grads, expected_grads = (torch.autograd.grad(y, leaves, upstream) for y in (ours, expected))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_lower_precision_stays_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    leaves = [drawn(2, 100, 3, dtype, seed=i) for i in range(3)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    ours, expected = (
        run(*(x.transpose(1, 2) for x in xs), 16) for run, xs in ((sparse_attention, leaves), (dense, exact))
    )
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, atol=tolerance, rtol=0)
    grads = torch.autograd.grad(ours.sum(), leaves)
    for grad, expected_grad in zip(grads, torch.autograd.grad(expected.sum(), exact), strict=True):
        torch.testing.assert_close(grad.double(), expected_grad, atol=3 * tolerance, rtol=0)


@pytest.mark.parametrize("new", [1, 2, 13])
@pytest.mark.parametrize("padded", [False, True])
def test_queries_after_a_cache_see_what_they_would_see_without(new: int, padded: bool) -> None:
    q, k, v = (drawn(3, 40, heads, seed=i).detach().transpose(1, 2) for i, heads in enumerate((4, 2, 2)))
    mask_BTS = masks(3, 40)["left"] if padded else None
    whole = sparse_attention(q, k, v, 6, mask_BTS)
    rows = None if mask_BTS is None else mask_BTS[:, 20 : 20 + new, : 20 + new]
    after = sparse_attention(q[:, :, 20 : 20 + new], k[:, :, : 20 + new], v[:, :, : 20 + new], 6, rows)
    torch.testing.assert_close(after, whole[:, :, 20 : 20 + new], atol=1e-10, rtol=0)


def test_dropout_zeroes_weights_and_keeps_the_mean() -> None:
    q, k, v = (drawn(1, 12, 1, seed=i).detach().transpose(1, 2) for i in range(3))
    torch.manual_seed(0)
    runs = torch.stack([sparse_attention(q, k, v, 3, None, 0.3) for _ in range(4000)])
    torch.testing.assert_close(runs.mean(0), dense(q, k, v, 3), atol=0.08, rtol=0)
    assert runs.std(0).max() > 0.1


def test_nothing_of_the_size_of_the_scores_is_kept() -> None:
    """What backward keeps grows with n, not with n^2."""

    def kept(length: int) -> int:
        sizes = []
        q, k, v = (drawn(1, length, 2, torch.float32, seed=i).transpose(1, 2) for i in range(3))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            sparse_attention(q, k, v, 16)
        return sum(sizes)

    assert kept(1024) < 2.2 * kept(512)
