from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from chatwright.model.config import ModelConfig
from chatwright.model.decoder import Cache, Decoder, init_weights
from chatwright.model.masks import (
    causal_mask,
    document_mask,
    positions_from_documents,
    positions_from_valid,
    valid_mask,
)
from chatwright.model.presets import preset

Build = Callable[..., Decoder]
CLOSE = {"atol": 1e-4, "rtol": 0.0}


def test_a_token_never_changes_logits_before_it(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = build(config)
    before_BTV = model(tokens_BT)
    for t in (0, 7, 19):
        changed_BT = tokens_BT.clone()
        changed_BT[:, t] = (changed_BT[:, t] + 1) % 300
        after_BTV = model(changed_BT)
        assert torch.equal(after_BTV[:, :t], before_BTV[:, :t])
        assert (after_BTV[:, t:] != before_BTV[:, t:]).any(dim=2).all()


def test_an_explicit_causal_mask_is_the_default(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = build(config)
    torch.testing.assert_close(model(tokens_BT, mask_BTS=causal_mask(20)), model(tokens_BT), **CLOSE)


@pytest.mark.parametrize("chunks", [[1] * 20, [5, 1, 1, 13], [19, 1]])
def test_a_cache_does_not_change_logits(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor, chunks: list[int]
) -> None:
    model = build(config)
    cache = Cache(config, batch=3, max_len=20)
    parts = [model(chunk_BT, cache=cache) for chunk_BT in tokens_BT.split(chunks, dim=1)]
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens_BT), **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(config: ModelConfig, build: Build, tokens_BT: torch.Tensor, side: str) -> None:
    model = build(config)
    lengths = [20, 13, 1]
    padded_BT = torch.full((3, 20), 7)
    valid_BT = torch.zeros(3, 20, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(20 - length, 20) if side == "left" else slice(0, length)
        padded_BT[row, place], valid_BT[row, place] = tokens_BT[row, :length], True
    padded_BTV = model(padded_BT, positions_BT=positions_from_valid(valid_BT), mask_BTS=valid_mask(valid_BT))
    for row, length in enumerate(lengths):
        alone_TV = model(tokens_BT[row : row + 1, :length])[0]
        torch.testing.assert_close(padded_BTV[row][valid_BT[row]], alone_TV, **CLOSE)


def test_a_cache_with_left_padding_does_not_change_logits(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor
) -> None:
    model = build(config)
    pad = torch.tensor([0, 4, 9])
    valid_BT = torch.arange(20) >= pad[:, None]
    positions_BT = positions_from_valid(valid_BT)
    cache = Cache(config, batch=3, max_len=20)
    model(tokens_BT[:, :10], positions_BT=positions_BT[:, :10], mask_BTS=valid_mask(valid_BT[:, :10]), cache=cache)
    for t in range(10, 20):
        logits_BTV = model(
            tokens_BT[:, t : t + 1],
            positions_BT=positions_BT[:, t : t + 1],
            mask_BTS=valid_BT[:, None, : t + 1],
            cache=cache,
        )
        for row in range(3):
            alone_TV = model(tokens_BT[row : row + 1, pad[row] : t + 1])[0]
            torch.testing.assert_close(logits_BTV[row, 0], alone_TV[-1], **CLOSE)


def test_packed_documents_do_not_see_each_other(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = build(config)
    document_BT = torch.tensor([[0] * 3 + [1] * 16 + [2]])
    packed_BTV = model(
        tokens_BT[:1], positions_BT=positions_from_documents(document_BT), mask_BTS=document_mask(document_BT)
    )
    alone = [model(part_BT) for part_BT in tokens_BT[:1].split([3, 16, 1], dim=1)]
    torch.testing.assert_close(packed_BTV, torch.cat(alone, dim=1), **CLOSE)


@pytest.mark.parametrize("recompute", [False, True])
def test_states_at_some_places_are_those_of_all(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor, recompute: bool
) -> None:
    model = build(config)
    for block in model.blocks:
        block.recompute = recompute
    places_N = torch.tensor([4, 19, 20, 59])  # of three rows of 20
    found = []
    for wanted in (lambda: model.hidden(tokens_BT).flatten(0, 1)[places_N],
                   lambda: model.hidden(tokens_BT, places_N=places_N)):  # fmt: skip
        hidden_ND = wanted()
        model.zero_grad()
        hidden_ND.square().sum().backward()
        found.append([hidden_ND, *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    assert model.hidden(tokens_BT, places_N=places_N[:0]).shape == (0, config.d_model)


def test_grouped_queries_equal_repeated_keys_and_values(build: Build, tokens_BT: torch.Tensor) -> None:
    sizes = {"vocab_size": 300, "context": 32, "layers": 2, "d_model": 48, "heads": 4, "d_head": 12}
    grouped = build(preset("modern", **sizes, kv_heads=2))
    full = build(preset("modern", **sizes))
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith("qkv.weight")]:
        q, k, v = state[name].view(8, 12, 48).split((4, 2, 2))
        repeated = [q, k.repeat_interleave(2, dim=0), v.repeat_interleave(2, dim=0)]
        state[name] = torch.cat(repeated).reshape(-1, 48)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(tokens_BT), full(tokens_BT), **CLOSE)


def test_init_has_the_papers_spread(config: ModelConfig) -> None:
    config = config.model_copy(update={"vocab_size": 2000})
    model = Decoder(config)
    init_weights(model, torch.Generator().manual_seed(3))
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert (values == 0).all()
        elif "norm" in name:
            assert (values == 1).all()
        else:
            scaled = config.norm_place == "pre"  # GPT-1 has one spread for all
            residual = scaled and name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = 0.02 / math.sqrt(2 * config.layers) if residual else 0.02
            assert abs(values.mean()) < 5 * std / math.sqrt(values.numel()), name
            assert abs(values.std() / std - 1) < 5 / math.sqrt(2 * values.numel()), name


def test_init_is_a_function_of_the_generator_alone(config: ModelConfig) -> None:
    models = [Decoder(config), Decoder(config)]
    for model in models:
        init_weights(model, torch.Generator().manual_seed(3))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dropout_acts_in_training_only(config: ModelConfig, tokens_BT: torch.Tensor) -> None:
    model = Decoder(config.model_copy(update={"dropout": 0.2}))
    assert not torch.equal(model(tokens_BT), model(tokens_BT))
    model.eval()
    assert torch.equal(model(tokens_BT), model(tokens_BT))


def test_bfloat16_autocast_stays_near_float32_and_every_parameter_learns(
    config: ModelConfig, tokens_BT: torch.Tensor
) -> None:
    model = Decoder(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_BTV = model(tokens_BT)
    torch.testing.assert_close(low_BTV.float(), model(tokens_BT), atol=0.02, rtol=0.05)
    low_BTV.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_more_tokens_than_the_context_is_a_broken_invariant(config: ModelConfig) -> None:
    with pytest.raises(AssertionError, match="context"):
        Decoder(config)(torch.zeros(1, 33, dtype=torch.long))
