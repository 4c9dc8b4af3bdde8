"""A tiny tokenizer and decoders whose answers vary."""

from __future__ import annotations

import pytest
import torch

from chatwright.model.decoder import Decoder
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer, train_bpe


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["the capital of France is Paris. What is it? "] * 3, 300)


@pytest.fixture(params=["gpt2", "modern"])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    kv_heads = {"gpt2": 4, "modern": 2}[request.param]
    config = preset(
        request.param, vocab_size=tokenizer.vocab_size, context=64, layers=2, d_model=32, heads=4, kv_heads=kv_heads
    )
    model = Decoder(config).eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def prompts() -> list[list[int]]:
    """Prompts of many lengths, in no order."""
    generator = torch.Generator().manual_seed(2)
    lengths = (9, 1, 30, 4, 9, 62, 2, 17, 40, 5, 63)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]
