"""Plain products for short rows: the fused kernel's results and gradients, and no less exact in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright.model import attention
from chatwright.model.attention import SHORT, dense_attention


def leaves(heads: int, kv_heads: int, T: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, T, n, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


def outcome(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The result and the gradients of the inputs, which are laid out as the decoder has them."""
    y = function(*(x.transpose(1, 2) for x in inputs))
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, weights)]


def fused(mask_BTS: Tensor | None, gqa: bool) -> Callable[..., Tensor]:
    attn_mask = None if mask_BTS is None else mask_BTS[:, None]
    return lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None, enable_gqa=gqa
    )


def masks(T: int) -> dict[str, Tensor | None]:
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    late = torch.arange(T) >= T // 3  # the first third of the second row is padding
    padded = causal & torch.stack((torch.ones(T, dtype=torch.bool), late))[:, None] | torch.eye(T, dtype=torch.bool)
    return {"causal": None, "one for all rows": causal[None], "padded": padded}


@pytest.mark.parametrize("kind", ["causal", "one for all rows", "padded"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("T", [2, 37])
def test_results_and_gradients_are_the_fused_kernels(kind: str, heads: int, kv_heads: int, T: int) -> None:
    mask_BTS = masks(T)[kind]
    inputs = leaves(heads, kv_heads, T, torch.float64)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention._ShortAttention.apply(q, k, v, attention._bias(mask_BTS, T, q))

    expected = outcome(fused(mask_BTS, kv_heads < heads), inputs)
    for ours, theirs in zip(outcome(plain, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("kind", ["causal", "padded"])
def test_in_bfloat16_it_is_about_as_exact(kind: str) -> None:
    mask_BTS = masks(64)[kind]
    low = leaves(4, 2, 64, torch.bfloat16)
    exact = outcome(fused(mask_BTS, True), [x.detach().double().requires_grad_() for x in low])
    ours = outcome(lambda q, k, v: dense_attention(q, k, v, mask_BTS, 0.0), low)
    theirs = outcome(fused(mask_BTS, True), low)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert (mine - right).abs().mean() < 2 * (other - right).abs().mean()


def test_only_bfloat16_on_short_rows_goes_by_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = attention._bias
    monkeypatch.setattr(attention, "_bias", lambda mask, T, like: used.append(T) or original(mask, T, like))
    for T, dtype, grad in [(8, torch.bfloat16, True), (8, torch.float32, True), (8, torch.bfloat16, False)]:
        q, k, v = (x.transpose(1, 2) for x in leaves(2, 2, T, dtype))
        with torch.set_grad_enabled(grad):
            dense_attention(q, k, v, None, 0.0)
    q, k, v = (x.transpose(1, 2) for x in leaves(2, 2, SHORT + 1, torch.bfloat16))
    dense_attention(q, k, v, None, 0.0)
    assert used == [8, 8]
