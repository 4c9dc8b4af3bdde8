from __future__ import annotations

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig, parameter_count, preset
from chatwright.model.decoder import Decoder

SIZES = {"vocab_size": 300, "context": 32, "layers": 3, "d_model": 48, "heads": 4}


@pytest.mark.parametrize(
    ("name", "millions"), [("gpt2-117m", 124), ("gpt2-345m", 355), ("gpt2-762m", 774), ("gpt2-1542m", 1558)]
)
def test_gpt2_presets_have_the_true_sizes_of_the_papers_models(name: str, millions: int) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
    assert round(parameter_count(config) / 1e6) == millions


def test_parameter_count_equals_the_module(config: ModelConfig) -> None:
    model = Decoder(config)
    inside = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("blocks.", "norm.")))
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    assert parameter_count(config, embeddings=False) == inside


def test_a_preset_derives_what_is_not_given_and_keeps_what_is() -> None:
    modern = preset("modern", **SIZES)
    assert (modern.kv_heads, modern.d_head, modern.d_ff, modern.layout) == (4, 12, 144, "modern")
    assert preset("gpt2", **SIZES).d_ff == 192
    assert preset("modern", **SIZES, d_head=20, kv_heads=2, d_ff=7).d_head == 20


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt5", {}, "no model preset 'gpt5'"),
        ("modern", {"heads": 5}, "multiple of its heads"),
        ("modern", {"kv_heads": 3}, "multiple of kv_heads"),
        ("modern", {"d_head": 7}, "must be even"),
        ("modern", {"layers": 0}, "layers"),
        ("modern", {"d_model": "wide"}, "d_model"),
        ("modern", {"width": 5}, "width"),
        ("gpt2", {"dropout": 1.0}, "dropout"),
    ],
)
def test_a_wrong_preset_is_one_sentence(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        preset(name, **SIZES | changes)
    assert "\n" not in str(raised.value)


def test_a_base_preset_names_the_sizes_it_lacks() -> None:
    with pytest.raises(UserError, match="needs context, layers"):
        preset("modern", vocab_size=300, d_model=48, heads=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_place": "post"},
        {"attention": ("dense", "sparse")},
        {"norm": "rmsnorm"},
        {"kv_heads": 2},
        {"d_head": 16},
    ],
)
def test_a_combination_that_is_not_built_is_refused_before_training(changes: dict[str, object]) -> None:
    config = preset("gpt2", **SIZES | changes)
    with pytest.raises(UserError, match="not built yet") as raised:
        Decoder(config)
    assert str(raised.value).count(". ") == 0
