from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chatwright import native
from chatwright.model.norms import LayerNorm, RMSNorm, unit_rms


@pytest.mark.parametrize("shape", [(2, 67, 48), (3, 7)])
def test_layernorm_in_bfloat16_is_exact_to_rounding_and_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = LayerNorm(shape[-1], eps=1e-5)
    norm.weight.data.uniform_(0.5, 2, generator=generator)
    norm.bias.data.normal_(generator=generator)
    x = torch.randn(shape, generator=generator).add(3).bfloat16().requires_grad_()
    dy = torch.randn(shape, generator=generator).bfloat16()
    if not native.usable(x):
        pytest.skip("no C compiler")
    right = [p.detach().double().requires_grad_() for p in (x, norm.weight, norm.bias)]
    y = F.layer_norm(right[0], shape[-1:], *right[1:], 1e-5)
    expected = [y, *torch.autograd.grad(y, right, dy.double())]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            y = norm(x)
            found.append([y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), dy)])
    finally:
        torch.set_num_threads(threads)
    for ours, again, exact in zip(*found, expected, strict=True):
        assert torch.equal(ours, again)
        torch.testing.assert_close(ours.double(), exact, atol=1e-2, rtol=2**-7)
    with torch.no_grad():
        assert torch.equal(norm(x), found[0][0])


def test_the_hand_written_gradient_is_right() -> None:
    x = torch.randn(3, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit_rms(x, 1e-3), x)


def test_rmsnorm_equals_pytorchs() -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(16, eps=1e-6)
    norm.weight.data.uniform_(0.5, 2)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), norm.weight, 1e-6))


def test_a_low_precision_input_is_normed_in_float32() -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert unit_rms(x, 1e-6).dtype == torch.float32
    torch.testing.assert_close(unit_rms(x, 1e-6), unit_rms(x.float(), 1e-6))
