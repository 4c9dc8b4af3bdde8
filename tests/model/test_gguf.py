"""GGUF files: against transformers and llama.cpp as readers, every kind of block, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.gguf import read_gguf, write_gguf
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from tests.model.conftest import SIZES

Build = Callable[..., Decoder]

LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tied": False, "d_ff": 100}),
    "llama": ("llama", {"kv_heads": 2, "d_ff": 80, "d_head": 16}),
    "llama3": ("llama", {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context": 16}}),
    "llama-linear": ("llama", {"rope_scaling": {"kind": "linear", "factor": 2.0}, "tied": False}),
    "llama-biased": ("llama", {"bias": "attention", "kv_heads": 2}),
    "smollm3": ("llama", {"layers": 5, "rotary": (True, True, True, False), "kv_heads": 2}),
    "qwen2": ("qwen2", {"kv_heads": 2, "tied": False}),
    "qwen3": ("modern", {"kv_heads": 2, "d_head": 16, "rope_theta": 1_000_000.0}),
}


@pytest.fixture(params=LAYOUTS)
def model(request: pytest.FixtureRequest, build: Build) -> Decoder:
    name, fields = LAYOUTS[request.param]
    return build(preset(name, **SIZES | fields))


@pytest.fixture
def file(build: Build, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A small file, for spoiling."""
    write_gguf(build(preset("llama", **SIZES | {"kv_heads": 2})), tmp_path / "model.gguf", tokenizer, "small")
    return tmp_path / "model.gguf"


def test_what_is_written_reads_back_as_the_same_model_and_tokenizer(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path, tokens_BT: torch.Tensor
) -> None:
    write_gguf(model, tmp_path / "model.gguf", tokenizer, "small")
    read, read_tokenizer = read_gguf(tmp_path / "model.gguf")
    assert read.config == model.config.model_copy(update={"dropout": 0.0})
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    for text in ("France is 12 km away", "你好 🙂\n\n  x", "<|im_end|>"):
        assert read_tokenizer.encode(text) == tokenizer.encode(text)
    assert read_tokenizer.template == tokenizer.template
    assert (read_tokenizer.stops, read_tokenizer.pad) == (tokenizer.stops, tokenizer.pad)


def test_llama_cpp_gives_the_same_logits_and_ids(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = tmp_path / "model.gguf"
    write_gguf(model, path, tokenizer, "small")
    float32 = llama_cpp.GGML_TYPE_F32
    theirs = llama_cpp.Llama(str(path), n_ctx=32, logits_all=True, verbose=False, type_k=float32, type_v=float32)
    for text in ("the capital of France 12", "你好 🙂\n x"):
        ids = tokenizer.encode(text)
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ids
        assert theirs.detokenize(ids) == text.encode()
    theirs.eval(ids)
    expected_TV = model(torch.tensor([ids]))[0].detach().numpy()
    np.testing.assert_allclose(theirs.scores[: len(ids)], expected_TV, atol=1e-2)  # its GELU is a table
    assert theirs.token_eos() == tokenizer.end_of_turn
    assert theirs.metadata["tokenizer.chat_template"] == tokenizer.template
    theirs.close()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "Q6_K"])
