"""The formulas of `model.cost` beside what PyTorch really keeps and what is counted by hand."""

from __future__ import annotations

import pytest
import torch

from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.cost import activations, kv_cache_bytes, train_flops
from chatwright.model.decoder import Cache, Decoder
from chatwright.model.presets import preset
from chatwright.training.batches import Batch
from chatwright.training.language import summed_nats
from chatwright.training.runtime import autocast


def kept(model: Decoder, rows: int, precision: str) -> int:
    """Bytes of the storages that a forward pass saves for the backward pass, parameters left out."""
    config = model.config
    tokens_BT = torch.randint(0, config.vocab_size, (rows, config.context))
    batch = Batch(tokens_BT, tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    low = autocast(precision, torch.device("cpu"))  # type: ignore[arg-type]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), low:
        summed_nats(model, batch)
    return sum(sizes.values())


@pytest.mark.parametrize("family", ["gpt2", "modern", "llama"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("context", [128, 1024])
def test_what_is_kept_is_what_the_formula_says(family: str, precision: str, context: int) -> None:
    shared = {} if family == "gpt2" else {"kv_heads": 2}
    config = preset(family, vocab_size=512, context=context, layers=3, d_model=128, heads=4, **shared)
    model = Decoder(config)
    rows, low = 2048 // context, precision == "bfloat16"
    expected = activations(config, rows, low=low, cpu=True)
    found = kept(model, rows, precision)
    assert found == pytest.approx(config.layers * expected.block + expected.rest, rel=0.02)


def test_the_key_value_cache_is_as_large_as_it_says() -> None:
    config = preset("modern", vocab_size=64, context=32, layers=3, d_model=64, heads=4, kv_heads=2)
    model, cache = Decoder(config).eval(), Cache(config, batch=2, max_len=32)
    with torch.no_grad():
        model(torch.zeros(2, 32, dtype=torch.long), cache=cache)
    held = sum(x.numel() * x.element_size() for layer in range(3) for x in (cache.keys[layer], cache.values[layer]))
    assert kv_cache_bytes(config, 2 * 32, width=4) == held


def attention_flops(config: ModelConfig) -> float:
    return train_flops(config, 1) - 6 * (parameter_count(config, embeddings=False) + config.vocab_size * config.d_model)


def test_sparse_layers_cost_what_they_look_at() -> None:
    dense, mixed = preset("gpt2-117m", context=2048), preset("gpt3-125m")
    assert attention_flops(dense) == pytest.approx(12 * 12 * 768 * 1024)
    assert attention_flops(mixed) == pytest.approx(attention_flops(dense) / 2 * (1 + (64 + 16) / 1024))
