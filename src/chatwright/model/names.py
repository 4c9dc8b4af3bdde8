"""What our tensors are called in Hugging Face's files: one table a family, read in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chatwright.model.config import Layout, ModelConfig
from chatwright.model.decoder import Decoder


@dataclass(frozen=True)
class Entry:
    """One of our tensors and the Hugging Face tensors that hold it: its rows in order, each perhaps transposed."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()  # of each of ``theirs``, where there are several
    transposed: bool = False  # GPT-1's and GPT-2's Conv1D keeps [in, out]

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor as theirs."""
        parts = tensor.split(self.rows) if self.rows else (tensor,)
        return {name: part.t() if self.transposed else part for name, part in zip(self.theirs, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Their tensors as ours, in memory of its own."""
        return torch.cat([tensors[name].t() if self.transposed else tensors[name] for name in self.theirs])


@dataclass(frozen=True)
class Names:
    """A family's names, without the ``.weight`` or ``.bias`` at the end: around the blocks, and within block {i}."""

    base: str  # before all names but the head's; files of the bare model leave it out
    around: Mapping[str, str]
    block: str
    within: Mapping[str, tuple[str, ...]]
    conv1d: bool


_GPT_BLOCK = {
    "attention_norm": ("ln_1",),
    "attention.qkv": ("attn.c_attn",),
    "attention.out": ("attn.c_proj",),
    "mlp_norm": ("ln_2",),
    "mlp.up": ("mlp.c_fc",),
    "mlp.down": ("mlp.c_proj",),
}
_ROTARY_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.out": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
_GPT1 = Names("transformer.", {"embedding": "tokens_embed", "positions": "positions_embed"}, "h.{i}", _GPT_BLOCK, True)
_GPT2 = Names("transformer.", {"embedding": "wte", "positions": "wpe", "norm": "ln_f"}, "h.{i}", _GPT_BLOCK, True)
_ROTARY = Names("model.", {"embedding": "embed_tokens", "norm": "norm"}, "layers.{i}", _ROTARY_BLOCK, False)

NAMES: dict[Layout, Names] = {
    "gpt1": _GPT1,
    "gpt2": _GPT2,
    "gpt3": _GPT2,
    "llama": _ROTARY,
    "smollm3": _ROTARY,
    "qwen2": _ROTARY,
    "qwen3": _ROTARY,
}


def tensor_table(config: ModelConfig) -> list[Entry]:
    """Every parameter of `Decoder(config)` beside its Hugging Face name."""
    names = NAMES[config.layout]
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    rows = {"attention.qkv": (q, kv, kv), "mlp.up": (config.d_ff, config.d_ff)}
    with torch.device("meta"):
        parameters = dict(Decoder(config).named_parameters())
    table = []
    for ours, parameter in parameters.items():
        module, _, kind = ours.rpartition(".")
        if kind not in ("weight", "bias"):  # q_norm and k_norm are parameters of the attention itself
            module, kind = ours, "weight"
        if not module.startswith("blocks."):
            theirs = "lm_head" if module == "head" else names.base + names.around[module]
            table.append(Entry(ours, (f"{theirs}.{kind}",)))
            continue
        _, i, part = module.split(".", 2)
        block = names.base + names.block.format(i=i)
        several = tuple(f"{block}.{their}.{kind}" for their in names.within[part])
        transposed = names.conv1d and parameter.ndim == 2
        table.append(Entry(ours, several, rows[part] if len(several) > 1 else (), transposed))
    return table
