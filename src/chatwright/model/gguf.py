"""GGUF files, llama.cpp's format, to a model and its tokenizer and back. The package `gguf` reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from torch import Tensor

import chatwright.tokenizer.gguf as tokenizer_fields
from chatwright.errors import UserError
from chatwright.model.config import Layout, ModelConfig, RopeScaling
from chatwright.model.decoder import Decoder, inverse_frequencies, scaled_frequencies
from chatwright.model.names import GGUF
from chatwright.model.presets import preset
from chatwright.model.weights import check_shapes, expected_shapes, to_decoder, to_tensors
from chatwright.storage import whole_file
from chatwright.tokenizer.bpe import Tokenizer

GgufType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
WRITTEN: tuple[GgufType, ...] = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers

# Our fields beside theirs, without the architecture in front; what is not here needs more than a name.
_FIELDS = {
    "context": "context_length",
    "layers": "block_count",
    "d_model": "embedding_length",
    "d_ff": "feed_forward_length",
    "heads": "attention.head_count",
}
_PRESETS = {"gpt2": "gpt2", "llama": "llama", "smollm3": "llama", "qwen2": "qwen2", "qwen3": "modern"}
_ROPE_FACTORS = "rope_freqs.weight"  # what each angle is divided by: llama3's scaling
_ORIGINAL_CONTEXT = "rope.scaling.original_context_length"
_LLAMA3_CONTEXT = 8192  # where a file does not say it, as most do not: what all its models have
_SMOLLM3_ROTATION = (True, True, True, False)  # llama.cpp knows no other


def read_gguf(path: Path) -> tuple[Decoder, Tokenizer]:
    """The model of a file, its weights as float32. UserError says what is wrong with it."""
    fields, stored = _read(path)
    try:
        layout = _layout(fields)
        tokenizer = tokenizer_fields.from_fields(fields)
        tensors = {name: tensor for name, tensor in stored.items() if name != _ROPE_FACTORS}
        config = _config(fields, layout, tensors, stored.get(_ROPE_FACTORS))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(found, expected_shapes(config, GGUF[layout]), path, "metadata")
    return to_decoder(config, GGUF[layout], tensors), tokenizer


def write_gguf(model: Decoder, path: Path, tokenizer: Tokenizer, name: str, kind: GgufType = "F32") -> None:
    """Write a model that llama.cpp loads; matrices as ``kind``, vectors and learned positions as float32.

    UserError where llama.cpp has no such architecture or tokenizer.
    """
    config = model.config
    layout = config.layout
    if layout not in GGUF:
        raise UserError(f"llama.cpp has no {layout} architecture; use --format hf.")
    fields = _fields(config) | tokenizer_fields.to_fields(tokenizer, config.vocab_size)
    tensors = to_tensors(model, GGUF[layout])
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plain_E2 = inverse_frequencies(config)
        tensors[_ROPE_FACTORS] = (plain_E2 / scaled_frequencies(plain_E2, config.rope_scaling)).float()
    with whole_file(path) as partial:
        writer = gguf.GGUFWriter(partial, layout)
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[kind])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in fields.items():
            _add(writer, key, value)
        for key, tensor in tensors.items():
            matrix = tensor.ndim == 2 and not key.startswith("position_embd")
            _add_tensor(writer, key, tensor, kind if matrix else "F32")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All fields and tensors of a file, dequantised."""
    try:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {}
        for stored in reader.tensors:
            values = gguf.quants.dequantize(stored.data, stored.tensor_type)
            tensors[stored.name] = torch.from_numpy(np.array(values, dtype=np.float32))
        return fields, tensors
    except NotImplementedError:
        raise UserError(f"{path} has tensors of the type {stored.tensor_type.name}, which cannot be read.") from None
    except Exception as error:  # the reader trusts the file: a broken one fails anywhere
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not a GGUF file ({reason}); copy it again.") from None


def _layout(fields: Mapping[str, Any]) -> Layout:
    named = fields.get("general.architecture")
    for layout in GGUF:
        if layout == named:
            return layout
    raise UserError(f"its architecture is {named!r}; these can be read: {', '.join(GGUF)}.")


