"""Short rows, by a kernel of our own or by plain products: exact results and gradients, whatever stands beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright import native
from chatwright.model import attention
from chatwright.model.attention import SHORT, dense_attention, self_attention


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


@pytest.fixture(params=["kernel", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How short rows are computed in a test."""
    if request.param == "products":
        monkeypatch.setattr(native, "fast_short", lambda width: False)
    elif not native.fast_short(16):
        pytest.skip("the kernel is not for this machine")
    return request.param


@pytest.mark.parametrize("kind", ["causal", "padded"])
def test_in_bfloat16_it_is_about_as_exact(kind: str, way: str) -> None:
    mask_BTS = masks(64)[kind]
    low = leaves(4, 2, 64, torch.bfloat16)
    exact = outcome(fused(mask_BTS, True), [x.detach().double().requires_grad_() for x in low])
    ours = outcome(lambda q, k, v: dense_attention(q, k, v, mask_BTS, 0.0), low)
    theirs = outcome(fused(mask_BTS, True), low)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert (mine - right).abs().mean() < 2 * (other - right).abs().mean()


def matrix(B: int, T: int, heads: int, kv_heads: int, E: int) -> Tensor:
    """Queries, keys and values beside each other, as one product makes them."""
    generator = torch.Generator().manual_seed(T)
    return torch.randn(B, T, heads + 2 * kv_heads, E, generator=generator).bfloat16().requires_grad_()


def exactly(qkv_BTNE: Tensor, heads: int, kv_heads: int, mask_BTS: Tensor) -> Tensor:
    """Attention by its definition."""
    q, k, v = qkv_BTNE.split((heads, kv_heads, kv_heads), dim=2)
    k, v = (x.repeat_interleave(heads // kv_heads, dim=2) for x in (k, v))
    scores = torch.einsum("bthe,bshe->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshe->bthe", scores.masked_fill(~mask_BTS[:, None], -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("kind", ["causal", "padded", "only itself", "both ways"])
@pytest.mark.parametrize(("heads", "kv_heads", "E"), [(4, 4, 64), (6, 2, 16), (2, 1, 80), (2, 2, 128)])
@pytest.mark.parametrize("T", [2, 37, 96])
def test_the_kernel_is_exact_to_bfloat16s_rounding(kind: str, heads: int, kv_heads: int, E: int, T: int) -> None:
    if not native.fast_short(E):
        pytest.skip("the kernel is not for this machine")
    causal, itself = torch.ones(1, T, T, dtype=torch.bool).tril(), torch.eye(T, dtype=torch.bool)
    hidden = torch.rand(2, T, generator=torch.Generator().manual_seed(2)) < 0.4
    hidden[0, -T // 3 :] = hidden[1, : T // 3] = True  # padding on either side, and holes
    seen = {"causal": causal, "padded": causal & ~hidden[:, None] | itself, "only itself": itself[None]}
    mask_BTS = seen.get(kind, ~hidden[:, None] | itself)
    qkv = matrix(2, T, heads, kv_heads, E)
    y = self_attention((qkv,), heads, kv_heads, None if kind == "causal" else mask_BTS, 0.0)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    right = qkv.detach().double().requires_grad_()
    expected = exactly(right, heads, kv_heads, mask_BTS)
    torch.testing.assert_close(y.double(), expected, atol=2e-2, rtol=2**-7)
    (gradient,) = torch.autograd.grad(y, qkv, dy)
    (expected,) = torch.autograd.grad(expected, right, dy.double())
    assert (gradient - expected).abs().max() < 0.01 * expected.abs().max()


def test_parts_may_be_cut_anywhere_and_lie_anywhere(way: str) -> None:
    qkv = matrix(2, 20, 4, 2, 16)
    dy = torch.randn(2, 20, 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    y = self_attention((qkv,), 4, 2, None, 0.0)
    (gradient,) = torch.autograd.grad(y, qkv, dy)
    turned = qkv.transpose(1, 2).contiguous().transpose(1, 2).transpose(2, 3).contiguous().transpose(2, 3)
    for parts in (qkv.split((6, 2), 2), qkv.split((4, 4), 2), qkv.split((4, 2, 2), 2), turned.split((4, 2, 2), 2)):
        other = self_attention(parts, 4, 2, None, 0.0)
        assert torch.equal(other, y)
        assert torch.equal(*torch.autograd.grad(other, qkv, dy), gradient)


def test_a_row_has_the_same_bits_whatever_stands_beside_it(way: str) -> None:
    qkv = matrix(3, 61, 4, 2, 32)
    mask_BTS = masks(61)["padded"][1:].expand(3, -1, -1)
    alone = self_attention((qkv[1:2],), 4, 2, mask_BTS[1:2], 0.0)
    with torch.no_grad():  # scoring: nothing is kept
        scored = self_attention((qkv,), 4, 2, mask_BTS, 0.0)
        longer = torch.nn.functional.pad(qkv, (0, 0, 0, 0, 0, 40), value=3.0)
        causal = self_attention((longer,), 4, 2, None, 0.0)[:, :61]
        assert torch.equal(causal, self_attention((qkv,), 4, 2, None, 0.0))
    assert torch.equal(scored[1:2], alone)
    assert torch.equal(scored, self_attention((qkv,), 4, 2, mask_BTS, 0.0))


def test_threads_change_no_bit_of_the_kernel() -> None:
    if not native.fast_short(16):
        pytest.skip("the kernel is not for this machine")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            qkv = matrix(3, 50, 6, 3, 16)
            y = self_attention((qkv,), 6, 3, None, 0.0)
            found.append((y, *torch.autograd.grad(y.float().square().sum(), qkv)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_query_that_sees_nothing_is_nan_and_the_others_are_not(way: str) -> None:
    mask_BTS = torch.ones(1, 9, 9, dtype=torch.bool).tril()
    mask_BTS[0, 4] = False
    y = self_attention((matrix(1, 9, 2, 2, 16),), 2, 2, mask_BTS, 0.0)
    assert y.isnan().any(-1).nonzero()[:, 1].unique().tolist() == [4]


def test_only_bfloat16_on_short_rows_goes_by_the_short_ways(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    if way == "kernel":
        original = native.attend_short
        monkeypatch.setattr(native, "attend_short", lambda *x, **y: used.append(x[0].shape[1]) or original(*x, **y))
    else:
        plainly = attention._bias
        monkeypatch.setattr(attention, "_bias", lambda mask, T, like: used.append(T) or plainly(mask, T, like))
    for T, dtype, grad in [(8, torch.bfloat16, True), (8, torch.float32, True), (8, torch.bfloat16, False)]:
        q, k, v = (x.transpose(1, 2) for x in leaves(2, 2, T, dtype))
        with torch.set_grad_enabled(grad):
            dense_attention(q, k, v, None, 0.0)
    q, k, v = (x.transpose(1, 2) for x in leaves(2, 2, SHORT + 1, torch.bfloat16))
    dense_attention(q, k, v, None, 0.0)
    dense_attention(q[:, :, :8], k[:, :, :8], v[:, :, :8], None, 0.1)
    assert used == [8, 8]
