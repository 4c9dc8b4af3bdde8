from __future__ import annotations

import time

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.decoder import Decoder
from chatwright.model.presets import PRESETS, preset

SIZES = {"vocab_size": 300, "context": 32, "layers": 3, "d_model": 48, "heads": 4}


# Total and without embeddings, computed apart from the code: a block of GPT has 4 d (heads x d_head) + 8 d^2 weights,
# 3 (heads x d_head) + 6 d biases and 4 d of norms.
COUNTS = {
    "gpt1": (116_534_784, 85_054_464),
    "gpt2-117m": (124_439_808, 85_056_000),
    "gpt2-345m": (354_823_168, 302_311_424),
    "gpt2-762m": (774_030_080, 708_390_400),
    "gpt2-1542m": (1_557_611_200, 1_475_561_600),
    "gpt3-125m": (125_226_240, 85_056_000),
    "gpt3-350m": (355_871_744, 302_311_424),
    "gpt3-760m": (760_300_032, 679_959_552),
    "gpt3-1.3b": (1_517_123_584, 1_410_002_944),
    "gpt3-2.7b": (2_651_553_280, 2_517_652_480),
    "gpt3-6.7b": (6_658_404_352, 6_444_163_072),
    "gpt3-13b": (12_936_488_380, 12_667_640_680),
    "gpt3-175b": (174_604_259_328, 173_961_535_488),
}


@pytest.mark.parametrize("name", [name for name in PRESETS if "vocab_size" in PRESETS[name]])
def test_a_preset_builds_at_once_without_memory_and_has_the_papers_parameters(name: str) -> None:
    config = preset(name)
    started = time.process_time()
    with torch.device("meta"):
        model = Decoder(config)
    assert time.process_time() - started < 1
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
    if name in COUNTS:
        assert (parameter_count(config), parameter_count(config, embeddings=False)) == COUNTS[name]


def test_gpt3_presets_are_as_printed_and_alternate_dense_and_sparse_layers() -> None:
    xl, largest = preset("gpt3-1.3b"), preset("gpt3-175b")
    assert (xl.heads, xl.d_head, xl.d_model) == (24, 128, 2048)
    assert (largest.layers, largest.d_model, largest.heads, largest.context) == (96, 12_288, 96, 2048)
    assert [largest.is_sparse(layer) for layer in range(4)] == [False, True, False, True]


def test_the_ladder_of_modern_models_has_one_dial() -> None:
    names = [name for name in PRESETS if name.startswith("modern-d")]
    sizes = [parameter_count(preset(name), embeddings=False) for name in names]
    assert sizes == sorted(sizes)
    assert all(preset(name).d_model == 64 * preset(name).layers for name in names)


def test_parameter_count_equals_the_module(config: ModelConfig) -> None:
    model = Decoder(config)
    inside = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("blocks.", "norm.")))
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    assert parameter_count(config, embeddings=False) == inside


def test_a_preset_derives_what_is_not_given_and_keeps_what_is() -> None:
    modern = preset("modern", **SIZES)
    assert (modern.kv_heads, modern.d_head, modern.d_ff, modern.layout) == (4, 12, 144, "qwen3")
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
        {"norm_place": "post", "attention": ("dense", "sparse")},
        {"norm": "rmsnorm"},
        {"kv_heads": 2},
        {"norm_place": "post", "d_head": 16},
        {"bias": "qkv"},
    ],
)
def test_a_combination_of_no_family_is_refused_before_training(changes: dict[str, object]) -> None:
    config = preset("gpt2", **SIZES | changes)
    with pytest.raises(UserError, match="No model family") as raised:
        Decoder(config)
    assert str(raised.value).count(". ") == 0


def test_changing_the_width_of_a_preset_changes_its_heads() -> None:
    assert preset("gpt3-125m", d_model=96, heads=4).d_head == 24
    assert preset("modern-d8", heads=4, d_model=256).kv_heads == 4
