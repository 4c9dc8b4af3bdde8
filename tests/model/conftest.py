"""A tiny tokenizer, tiny decoders with weights far from symmetric, and random tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from chatwright.model.config import ModelConfig
from chatwright.model.decoder import Decoder
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer, train_bpe

SIZES = {"vocab_size": 300, "context": 32, "layers": 3, "d_model": 48, "heads": 4}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["the capital of France is Paris. 你好，世界 "] * 3, 290)


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt1": ("gpt1", {"dropout": 0.0}),
    "gpt2": ("gpt2", {"d_ff": 100}),
    "gpt2-untied": ("gpt2", {"tied": False}),
    "gpt3": ("gpt3", {"d_head": 16, "attention_stride": 5}),
    "llama": ("llama", {"kv_heads": 2, "d_ff": 80}),
    "llama-scaled-biased": (
        "llama",
        {
            "bias": "attention",
            "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context": 16},
        },
    ),
    "llama-linear": ("llama", {"rope_scaling": {"kind": "linear", "factor": 2.0}}),
    "smollm3": ("llama", {"rotary": (True, True, False), "kv_heads": 2, "d_ff": 80}),
    "qwen2": ("qwen2", {"kv_heads": 2, "tied": False}),
    "modern": ("modern", {"kv_heads": 2, "d_head": 16, "d_ff": 80}),
    "modern-mha-untied": ("modern", {"tied": False, "rope_theta": 1_000_000.0}),
}


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    name, fields = FAMILIES[request.param]
    return preset(name, **SIZES | fields)


@pytest.fixture
def build() -> Callable[[ModelConfig], Decoder]:
    """A decoder in evaluation mode whose every parameter, norms and biases too, is random."""

    def build(config: ModelConfig, seed: int = 0) -> Decoder:
        generator = torch.Generator().manual_seed(seed)
        model = Decoder(config).eval()
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 1 + 0.3 * noise if "norm" in name and not name.endswith("bias") else 0.2 * noise
        return model

    return build


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(1))
