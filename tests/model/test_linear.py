"""The product with its bias is PyTorch's, in bfloat16 too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from chatwright import native
from chatwright.model.linear import Linear


def outcome(linear: nn.Linear, x: Tensor, dy: Tensor) -> list[Tensor]:
    """The result and the gradients of the input and of what learns."""
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
    return [y, *torch.autograd.grad(y, [x, *(p for p in linear.parameters() if p.requires_grad)], dy.to(y.dtype))]


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("shape", [(2, 37, 48), (5, 48)])
def test_result_and_gradients_are_pytorchs_to_rounding(shape: tuple[int, ...], frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(48, 20), nn.Linear(48, 20)
    theirs.load_state_dict(ours.state_dict())
    for name in frozen:
        getattr(ours, name).requires_grad_(False)
        getattr(theirs, name).requires_grad_(False)
    x, dy = torch.randn(shape).bfloat16().requires_grad_(), torch.randn(*shape[:-1], 20).bfloat16()
    for mine, right in zip(outcome(ours, x, dy), outcome(theirs, x, dy), strict=True):
        assert mine.dtype == right.dtype
        torch.testing.assert_close(mine, right, atol=2e-2, rtol=2**-7)


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad])
def test_it_is_pytorchs_where_nothing_is_gained(grad: Callable[[], torch.enable_grad]) -> None:
    linear, x = Linear(16, 8), torch.randn(3, 16)
    with grad():
        assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_scoring_and_learning_make_the_same_bits() -> None:
    linear, x = Linear(64, 96), torch.randn(4, 19, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        learned = linear(x)
        with torch.no_grad():
            assert torch.equal(linear(x), learned)


needs_kernel = pytest.mark.skipif(not native.fast_products(16, 2), reason="this processor multiplies no bfloat16")


@needs_kernel
@pytest.mark.parametrize("width", [2, 70, 256])
@pytest.mark.parametrize("outputs", [1, 16, 33, 288])
def test_the_kernel_sums_up_in_float32_and_rounds_once(width: int, outputs: int) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(outputs, width).bfloat16().float(), torch.randn(outputs)
    for rows in (*range(1, 18), 64, 65, 200):
        x, residual = torch.randn(rows, width).bfloat16(), torch.randn(rows, outputs).bfloat16()
        packed = native.pack(weight)
        found = native.linear(x, native.LinearStruct.of((packed,), width, outputs, 16, 1, bias), residual)
        exact = x.double() @ weight.double().T + bias.double() + residual.double()
        assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all()
        assert torch.equal(native.product(x, weight), native.product(x, weight.T.contiguous(), transposed=True))


@needs_kernel
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it() -> None:
    x, weight = torch.randn(150, 96).bfloat16(), torch.randn(80, 96)
    together = native.product(x, weight)
    for first, last in ((0, 1), (3, 12), (60, 70), (17, 150)):
        assert torch.equal(native.product(x[first:last].contiguous(), weight), together[first:last])
