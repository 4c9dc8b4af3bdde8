from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chatwright import native
from chatwright.model.activation import activate


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 64), (1, 37, 26), (0, 4, 8)])
def test_the_kernels_and_their_gradients_are_pytorchs_to_bfloat16s_rounding(
    gated: bool, shape: tuple[int, ...]
) -> None:
    x = 4.0 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if x.numel():
        x.view(-1)[:6] = torch.tensor([0.0, -0.0, 60.0, -60.0, 3e4, -3e4])  # far out, where exponentials overflow
    x = x.bfloat16()
    if not native.usable(x):
        pytest.skip("no C compiler")
    dy = torch.randn((*shape[:-1], shape[-1] // (2 if gated else 1)), generator=torch.Generator().manual_seed(2))
    ours = x.clone().requires_grad_()
    y = activate(ours, gated=gated)
    y.backward(dy.bfloat16())
    exact = x.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up if gated else F.gelu(exact, approximate="tanh")
    expected.backward(dy.bfloat16().double())
    assert y.dtype == ours.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=2**-8, atol=1e-5)


def test_values_that_do_not_lie_in_a_row_are_activated_too() -> None:
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)).bfloat16().T.requires_grad_()
    y = activate(x, gated=False)
    y.sum().backward()
    torch.testing.assert_close(y.float(), F.gelu(x.detach().float(), approximate="tanh"), rtol=2**-7, atol=1e-6)
    assert x.grad.shape == x.shape
