from __future__ import annotations

import math
from collections.abc import Callable

import torch

from chatwright.model.config import ModelConfig
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import positions_from_valid, valid_mask
from chatwright.model.presets import preset

Build = Callable[..., Decoder]


def test_a_score_is_the_heads_product_with_the_state_minus_the_bias(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor
) -> None:
    decoder = build(config)
    model = ScoredDecoder(decoder)
    model.bias.fill_(2.5)
    expected_BT = (decoder.hidden(tokens_BT) * model.head.weight[0]).sum(-1) - 2.5
    torch.testing.assert_close(model(tokens_BT), expected_BT, atol=1e-5, rtol=1e-5)


def test_padding_does_not_change_scores(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = ScoredDecoder(build(config))
    valid_BT = torch.arange(20) >= torch.tensor([[0], [6], [19]])
    scores_BT = model(tokens_BT, positions_BT=positions_from_valid(valid_BT), mask_BTS=valid_mask(valid_BT))
    for row, start in enumerate((0, 6, 19)):
        alone_BT = model(tokens_BT[row : row + 1, start:])
        torch.testing.assert_close(scores_BT[row, start:], alone_BT[0], atol=1e-4, rtol=0)


def test_head_init_has_the_spread_of_the_details_paper() -> None:
    sizes = {"vocab_size": 8, "context": 8, "layers": 1, "heads": 2}
    decoder = Decoder(preset("modern", **sizes, d_model=4096, d_ff=8, d_head=2))
    weight = ScoredDecoder(decoder, torch.Generator().manual_seed(0)).head.weight
    assert abs(weight.std().item() * math.sqrt(4097) - 1) < 0.05


def test_a_zeroed_head_scores_zero(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = ScoredDecoder(build(config))
    model.bias.fill_(1.0)
    model.zero_head()
    assert (model(tokens_BT) == 0).all()


def test_scores_are_float32_under_autocast(config: ModelConfig, build: Build, tokens_BT: torch.Tensor) -> None:
    model = ScoredDecoder(build(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(tokens_BT).dtype == torch.float32
