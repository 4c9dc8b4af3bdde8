from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig
from chatwright.model.decoder import Cache, Decoder
from chatwright.model.folder import load_model, load_reward, save_model, save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import document_mask, positions_from_documents, positions_from_valid, valid_mask
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer

Build = Callable[..., Decoder]
CLOSE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer, build: Build) -> Path:
    """A small saved model, for spoiling."""
    config = preset("modern", vocab_size=300, context=32, layers=2, d_model=48, heads=4, kv_heads=2)
    save_model(build(config), tmp_path / "model", tokenizer)
    return tmp_path / "model"


GPT_SIZES = {"vocab_size": 300, "n_positions": 32, "n_embd": 48, "n_layer": 3, "n_head": 4}
ROTARY_SIZES = {
    "vocab_size": 300,
    "max_position_embeddings": 32,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
THEIRS: dict[str, tuple[type[PreTrainedModel], PretrainedConfig]] = {
    "gpt1": (OpenAIGPTLMHeadModel, OpenAIGPTConfig(**GPT_SIZES)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT_SIZES)),
    "gpt2-wide": (GPT2LMHeadModel, GPT2Config(**GPT_SIZES | {"n_embd": 96, "n_head": 2, "n_inner": 50})),
    "llama": (LlamaForCausalLM, LlamaConfig(**ROTARY_SIZES)),
    "llama-tied-biased": (
        LlamaForCausalLM,
        LlamaConfig(**ROTARY_SIZES, tie_word_embeddings=True, attention_bias=True, rms_norm_eps=1e-5, head_dim=20),
    ),
    "llama3": (LlamaForCausalLM, LlamaConfig(**ROTARY_SIZES, rope_parameters=LLAMA3)),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**ROTARY_SIZES, no_rope_layers=[1, 0, 1])),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**ROTARY_SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**ROTARY_SIZES, head_dim=16)),
}


def their_model(name: str) -> PreTrainedModel:
    """A model of transformers whose every weight, norms and biases too, is random."""
    kind, config = THEIRS[name]
    model = kind(config)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_our_folder_loads_in_transformers_with_the_same_logits(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    if config.layout == "gpt3":
        pytest.skip("transformers has no class for it")
    ours = build(config)
    save_model(ours, tmp_path, tokenizer)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not theirs.training
    torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).logits, **CLOSE)
    assert theirs.generation_config.eos_token_id == tokenizer.end_of_turn
    assert theirs.generation_config.pad_token_id == tokenizer.pad
    assert AutoTokenizer.from_pretrained(tmp_path)("France 世界").input_ids == tokenizer.encode("France 世界")


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_of_transformers_loads_here_with_the_same_logits(
    name: str, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ours, read_tokenizer = load_model(tmp_path)
    assert read_tokenizer.hash == tokenizer.hash
    ours.eval()
    torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).logits, **CLOSE)

    lengths_B1 = torch.tensor([[20], [11], [2]])
    index_T = torch.arange(20)
    for valid_BT in (index_T >= 20 - lengths_B1, index_T < lengths_B1):  # padded on the left, on the right
        positions_BT = positions_from_valid(valid_BT)
        our_BTV = ours(tokens_BT, positions_BT=positions_BT, mask_BTS=valid_mask(valid_BT))
        their_BTV = theirs(tokens_BT, attention_mask=valid_BT.long(), position_ids=positions_BT).logits
        torch.testing.assert_close(our_BTV[valid_BT], their_BTV[valid_BT], **CLOSE)

    document_BT = torch.tensor([[0] * 7 + [1] * 13] * 3)
    packed_BTV = ours(
        tokens_BT, positions_BT=positions_from_documents(document_BT), mask_BTS=document_mask(document_BT)
    )
    alone = [theirs(part_BT).logits for part_BT in tokens_BT.split([7, 13], dim=1)]
    torch.testing.assert_close(packed_BTV, torch.cat(alone, dim=1), **CLOSE)

    cache = Cache(ours.config, batch=3, max_len=20)
    stepped = [ours(tokens_BT[:, t : t + 1], cache=cache) for t in range(20)]
    torch.testing.assert_close(torch.cat(stepped, dim=1), theirs(tokens_BT).logits, **CLOSE)