def _config(
    fields: Mapping[str, Any], layout: Layout, tensors: Mapping[str, Tensor], rope_factors: Tensor | None
) -> ModelConfig:
    def number(key: str, default: float | None = None) -> Any:
        value = fields.get(f"{layout}.{key}", default)
        if value is None:
            raise UserError(f"it lacks the field {layout}.{key}.")
        if not isinstance(value, int | float):
            raise UserError(f"{layout}.{key} is {value!r}; only one number for all layers is supported.")
        return value

    if "token_embd.weight" not in tensors:
        raise UserError("it lacks the tensor token_embd.weight.")
    ours: dict[str, Any] = {name: number(key) for name, key in _FIELDS.items()}
    ours |= {"vocab_size": len(tensors["token_embd.weight"]), "tied": "output.weight" not in tensors}
    if layout == "gpt2":
        return preset("gpt2", **ours, norm_eps=_decimal(number("attention.layer_norm_epsilon")))
    ours["norm_eps"] = _decimal(number("attention.layer_norm_rms_epsilon"))
    ours["rope_theta"] = _decimal(number("rope.freq_base", 10_000.0))
    ours["kv_heads"] = number("attention.head_count_kv", ours["heads"])
    if f"{layout}.attention.key_length" in fields:
        ours["d_head"] = number("attention.key_length")
    if layout == "smollm3":
        ours["rotary"] = _SMOLLM3_ROTATION
    if layout != "qwen2" and "blk.0.attn_q.bias" in tensors:
        ours["bias"] = "attention"
    config = preset(_PRESETS[layout], **ours)
    if number("rope.dimension_count", config.d_head) != config.d_head:
        raise UserError("it rotates only a part of each head, which is not supported.")
    scaling = _rope_scaling(fields, layout, config, rope_factors)
    return config.model_copy(update={"rope_scaling": scaling})


def _rope_scaling(
    fields: Mapping[str, Any], layout: Layout, config: ModelConfig, factors_E2: Tensor | None
) -> RopeScaling | None:
    kind = fields.get(f"{layout}.rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling(kind="linear", factor=_decimal(fields.get(f"{layout}.rope.scaling.factor", 1.0)))
    if kind != "none":
        raise UserError(f"its rope.scaling.type is {kind!r}; 'linear' and llama3's factors can be read.")
    if factors_E2 is None:
        return None
    original = fields.get(f"{layout}.{_ORIGINAL_CONTEXT}", _LLAMA3_CONTEXT)
    scaling = RopeScaling(kind="llama3", factor=_decimal(factors_E2.max().item()), original_context=original)
    plain_E2 = inverse_frequencies(config)
    expected_E2 = (plain_E2 / scaled_frequencies(plain_E2, scaling)).float()
    if factors_E2.shape != expected_E2.shape or not torch.allclose(factors_E2, expected_E2, rtol=1e-4):
        raise UserError(f"its {_ROPE_FACTORS} are not those of llama3's scaling, which alone is supported.")
    return scaling


def _fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that tell the model's shape. UserError where llama.cpp has no such model."""
    layout = config.layout
    ours: dict[str, Any] = {theirs: getattr(config, name) for name, theirs in _FIELDS.items()}
    ours["vocab_size"] = config.vocab_size
    if layout == "gpt2":
        ours["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        ours |= {
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "attention.head_count_kv": config.kv_heads,
            "attention.key_length": config.d_head,
            "attention.value_length": config.d_head,
            "rope.dimension_count": config.d_head,
            "rope.freq_base": float(config.rope_theta),
        }
    if layout in ("qwen3", "smollm3") and config.bias != "none":
        raise UserError(f"llama.cpp's {layout} has no biases in attention; use --format hf.")
    rotation = tuple(config.is_rotated(layer) for layer in range(config.layers))
    if layout == "smollm3" and rotation != (_SMOLLM3_ROTATION * config.layers)[: config.layers]:
        raise UserError("llama.cpp's smollm3 leaves every fourth layer unrotated, and this model others.")
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        ours |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
    elif config.rope_scaling is not None:
        ours[_ORIGINAL_CONTEXT] = config.rope_scaling.original_context
    return {f"{layout}.{key}": value for key, value in ours.items()}


def _decimal(value: float) -> float:
    """A float32 as the decimal number that it was written as: 9.999999747378752e-06 is 1e-05."""
    return float(str(np.float32(value))) if math.isfinite(value) else value


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _add_tensor(writer: gguf.GGUFWriter, key: str, tensor: Tensor, kind: GgufType) -> None:
    values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if values.shape[-1] % block:
        kind = "F16"  # as llama.cpp does with rows that no block of the kind fits
    stored = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(key, gguf.quants.quantize(values, stored), raw_dtype=stored)