def test_what_llama_cpp_quantises_is_read(kind: str, build: Build, tokenizer: Tokenizer, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = build(preset("llama", vocab_size=300, context=32, layers=2, d_model=256, heads=4, d_ff=512))
    plain, quantised = tmp_path / "plain.gguf", tmp_path / "quantised.gguf"
    write_gguf(model, plain, tokenizer, "small")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    assert llama_cpp.llama_model_quantize(str(plain).encode(), str(quantised).encode(), parameters) == 0
    assert quantised.stat().st_size < 0.5 * plain.stat().st_size
    ids = tokenizer.encode("the capital of France")
    theirs = llama_cpp.Llama(str(quantised), n_ctx=32, logits_all=True, verbose=False)
    theirs.eval(ids)
    expected_TV = torch.from_numpy(theirs.scores[: len(ids)].copy())
    theirs.close()
    read_TV = read_gguf(quantised)[0](torch.tensor([ids]))[0].detach()
    away_TV = model(torch.tensor([ids]))[0].detach()
    off = (read_TV - expected_TV).abs().mean() / expected_TV.std()
    assert off < 0.05  # it rounds activations to eight bits, too
    if kind not in ("Q8_0", "Q6_K"):
        assert off < 0.5 * (away_TV - expected_TV).abs().mean() / expected_TV.std()


# transformers does not read the context of a gpt2, the width of a qwen3's heads, nor scaled angles.
@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("llama", {}),
        ("llama3", {"rope_scaling": None}),
        ("qwen2", {}),
        ("qwen3", {"d_head": 128}),
        ("gpt2", {"context": 1024}),
    ],
)
def test_transformers_reads_it_with_the_same_logits_and_ids(
    name: str,
    needed: dict[str, Any],
    build: Build,
    tokenizer: Tokenizer,
    tmp_path: Path,
    tokens_BT: torch.Tensor,
) -> None:
    family, fields = LAYOUTS[name]
    model = build(preset(family, **SIZES | fields | needed))
    write_gguf(model, tmp_path / "model.gguf", tokenizer, "small")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    torch.testing.assert_close(theirs(tokens_BT).logits, model(tokens_BT), atol=1e-4, rtol=0)
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert their_tokenizer("the capital")["input_ids"] == tokenizer.encode("the capital")


BLOCKS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_block_is_read(kind: str, tokenizer: Tokenizer, tmp_path: Path, build: Build) -> None:
    model = build(preset("llama", vocab_size=300, context=32, layers=1, d_model=256, heads=4, d_ff=512))
    path = tmp_path / "model.gguf"
    write_gguf(model, path, tokenizer, "small")
    stored = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[stored]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (512, 256 // block * size), dtype=np.uint8)
    if block == 256:  # the half-precision scales of a K block are at its end or its beginning: keep them finite
        blocks.reshape(-1, size)[:, [1, 3, -3, -1]] &= 0x3F
    elif kind not in ("F32", "F16", "BF16"):
        blocks.reshape(-1, size)[:, [1, 3]] &= 0x3F
    else:
        blocks = gguf.quants.quantize(rng.standard_normal((512, 256), dtype=np.float32), stored)
    rewrite(path, {"blk.0.ffn_up.weight": (blocks, stored)})
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.view(blocks.dtype), stored).astype(np.float32))
    assert expected.isfinite().all()
    assert expected.std() > 0
    read, _ = read_gguf(path)
    assert torch.equal(read.blocks[0].mlp.up.weight[512:], expected.reshape(512, 256))