@pytest.mark.parametrize("name", THEIRS)
def test_in_bfloat16_ours_is_as_near_to_float32_as_theirs(
    name: str, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ours = load_model(tmp_path)[0].eval()
    exact_BTV = theirs(tokens_BT).logits
    our_error = (ours.bfloat16()(tokens_BT).float() - exact_BTV).abs()
    their_error = (theirs.bfloat16()(tokens_BT).logits.float() - exact_BTV).abs()
    assert our_error.mean() < 1.15 * their_error.mean()
    assert our_error.mean() < 0.03 * exact_BTV.std()


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "llama", "qwen3"])
def test_dropout_acts_where_theirs_does(
    name: str, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dropout that drops nothing but scales, the logits tell every place it acts in."""
    scaled, attention = 1.25, F.scaled_dot_product_attention

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return scaled * x if training and p else x

    def attend(*inputs: torch.Tensor, dropout_p: float = 0.0, **options: Any) -> torch.Tensor:
        return dropout(attention(*inputs, **options), dropout_p)  # as linear in the values as in the weights

    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields |= {key: 0.1 for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout") if key in fields}
    path.write_text(json.dumps(fields))
    theirs = type(theirs).from_pretrained(tmp_path, attn_implementation="eager").train()
    ours = load_model(tmp_path)[0].train()
    if not name.startswith("gpt"):  # theirs drops attention's weights alone
        for module in ours.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    undropped_BTV = ours.eval()(tokens_BT)
    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    dropped_BTV = ours.train()(tokens_BT)
    torch.testing.assert_close(dropped_BTV, theirs(tokens_BT).logits, **CLOSE)
    assert (dropped_BTV - undropped_BTV).abs().max() > 0.1


def test_saved_and_loaded_is_the_same_model(
    config: ModelConfig, build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = build(config.model_copy(update={"dropout": 0.1}))
    save_model(model, tmp_path / "a", tokenizer)
    global_state = torch.get_rng_state()
    loaded, read_tokenizer = load_model(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), global_state)  # loading draws no random number
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    save_model(loaded, tmp_path / "b", read_tokenizer)
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_a_bfloat16_folder_loads_as_float32(
    config: ModelConfig, build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = build(config)
    save_model(model, tmp_path, tokenizer, dtype=torch.bfloat16)
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "model.safetensors").values())
    loaded, _ = load_model(tmp_path)
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16().float())


def test_a_reward_folder_gives_transformers_the_same_scores_but_for_the_bias(
    config: ModelConfig, build: Build, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    if config.layout == "gpt3":
        pytest.skip("transformers has no class for it")
    tokens_BT = tokens_BT.clamp_max(255)  # no pad among them: transformers looks for the last token that is none
    reward = ScoredDecoder(build(config))
    reward.bias.fill_(0.75)
    save_reward(reward, tmp_path, tokenizer)
    theirs, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(reward(tokens_BT)[:, -1], theirs(tokens_BT).logits[:, 0] - 0.75, **CLOSE)
    loaded, _ = load_reward(tmp_path)
    loaded.eval()
    assert torch.equal(loaded(tokens_BT), reward(tokens_BT))


def spoil_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value != "absent"}))


def spoil_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: os.rename(f, f.with_name("other")), "no model folder"),
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "architecture None"),
        (lambda f: spoil_config(f, architectures=["OPTForCausalLM"]), "OPTForCausalLM.*can be read: OpenAIGPTLMHead"),
        (lambda f: spoil_config(f, layer_types=["sliding_attention"] * 2), "layer_types"),
        (lambda f: spoil_config(f, use_sliding_window=True), "use_sliding_window=True is not supported"),
        (lambda f: spoil_config(f, architectures=["Qwen3ForSequenceClassification"]), "architecture"),
        (lambda f: spoil_config(f, head_dim="absent"), "lacks the field 'head_dim'"),
        (lambda f: spoil_config(f, num_hidden_layers="many"), "layers"),
        (lambda f: spoil_config(f, attention_bias=True), "lacks the tensor model.layers.0.self_attn.k_proj.bias"),
        (lambda f: spoil_config(f, rope_parameters={"rope_type": "yarn", "rope_theta": 1.0}), "'yarn'"),
        (lambda f: spoil_config(f, rope_parameters=3), "rope_parameters"),
        (lambda f: spoil_config(f, vocab_size=280), "tokenizer has 290 ids"),
        (lambda f: spoil_config(f, hidden_size=64), r"shape \(300, 48\).*asks for \(300, 64\)"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json does not exist"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda f: os.truncate(f / "model.safetensors", 20_000), "truncated"),
        (lambda f: os.truncate(f / "model.safetensors", 0), "truncated"),
        (lambda f: spoil_tensors(f, lambda t: t.pop("model.norm.weight")), "lacks the tensor model.norm.weight"),
        (lambda f: spoil_tensors(f, lambda t: t.update(extra=torch.ones(2))), "has the tensor extra"),
        (lambda f: spoil_tensors(f, lambda t: t.update({"model.norm.weight": torch.ones(2)})), r"shape \(2,\)"),
    ],
)
def test_a_spoilt_folder_is_one_clear_sentence(folder: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


def test_a_language_model_is_not_taken_for_a_reward_model(folder: Path) -> None:
    with pytest.raises(UserError, match="architecture"):
        load_reward(folder)


def test_a_tokenizer_larger_than_the_model_is_refused_before_anything_is_written(
    build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = preset("gpt2", vocab_size=100, context=8, layers=1, d_model=8, heads=1)
    with pytest.raises(UserError, match="290 ids"):
        save_model(build(config), tmp_path / "model", tokenizer)
    assert not (tmp_path / "model").exists()


def test_sharded_folders_are_read_and_a_missing_shard_is_one_sentence(
    tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = their_model("llama")
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    tokenizer.save(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    ours, _ = load_model(tmp_path)
    torch.testing.assert_close(ours.eval()(tokens_BT), theirs(tokens_BT).logits, **CLOSE)
    shards[1].unlink()
    with pytest.raises(UserError, match=f"{shards[1].name} does not exist"):
        load_model(tmp_path)


def test_a_file_of_the_bare_gpt2_with_its_old_buffers_is_read(
    tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """As the file that OpenAI's GPT-2 has on the hub: no ``transformer.``, and causal masks among the weights."""
    theirs = their_model("gpt2")
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril() for i in range(3)}
    save_file(bare, tmp_path / "model.safetensors")
    ours, _ = load_model(tmp_path)
    torch.testing.assert_close(ours.eval()(tokens_BT), theirs(tokens_BT).logits, **CLOSE)


def test_nothing_is_unpickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        load_model(folder)


def test_a_full_disk_is_the_system_s_own_error_and_leaves_no_model(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("chatwright.model.folder.save_file", full)
    model = Decoder(preset("gpt2", vocab_size=300, context=8, layers=1, d_model=8, heads=2))
    with pytest.raises(OSError, match="No space left on device") as error:
        save_model(model, tmp_path / "model", tokenizer)
    assert error.value.errno == errno.ENOSPC
    assert not list((tmp_path / "model").glob("*.safetensors*"))
