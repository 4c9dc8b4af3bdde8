"""LoRA: nothing changes at first, only adapters learn, and merging changes nothing but roundings."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import save_model
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import reward, sft
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


@pytest.fixture
def sources(inputs: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    """What sft and reward read; both start from one model of random weights."""
    sizes = {"layers": 2, "d_model": 32, "heads": 2, "kv_heads": 1, "context": 96}
    model = Decoder(preset("modern", vocab_size=tokenizer.vocab_size, **sizes))
    init_weights(model, torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "start", tokenizer)
    return {**inputs, "pretrain": tmp_path / "start", "sft": tmp_path / "start"}


QUICK = {"batch": 4, "checkpoint": {"every": 3}, "dtype": "float32", "lora": LoraConfig(rank=8), "optim": {"lr": 0.02}}


@pytest.mark.parametrize("stage", [sft, reward])
def test_a_stage_learns_through_adapters_resumes_to_the_same_bits_and_leaves_a_plain_model(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    config = stage.STAGE.config(**QUICK, epochs=8.0)
    folders = [tmp_path / name for name in ("straight", "killed")]
    for folder in folders:
        folder.mkdir()
    straight = stage.run(config, sources, folders[0])
    if stage is sft:
        assert straight["heldout_loss"] < straight["heldout_loss_start"] - 0.3
    else:
        assert straight["accuracy_labels"] > 0.7
    parts = "language_parts" if stage is sft else "ranking_parts"
    made, calls = getattr(stage, parts), 0

    def killed(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return made(*args, **settings)

    monkeypatch.setattr(stage, parts, killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config, sources, folders[1])
    monkeypatch.undo()
    assert stage.run(config, sources, folders[1]) == straight
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    before, after = (load_file(folder / "model.safetensors") for folder in (sources["sft"], folders[0]))
    moved = {name for name, tensor in after.items() if name not in before or not torch.equal(before[name], tensor)}
    maps = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    learned_maps = {part for name in moved for part in name.split(".") if part in maps}
    assert learned_maps == maps
    assert {name for name in moved if not maps & set(name.split("."))} <= {"score.weight"}


def test_processes_that_share_a_matrix_product_are_refused() -> None:
    with pytest.raises(ValueError, match="LoRA adapters cannot share a matrix product"):
        sft.SftConfig(lora=LoraConfig(), parallel={"tensor": 2})