@pytest.mark.parametrize(("kind", "off"), [("F16", 2e-3), ("BF16", 8e-3), ("Q8_0", 2e-2), ("Q4_0", 0.3), ("Q4_1", 0.3)])
def test_rounded_matrices_are_near_and_vectors_exact(
    kind: Any, off: float, build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = build(preset("modern", vocab_size=300, context=32, layers=1, d_model=64, heads=4))
    write_gguf(model, tmp_path / "model.gguf", tokenizer, "small", kind)
    read, _ = read_gguf(tmp_path / "model.gguf")
    for name, tensor in model.state_dict().items():
        got = read.state_dict()[name]
        if tensor.ndim == 1:
            assert torch.equal(got, tensor)
        else:
            assert not torch.equal(got, tensor)
            assert ((got - tensor).abs() <= off * tensor.abs().amax()).all(), name


def test_two_ends_of_an_answer_are_kept(build: Build, tokenizer: Tokenizer, tmp_path: Path) -> None:
    two = Tokenizer(tokenizer.description, tokenizer.roles, tokenizer.template, [tokenizer.end_of_text])
    write_gguf(build(preset("llama", **SIZES)), tmp_path / "model.gguf", two, "small")
    assert read_gguf(tmp_path / "model.gguf")[1].stops == {tokenizer.end_of_turn, tokenizer.end_of_text}


def test_what_llama_cpp_does_not_have_is_refused_and_nothing_is_left(
    build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, fields, message in [
        ("gpt1", {}, "no gpt1 architecture"),
        ("gpt3", {}, "no gpt3 architecture"),
        ("modern", {"bias": "attention"}, "qwen3 has no biases"),
        ("llama", {"rotary": (True, False)}, "every fourth layer"),
    ]:
        with pytest.raises(UserError, match=message):
            write_gguf(build(preset(name, **SIZES | fields)), tmp_path / "model.gguf", tokenizer, "small")
    odd = json.loads(json.dumps(tokenizer.description))
    odd["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(UserError, match="no name for the way this tokenizer cuts text"):
        write_gguf(build(preset("llama", **SIZES)), tmp_path / "x.gguf", Tokenizer(odd, tokenizer.roles), "small")
    assert not list(tmp_path.iterdir())


def rewrite(path: Path, tensors: Mapping[str, Any] = {}, fields: Mapping[str, Any] = {}) -> None:
    """Write a file again with other tensors (array and type; None to leave out) and fields (None to leave out)."""
    reader = gguf.GGUFReader(path)
    architecture = fields.get("general.architecture", "llama")
    writer = gguf.GGUFWriter(path.with_suffix(".new"), architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = fields.get(key, field.contents())
        if value is not None:
            kind = gguf.GGUFValueType.get_type(value) if key in fields else field.types[0]
            writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        data, kind = tensors.get(tensor.name, (tensor.data, tensor.tensor_type)) or (None, None)
        if data is not None:
            writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    del reader
    path.with_suffix(".new").replace(path)


def small(*shape: int) -> tuple[np.ndarray, Any]:
    return np.zeros(shape, np.float32), gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1000]), "is truncated or not a GGUF file"),
        (lambda f: f.write_bytes(f.read_bytes()[:3000]), "is truncated or not a GGUF file"),
        (lambda f: f.write_bytes(b""), "is truncated or not a GGUF file"),
        (lambda f: f.write_bytes(b"\x80\x04\x95pickle"), "is truncated or not a GGUF file"),
        (lambda f: rewrite(f, fields={"general.architecture": "gemma"}), "its architecture is 'gemma'"),
        (lambda f: rewrite(f, {"blk.1.attn_k.weight": None}), "lacks the tensor blk.1.attn_k.weight"),
        (lambda f: rewrite(f, {"token_embd.weight": None}), "lacks the tensor token_embd.weight"),
        (lambda f: rewrite(f, {"blk.1.ffn_up.weight": small(7, 48)}), "ffn_up.weight has the shape"),
        (lambda f: rewrite(f, {"output_norm.weight": small(48, 1)}), "output_norm.weight has the shape"),
        (lambda f: rewrite(f, fields={"llama.block_count": 2}), "blk.2.attn_k.weight and 8 more, for which its"),
        (lambda f: rewrite(f, fields={"llama.context_length": None}), "lacks the field llama.context_length"),
        (lambda f: rewrite(f, fields={"llama.attention.head_count": [4, 4, 4]}), "only one number for all layers"),
        (lambda f: rewrite(f, fields={"llama.attention.head_count": 0}), "heads"),
        (lambda f: rewrite(f, fields={"llama.rope.dimension_count": 4}), "rotates only a part"),
        (lambda f: rewrite(f, fields={"llama.rope.scaling.type": "linear"}), None),
        (lambda f: rewrite(f, fields={"tokenizer.ggml.model": "bert"}), "tokenizer.ggml.model is 'bert'"),
        (lambda f: rewrite(f, fields={"tokenizer.ggml.pre": "viking"}), "tokenizer.ggml.pre is 'viking'"),
        (lambda f: rewrite(f, fields={"tokenizer.ggml.tokens": None}), "lacks the field tokenizer.ggml.tokens"),
        (lambda f: rewrite(f, fields={"tokenizer.ggml.merges": ["a"]}), "its tokenizer cannot be used"),
    ],
)
def test_a_spoilt_file_is_one_clear_sentence(file: Path, spoil: Callable[[Path], Any], message: str | None) -> None:
    spoil(file)
    if message is None:
        read_gguf(file)
        return
    with pytest.raises(UserError, match=message) as error:
        read_gguf(file)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(file))
