"""Every difference between models as a field of one config, the families it can express, and parameter counts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.errors import UserError

Layout = Literal["gpt1", "gpt2", "gpt3", "llama", "smollm3", "qwen2", "qwen3"]


class RopeScaling(BaseModel):
    """How rotary angles are stretched for a longer context than the one pretrained with.

    linear: every angle divided by ``factor`` (Chen 2023, arXiv 2306.15595). llama3: only the slow ones, those of waves
    longer than original_context / low_freq_factor tokens; waves shorter than original_context / high_freq_factor stay,
    and those between are blended (Llama 3.1).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear", "llama3"]
    factor: float = Field(gt=0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_context: int = Field(default=8192, gt=0)

    @model_validator(mode="after")
    def _bands_are_in_order(self) -> RopeScaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        return self


class ModelConfig(BaseModel):
    """The shape of a decoder.

    context: longest sequence, in tokens. kv_heads: heads of keys and values, each shared by heads / kv_heads queries.
    norm_place: before each sub-block and once at the end (GPT-2), or after the residual add (GPT-1). qk_norm: RMSNorm
    of each head's queries and keys before RoPE. bias: which linear layers have one: none, the query, key and value
    projections (Qwen2), all four of attention, or all. tied: the head is the embedding. rotary: a pattern repeated over
    the layers, false where queries and keys are not rotated (SmolLM3). attention: likewise, ("dense", "sparse") for
    GPT-3; attention_stride: of the sparse layers, see `chatwright.model.sparse`.
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
    rope_scaling: RopeScaling | None = None
    rotary: tuple[bool, ...] = Field(default=(True,), min_length=1)
    activation: Literal["gelu_tanh", "swiglu"]
    qk_norm: bool
    bias: Literal["none", "qkv", "attention", "all"]
    tied: bool
    dropout: float = Field(ge=0, lt=1)
    attention: tuple[Literal["dense", "sparse"], ...] = Field(default=("dense",), min_length=1)
    attention_stride: int = Field(default=64, ge=1)  # ours, near sqrt(2048) (Child 2019, 4.2); GPT-3 prints none

    @model_validator(mode="after")
    def _sizes_agree(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"d_head ({self.d_head}) must be even for rotary positions")
        return self

    @property
    def layout(self) -> Layout:
        """The family that this combination belongs to. UserError when it is none of them."""
        for name, allowed in _LAYOUTS.items():
            if all(getattr(self, key) in values for key, values in allowed.items()) and self._sizes_fit(name):
                return name
        raise UserError(
            f"No model family has this combination of fields ({self._oddity()}); "
            "start from a preset and change only sizes, dropout and tied."
        )

    def is_sparse(self, layer: int) -> bool:
        """Whether the attention of a layer is sparse."""
        return self.attention[layer % len(self.attention)] == "sparse"

    def is_rotated(self, layer: int) -> bool:
        """Whether a layer turns its queries and keys by their positions."""
        return self.positions == "rope" and self.rotary[layer % len(self.rotary)]

    def _sizes_fit(self, layout: Layout) -> bool:
        """GPT's layers have as many keys as queries; GPT-1's and GPT-2's heads fill the width."""
        if self.positions == "rope":
            return True
        return self.kv_heads == self.heads and (layout == "gpt3" or self.heads * self.d_head == self.d_model)

    def _oddity(self) -> str:
        """What keeps this config from the nearest family, in a few words."""
        nearest: Layout = "gpt3" if self.positions == "learned" else "qwen3" if self.qk_norm else "llama"
        allowed = _LAYOUTS[nearest].items()
        differing = [f"{key}={getattr(self, key)!r}" for key, values in allowed if getattr(self, key) not in values]
        if not differing:
            return f"heads={self.heads}, kv_heads={self.kv_heads}, d_head={self.d_head}, d_model={self.d_model}"
        return f"{', '.join(differing)} with positions={self.positions!r}"


_DENSE = (("dense",),)
_GPT: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "positions": ("learned",),
    "activation": ("gelu_tanh",),
    "qk_norm": (False,),
    "bias": ("all",),
}
_ROTARY: dict[str, tuple[Any, ...]] = {
    "norm": ("rmsnorm",),
    "norm_place": ("pre",),
    "positions": ("rope",),
    "activation": ("swiglu",),
    "attention": _DENSE,
}

# What each family allows of the fields that are not sizes; the first family that allows all is a config's layout.
_LAYOUTS: dict[Layout, dict[str, tuple[Any, ...]]] = {
    "gpt1": {**_GPT, "norm_place": ("post",), "attention": _DENSE},
    "gpt2": {**_GPT, "norm_place": ("pre",), "attention": _DENSE},
    "gpt3": {**_GPT, "norm_place": ("pre",)},
    "llama": {**_ROTARY, "qk_norm": (False,), "bias": ("none", "attention"), "rotary": ((True,),)},
    "smollm3": {**_ROTARY, "qk_norm": (False,), "bias": ("none", "attention")},
    "qwen2": {**_ROTARY, "qk_norm": (False,), "bias": ("qkv",), "rotary": ((True,),)},
    "qwen3": {**_ROTARY, "qk_norm": (True,), "bias": ("none", "attention"), "rotary": ((True,),)},
}


def parameter_count(config: ModelConfig, embeddings: bool = True) -> int:
    """Number of parameters; without ``embeddings``, those of the blocks and the final norm alone (N of 6ND)."""
    norm = config.d_model * (2 if config.norm == "layernorm" else 1)
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    attention = config.d_model * (q + 2 * kv) + q * config.d_model
    attention += 2 * config.d_head if config.qk_norm else 0
    up = config.d_ff * (2 if config.activation == "swiglu" else 1)
    mlp = config.d_model * up + config.d_ff * config.d_model
    biases = {
        "none": 0,
        "qkv": q + 2 * kv,
        "attention": q + 2 * kv + config.d_model,
        "all": q + 2 * kv + config.d_model + up + config.d_model,
    }[config.bias]
    total = config.layers * (attention + mlp + biases + 2 * norm) + (norm if config.norm_place == "pre" else 0)
    if embeddings:
        total += config.vocab_size * config.d_model * (1 if config.tied else 2)
        total += config.context * config.d_model if config.positions == "learned" else 0
    return total
