from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.training.optim import (
    Muon,
    OptimConfig,
    build_optimizers,
    clip_gradients,
    orthogonalize,
    row_blocks,
    set_lr,
    set_momentum,
    split_parameters,
)


@pytest.fixture
def decoder() -> Decoder:
    sizes = {"vocab_size": 50, "context": 16, "layers": 2, "d_model": 32, "heads": 4, "kv_heads": 2, "d_ff": 48}
    return Decoder(preset("modern", **sizes, tied=False))


def naive_orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz as in Keller Jordan's post, in float64."""
    x = matrix.double()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def naive_muon(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    weight, average = weight.double(), torch.zeros_like(weight).double()
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient.double()
        look_ahead = momentum * average + (1 - momentum) * gradient.double()
        weight = weight * (1 - lr * decay)
        weight = weight - lr * 0.2 * math.sqrt(max(weight.shape)) * naive_orthogonal(look_ahead)
    return weight


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonalize_equals_the_naive_iteration_in_float64(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = orthogonalize(matrices, torch.float64)
    torch.testing.assert_close(ours, torch.stack([naive_orthogonal(m) for m in matrices]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalize_puts_singular_values_near_one(dtype: torch.dtype) -> None:
    matrices = torch.randn(4, 32, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices, dtype).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_equals_a_naive_loop_for_matrices_of_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatwright.training.optim.fast_bfloat16", lambda device: False)
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (4, 12), (8, 8), (12, 4)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for _ in range(3)] for shape in shapes]
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    muon = Muon(parameters, lr=0.02, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        for parameter, history in zip(parameters, gradients, strict=True):
            parameter.grad = history[step]
        muon.step()
    for parameter, weight, history in zip(parameters, weights, gradients, strict=True):
        expected = naive_muon(weight, history, lr=0.02, momentum=0.9, decay=0.1)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_muon_equals_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.full((16, 32), 0.1)) for _ in range(2))
    muon = Muon([ours], lr=0.02, momentum=0.95, weight_decay=0.1)
    torchs = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(16, 32, generator=generator)
        theirs.grad = ours.grad.clone()
        muon.step()
        torchs.step()
    # Torch's iterates in bfloat16 always, and divides by the norm in it.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


def test_updates_have_the_size_of_adams() -> None:
    for shape in [(64, 64), (32, 128)]:
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([parameter], lr=1.0).step()
        assert 0.15 < parameter.detach().square().mean().sqrt() < 0.25


def test_maps_fused_in_one_matrix_are_orthogonalised_one_by_one(decoder: Decoder) -> None:
    attention = decoder.blocks[0].attention
    blocks = row_blocks(decoder)[attention.qkv.weight]
    assert blocks == (32, 16, 16)
    fused = nn.Parameter(torch.zeros(64, 32))
    fused.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    parts = [nn.Parameter(torch.zeros(rows, 32)) for rows in blocks]
    for part, gradient in zip(parts, fused.grad.split(blocks), strict=True):
        part.grad = gradient.clone()
    Muon([fused], lr=0.1, blocks={fused: blocks}).step()
    Muon(parts, lr=0.1).step()
    torch.testing.assert_close(fused.detach(), torch.cat([part.detach() for part in parts]), rtol=0, atol=1e-6)


def test_every_parameter_is_updated_by_exactly_one_group(decoder: Decoder) -> None:
    model = ScoredDecoder(decoder)
    for kind in ("muon", "adamw"):
        optimizers = build_optimizers(model, OptimConfig(kind=kind))
        held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_embeddings_and_heads_are_not_hidden_matrices_and_norms_do_not_decay(decoder: Decoder) -> None:
    model = ScoredDecoder(decoder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices, others, plain = ([names[id(p)] for p in group] for group in split_parameters(model))
    assert all(name.endswith((".qkv.weight", ".out.weight", ".up.weight", ".down.weight")) for name in matrices)
    assert sorted(others) == ["decoder.embedding.weight", "decoder.head.weight", "head.weight"]
    assert plain
    assert all("norm" in name for name in plain)
    optimizers = build_optimizers(model, OptimConfig(weight_decay=0.1))
    decay = {
        names[id(p)]: group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]
    }
    assert {decay[name] for name in plain} == {0.0}
    assert {decay[name] for name in matrices + others} == {0.1}


def test_gpt2s_position_table_is_an_embedding() -> None:
    model = Decoder(preset("gpt2", vocab_size=50, context=16, layers=1, d_model=32, heads=4))
    _, others, plain = split_parameters(model)
    assert any(p is model.positions.weight for p in others)
    assert any(p is model.blocks[0].mlp.up.bias for p in plain)


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "gpt3", "llama", "qwen2", "modern"])
def test_in_every_family_matrices_decay_and_norms_and_biases_do_not(name: str) -> None:
    model = Decoder(preset(name, vocab_size=50, context=16, layers=2, d_model=32, heads=4, tied=False))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for kind in ("muon", "adamw"):
        for optimizer in build_optimizers(model, OptimConfig(kind=kind, weight_decay=0.1)):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    plain = "norm" in names[id(parameter)] or names[id(parameter)].endswith("bias")
                    assert group["weight_decay"] == (0.0 if plain else 0.1), names[id(parameter)]
                    assert plain == (parameter.ndim == 1)


def test_frozen_parameters_are_left_out(decoder: Decoder) -> None:
    decoder.embedding.weight.requires_grad_(False)
    assert all(p is not decoder.embedding.weight for group in split_parameters(decoder) for p in group)


def test_the_multiplier_scales_what_each_group_was_built_with(decoder: Decoder) -> None:
    optimizers = build_optimizers(decoder, OptimConfig(lr=0.01, matrix_lr=0.02))
    set_lr(optimizers, 0.5)
    set_lr(optimizers, 0.5)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.005, 0.01]


def test_clipping_scales_all_gradients_by_their_global_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(7.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([2.0, 3.0]) / 7)


def test_muon_s_momentum_rises_over_its_warmup() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    config = OptimConfig(momentum_warmup=10)
    optimizers = build_optimizers(net, config)
    found = []
    for step in (0, 5, 10, 50):
        set_momentum(optimizers, config, step)
        found += [
            group["momentum"] for optimizer in optimizers for group in optimizer.param_groups if "momentum" in group
        ]
    assert found == pytest.approx([0.85, 0.9, 0.95, 0.95])
