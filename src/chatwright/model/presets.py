"""The models of the papers by name, and a ladder of modern ones, as one table of sizes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig
from chatwright.storage import first_problem

_GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "norm_place": "pre",
    "norm_eps": 1e-5,
    "positions": "learned",
    "activation": "gelu_tanh",
    "qk_norm": False,
    "bias": "all",
    "tied": True,
    "dropout": 0.0,
}
_GPT1 = {**_GPT2, "norm_place": "post", "dropout": 0.1}  # GPT-1, 4.1
_GPT3 = {**_GPT2, "attention": ("dense", "sparse")}  # GPT-3, 2.1
_ROTARY: dict[str, Any] = {
    "norm": "rmsnorm",
    "norm_place": "pre",
    "positions": "rope",
    "activation": "swiglu",
    "tied": True,
    "dropout": 0.0,
}
_LLAMA = {**_ROTARY, "norm_eps": 1e-5, "qk_norm": False, "bias": "none"}
_QWEN2 = {**_ROTARY, "norm_eps": 1e-6, "qk_norm": False, "bias": "qkv"}
_QWEN3 = {**_ROTARY, "norm_eps": 1e-6, "qk_norm": True, "bias": "none"}

_GPT2_SIZES = {"vocab_size": 50_257, "context": 1024}  # GPT-2, 2.2 and 2.3
_GPT3_SIZES = {"vocab_size": 50_257, "context": 2048}  # GPT-3, 2.1
_MODERN_SIZES = {"vocab_size": 32_768, "context": 2048}  # ours


def _sized(layers: int, d_model: int, heads: int, d_head: int | None = None) -> dict[str, int]:
    return {"layers": layers, "d_model": d_model, "heads": heads, "d_head": d_head or d_model // heads}


def _ladder(depth: int) -> dict[str, int]:
    """One dial: the depth. Heads of 64, as many as layers, keys shared by two of them. Ours."""
    return {**_sized(depth, 64 * depth, depth), "kv_heads": depth // 2}


PRESETS: dict[str, dict[str, Any]] = {
    # Families, without sizes.
    "gpt2": _GPT2,
    "gpt3": _GPT3,
    "llama": _LLAMA,
    "qwen2": _QWEN2,
    "modern": _QWEN3,
    # GPT-1, 4.1: 40,000 merges; the released vocabulary has 478 characters beside them.
    "gpt1": {**_GPT1, "vocab_size": 40_478, "context": 512, **_sized(12, 768, 12)},
    # GPT-2, table 2, by the names of the paper; their true sizes are 124M, 355M, 774M and 1558M.
    "gpt2-117m": {**_GPT2, **_GPT2_SIZES, **_sized(12, 768, 12)},
    "gpt2-345m": {**_GPT2, **_GPT2_SIZES, **_sized(24, 1024, 16)},
    "gpt2-762m": {**_GPT2, **_GPT2_SIZES, **_sized(36, 1280, 20)},
    "gpt2-1542m": {**_GPT2, **_GPT2_SIZES, **_sized(48, 1600, 25)},
    # GPT-3, table 2.1, as printed. In two rows heads x d_head is not d_model: in "XL" it is 3072 and not 2048, which
    # makes 1.5B parameters (16 heads would make the 1.3B of its name); in "13B" it is 5120 and not 5140. The
    # projections in and out of attention take the difference, so nothing has to be changed.
    "gpt3-125m": {**_GPT3, **_GPT3_SIZES, **_sized(12, 768, 12, 64)},
    "gpt3-350m": {**_GPT3, **_GPT3_SIZES, **_sized(24, 1024, 16, 64)},
    "gpt3-760m": {**_GPT3, **_GPT3_SIZES, **_sized(24, 1536, 16, 96)},
    "gpt3-1.3b": {**_GPT3, **_GPT3_SIZES, **_sized(24, 2048, 24, 128)},
    "gpt3-2.7b": {**_GPT3, **_GPT3_SIZES, **_sized(32, 2560, 32, 80)},
    "gpt3-6.7b": {**_GPT3, **_GPT3_SIZES, **_sized(32, 4096, 32, 128)},
    "gpt3-13b": {**_GPT3, **_GPT3_SIZES, **_sized(40, 5140, 40, 128)},
    "gpt3-175b": {**_GPT3, **_GPT3_SIZES, **_sized(96, 12_288, 96, 128)},
    **{f"modern-d{depth}": {**_QWEN3, **_MODERN_SIZES, **_ladder(depth)} for depth in (4, 8, 12, 16, 20, 24, 32)},
}

_SIZES = ("vocab_size", "context", "layers", "d_model", "heads")


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The config called ``name`` with some fields changed.

    ``gpt2``, ``gpt3``, ``llama``, ``qwen2`` and ``modern`` (Qwen3) fix only the family and need the sizes vocab_size,
    context, layers, d_model and heads. What is not given follows: kv_heads = heads, d_head = d_model / heads, d_ff =
    4 d_model, or 3 d_model with a gate (as Qwen3-0.6B). UserError for an unknown name, field or value.

    >>> preset("modern", vocab_size=2048, context=256, layers=4, d_model=192, heads=3).d_ff
    576
    """
    if name not in PRESETS:
        raise UserError(f"There is no model preset {name!r}; choose one of {', '.join(PRESETS)}.")
    fixed = dict(PRESETS[name])
    if {"d_model", "heads"} & overrides.keys():  # what followed from the sizes that are now others
        fixed.pop("d_head", None)
    if "heads" in overrides:
        fixed.pop("kv_heads", None)
    fields = {**fixed, **overrides}
    missing = [size for size in _SIZES if size not in fields]
    if missing:
        raise UserError(f"The model preset {name!r} also needs {', '.join(missing)}.")
    if "d_head" not in fields and _whole(fields["d_model"]) and _whole(fields["heads"]):
        fields["d_head"], rest = divmod(fields["d_model"], fields["heads"])
        if rest:
            raise UserError("The model's d_model must be a multiple of its heads, unless d_head is given.")
    fields.setdefault("kv_heads", fields["heads"])
    if _whole(fields["d_model"]):
        fields.setdefault("d_ff", (3 if fields["activation"] == "swiglu" else 4) * fields["d_model"])
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        raise UserError(f"The model config is wrong: {first_problem(error)}.") from None


def _whole(value: object) -> bool:
    """Whether arithmetic on a size makes sense; anything else is left for validation to name."""
    return isinstance(value, int) and value > 0
