"""LoRA: nothing changes at first, only adapters learn, and merging changes nothing but roundings."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.training.lora import LoraConfig, LoraLinear, add_adapters, has_adapters, learned, merged, sharing, twin
from chatwright.training.optim import Muon, OptimConfig, build_optimizers

TOKENS = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 0, 4]])


def new_model(name: str = "modern") -> Decoder:
    """Four query heads share two key-value heads, so that the fused map's three parts have two sizes."""
    sizes = {"vocab_size": 16, "context": 8, "layers": 2, "d_model": 32, "heads": 4}
    model = Decoder(preset(name, **sizes, **({"kv_heads": 2} if name == "modern" else {})))
    init_weights(model, torch.Generator().manual_seed(0))
    return model.eval()


def shaken(model: torch.nn.Module) -> None:
    """Adapters as they are after some learning."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.lora_b.normal_(std=0.3, generator=generator)


@pytest.mark.parametrize("name", ["modern", "gpt2"])
def test_new_adapters_change_no_logit(name: str) -> None:
    model = new_model(name)
    before = model(TOKENS)
    add_adapters(model, LoraConfig(rank=2), seed=1)
    assert torch.equal(model(TOKENS), before)


@pytest.mark.parametrize("name", ["modern", "gpt2"])
def test_a_merged_model_is_plain_and_has_the_same_logits(name: str) -> None:
    model = new_model(name)
    before = model(TOKENS)
    add_adapters(model, LoraConfig(rank=3, alpha=5.0), seed=1)
    shaken(model)
    plain = merged(model)
    assert not has_adapters(plain)
    assert plain.state_dict().keys() == new_model(name).state_dict().keys()
    torch.testing.assert_close(plain(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-4)
    assert (plain(TOKENS) - before).abs().max() > 0.01
    assert merged(plain) is plain


def test_each_of_the_maps_in_a_fused_matrix_has_an_adapter_of_its_own() -> None:
    """The change of queries, of keys and of values is each of the rank; together they have more."""
    model = new_model()
    base = model.blocks[0].attention.qkv.weight.detach().clone()
    add_adapters(model, LoraConfig(rank=2), seed=1)
    shaken(model)
    change = merged(model).blocks[0].attention.qkv.weight - base
    assert [int(torch.linalg.matrix_rank(part)) for part in change.split((32, 16, 16))] == [2, 2, 2]
    assert int(torch.linalg.matrix_rank(change)) == 6


def test_only_adapters_learn_and_adamw_updates_them() -> None:
    model = new_model()
    frozen = deepcopy(model)
    add_adapters(model, LoraConfig(rank=2, targets=("qkv", "down")), seed=1)
    optimizers = build_optimizers(model, OptimConfig(lr=0.1))
    assert not any(isinstance(optimizer, Muon) for optimizer in optimizers)
    for _ in range(2):
        model(TOKENS).logsumexp(-1).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    now, then = dict(model.named_parameters()), dict(frozen.named_parameters())
    for name, parameter in then.items():
        assert torch.equal(now[name], parameter), name
    learning = {name for name, parameter in now.items() if parameter.requires_grad}
    assert {name.split(".")[3] for name in learning} == {"qkv", "down"}
    assert all(now[name].abs().sum() > 0 for name in learning)


def test_copies_share_what_is_frozen_and_learn_apart() -> None:
    model = new_model()
    reference = sharing(model, list(model.parameters()))
    add_adapters(model, LoraConfig(rank=2), seed=1)
    other = twin(model)
    shaken(model)
    qkv, its_qkv = model.blocks[0].attention.qkv, other.blocks[0].attention.qkv
    assert its_qkv.weight is qkv.weight
    assert reference.blocks[0].attention.qkv.weight is qkv.weight
    assert (its_qkv.lora_b == 0).all()
    assert torch.equal(reference(TOKENS), other(TOKENS))
    assert not torch.equal(model(TOKENS), other(TOKENS))


def test_a_checkpoint_holds_adapters_and_head_alone() -> None:
    model = ScoredDecoder(new_model(), torch.Generator().manual_seed(0))
    add_adapters(model.decoder, LoraConfig(rank=2, targets=("out",)), seed=1)
    parameters = dict(learned(model).named_parameters())
    adapters = {f"decoder/blocks/{layer}/attention/out/lora_{x}" for layer in (0, 1) for x in "ab"}
    assert parameters.keys() == adapters | {"head/weight"}
    assert parameters["head/weight"] is model.head.weight
    plain = new_model()
    assert learned(plain) is plain
