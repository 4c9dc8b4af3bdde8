from __future__ import annotations

import torch
import torch.nn.functional as F

from chatwright.model.norms import RMSNorm, unit_rms


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
