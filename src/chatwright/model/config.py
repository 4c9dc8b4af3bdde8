"""Every difference between models as a field of one config, the presets of the papers, and their parameter counts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatwright.errors import UserError
from chatwright.storage import first_problem

Layout = Literal["gpt2", "modern"]


class ModelConfig(BaseModel):
    """The shape of a decoder.

    context: longest sequence, in tokens. kv_heads: heads of keys and values, each shared by heads / kv_heads queries.
    norm_place: before each sub-block and once at the end (GPT-2), or after the residual add (GPT-1). qk_norm: RMSNorm
    of each head's queries and keys before RoPE. bias: of the linear layers. tied: the head is the embedding.
    attention: a pattern repeated over the layers, such as ("dense", "sparse") for GPT-3.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int = Field(ge=1)
    context: int = Field(ge=1)
    layers: int = Field(ge=1)
    d_model: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    d_head: int = Field(ge=1)
    d_ff: int = Field(ge=1)
    norm: Literal["layernorm", "rmsnorm"]
    norm_place: Literal["pre", "post"]
    norm_eps: float = Field(gt=0)
    positions: Literal["learned", "rope"]
    rope_theta: float = Field(default=10_000.0, gt=0)
    activation: Literal["gelu_tanh", "swiglu"]
    qk_norm: bool
    bias: bool
    tied: bool
    dropout: float = Field(ge=0, lt=1)
    attention: tuple[Literal["dense", "sparse"], ...] = Field(default=("dense",), min_length=1)

    @model_validator(mode="after")
    def _sizes_agree(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"d_head ({self.d_head}) must be even for rotary positions")
        return self

    @property
    def layout(self) -> Layout:
        """The family whose Hugging Face class computes the same. UserError when this combination is none of them."""
        for name, fixed in _LAYOUTS.items():
            if all(getattr(self, key) == value for key, value in fixed.items()) and self._sizes_fit(name):
                return name
        raise UserError(
            f"This combination of model fields is not built yet ({self._oddity()}); "
            "start from the preset 'gpt2' or 'modern' and change only sizes, dropout and tied."
        )

    def _sizes_fit(self, layout: Layout) -> bool:
        return layout != "gpt2" or (self.kv_heads == self.heads and self.heads * self.d_head == self.d_model)

    def _oddity(self) -> str:
        """What keeps this config from the nearest layout, in a few words."""
        nearest: Layout = "modern" if self.positions == "rope" else "gpt2"
        layout = _LAYOUTS[nearest].items()
        differing = [f"{key}={getattr(self, key)!r}" for key, value in layout if getattr(self, key) != value]
        if not differing:
            return f"heads={self.heads}, kv_heads={self.kv_heads}, d_head={self.d_head}, d_model={self.d_model}"
        return f"{', '.join(differing)} with positions={self.positions!r}"


_LAYOUTS: dict[Layout, dict[str, Any]] = {
    "gpt2": {
        "norm": "layernorm",
        "norm_place": "pre",
        "positions": "learned",
        "activation": "gelu_tanh",
        "qk_norm": False,
        "bias": True,
        "attention": ("dense",),
    },
    "modern": {
        "norm": "rmsnorm",
        "norm_place": "pre",
        "positions": "rope",
        "activation": "swiglu",
        "qk_norm": True,
        "bias": False,
        "attention": ("dense",),
    },
}

_GPT2 = {**_LAYOUTS["gpt2"], "norm_eps": 1e-5, "tied": True, "dropout": 0.0}
_GPT2_SIZES = {"vocab_size": 50_257, "context": 1024}  # GPT-2 section 2.2 and 2.3

_PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "modern": {**_LAYOUTS["modern"], "norm_eps": 1e-6, "tied": True, "dropout": 0.0},  # Qwen3
    # GPT-2 table 2, by the names of the paper; their true sizes are 124M, 355M, 774M and 1558M.
    "gpt2-117m": {**_GPT2, **_GPT2_SIZES, "layers": 12, "d_model": 768, "heads": 12},
    "gpt2-345m": {**_GPT2, **_GPT2_SIZES, "layers": 24, "d_model": 1024, "heads": 16},
    "gpt2-762m": {**_GPT2, **_GPT2_SIZES, "layers": 36, "d_model": 1280, "heads": 20},
    "gpt2-1542m": {**_GPT2, **_GPT2_SIZES, "layers": 48, "d_model": 1600, "heads": 25},
}

_SIZES = ("vocab_size", "context", "layers", "d_model", "heads")


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The config called ``name`` with some fields changed.

    ``gpt2`` and ``modern`` fix only the layout and need the sizes vocab_size, context, layers, d_model and heads. What
    is not given follows: kv_heads = heads, d_head = d_model / heads, d_ff = 4 d_model (GPT-2) or 3 d_model (as
    Qwen3-0.6B). UserError for an unknown name, field or value.

    >>> preset("modern", vocab_size=2048, context=256, layers=4, d_model=192, heads=3).d_ff
    576
    """
    if name not in _PRESETS:
        raise UserError(f"There is no model preset {name!r}; choose one of {', '.join(_PRESETS)}.")
    fields = {**_PRESETS[name], **overrides}
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


def parameter_count(config: ModelConfig, embeddings: bool = True) -> int:
    """Number of parameters; without ``embeddings``, those of the blocks and the final norm alone (N of 6ND)."""
    norm = config.d_model * (2 if config.norm == "layernorm" else 1)
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    attention = config.d_model * (q + 2 * kv) + q * config.d_model
    attention += 2 * config.d_head if config.qk_norm else 0
    up = config.d_ff * (2 if config.activation == "swiglu" else 1)
    mlp = config.d_model * up + config.d_ff * config.d_model
    biases = (q + 2 * kv + config.d_model + up + config.d_model) if config.bias else 0
    total = config.layers * (attention + mlp + biases + 2 * norm) + norm
    if embeddings:
        total += config.vocab_size * config.d_model * (1 if config.tied else 2)
        total += config.context * config.d_model if config.positions == "learned" else 0
    return total
