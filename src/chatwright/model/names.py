"""What our tensors are called in Hugging Face's files and in GGUF: one table a family, read in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chatwright.model.config import Layout, ModelConfig
from chatwright.model.decoder import Decoder


@dataclass(frozen=True)
class Part:
    """A tensor of a file, which holds ``rows`` rows of one of ours, perhaps in another order.

    transposed: GPT-1's and GPT-2's Conv1D keeps [in, out]. interleaved: a number of heads, in each of which the two
    rows that RoPE turns together are neighbours, and not half a head apart (as Llama's own files and GGUF have them).
    """

    name: str
    rows: int
    transposed: bool = False
    interleaved: int = 0

    def written(self, ours: Tensor) -> Tensor:
        """The rows as the file has them."""
        if self.interleaved:
            ours = ours.unflatten(0, (self.interleaved, 2, -1)).transpose(1, 2).flatten(0, 2)
        return ours.t() if self.transposed else ours

    def read(self, theirs: Tensor) -> Tensor:
        """The rows as we have them."""
        if self.interleaved:
            theirs = theirs.unflatten(0, (self.interleaved, -1, 2)).transpose(1, 2).flatten(0, 2)
        return theirs.t() if self.transposed else theirs


@dataclass(frozen=True)
class Entry:
    """One of our tensors and the tensors of a file that hold it, its rows in order."""

    ours: str
    parts: tuple[Part, ...]

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor as theirs."""
        rows = tensor.split([part.rows for part in self.parts])
        return {part.name: part.written(own) for part, own in zip(self.parts, rows, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Their tensors as ours, in memory of its own."""
        return torch.cat([part.read(tensors[part.name]) for part in self.parts])


@dataclass(frozen=True)
class Names:
    """A family's names, without the ``.weight`` or ``.bias`` at the end: around the blocks, and within block {i}.

    base: before all names but the head's; files of the bare model leave it out. conv1d and interleaved: see `Part`.
    """

    base: str
    around: Mapping[str, str]
    head: str
    block: str
    within: Mapping[str, tuple[str, ...]]
    conv1d: bool = False
    interleaved: bool = False


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
_GPT1_AROUND = {"embedding": "tokens_embed", "positions": "positions_embed"}
_GPT2_AROUND = {"embedding": "wte", "positions": "wpe", "norm": "ln_f"}
_GPT1 = Names("transformer.", _GPT1_AROUND, "lm_head", "h.{i}", _GPT_BLOCK, conv1d=True)
_GPT2 = Names("transformer.", _GPT2_AROUND, "lm_head", "h.{i}", _GPT_BLOCK, conv1d=True)
_ROTARY = Names("model.", {"embedding": "embed_tokens", "norm": "norm"}, "lm_head", "layers.{i}", _ROTARY_BLOCK)

HUGGING_FACE: dict[Layout, Names] = {
    "gpt1": _GPT1,
    "gpt2": _GPT2,
    "gpt3": _GPT2,
    "llama": _ROTARY,
    "smollm3": _ROTARY,
    "qwen2": _ROTARY,
    "qwen3": _ROTARY,
}

_GGUF_AROUND = {"embedding": "token_embd", "positions": "position_embd", "norm": "output_norm"}
_GGUF_BLOCK = {
    "attention_norm": ("attn_norm",),
    "attention.q_norm": ("attn_q_norm",),
    "attention.k_norm": ("attn_k_norm",),
    "attention.out": ("attn_output",),
    "mlp_norm": ("ffn_norm",),
    "mlp.down": ("ffn_down",),
}
_GGUF_GPT_BLOCK = {**_GGUF_BLOCK, "attention.qkv": ("attn_qkv",), "mlp.up": ("ffn_up",)}
_GGUF_ROTARY_BLOCK = {
    **_GGUF_BLOCK,
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "mlp.up": ("ffn_gate", "ffn_up"),
}
_GGUF_ROTARY = Names("", _GGUF_AROUND, "output", "blk.{i}", _GGUF_ROTARY_BLOCK)
_GGUF_LLAMA = Names("", _GGUF_AROUND, "output", "blk.{i}", _GGUF_ROTARY_BLOCK, interleaved=True)

GGUF: dict[Layout, Names] = {
    "gpt2": Names("", _GGUF_AROUND, "output", "blk.{i}", _GGUF_GPT_BLOCK),
    "llama": _GGUF_LLAMA,
    "smollm3": _GGUF_LLAMA,
    "qwen2": _GGUF_ROTARY,
    "qwen3": _GGUF_ROTARY,
}


def tensor_table(config: ModelConfig, names: Names) -> list[Entry]:
    """Every parameter of `Decoder(config)` beside its names in a file."""
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    several = {"attention.qkv": (q, kv, kv), "mlp.up": (config.d_ff, config.d_ff)}
    heads = {"attention.qkv": (config.heads, config.kv_heads, 0)}
    with torch.device("meta"):
        parameters = dict(Decoder(config).named_parameters())
    table = []
    for ours, parameter in parameters.items():
        module, _, kind = ours.rpartition(".")
        if kind not in ("weight", "bias"):  # q_norm and k_norm are parameters of the attention itself
            module, kind = ours, "weight"
        if not module.startswith("blocks."):
            theirs = names.head if module == "head" else names.base + names.around[module]
            table.append(Entry(ours, (Part(f"{theirs}.{kind}", len(parameter)),)))
            continue
        _, i, module = module.split(".", 2)
        within = names.within[module]
        rows = several[module] if len(within) > 1 else (len(parameter),)
        turned = heads[module] if names.interleaved and module in heads else (0,) * len(within)
        block = names.base + names.block.format(i=i)
        transposed = names.conv1d and parameter.ndim == 2
        parts = zip(within, rows, turned, strict=True)
        table.append(Entry(ours, tuple(Part(f"{block}.{name}.{kind}", n, transposed, turn) for name, n, turn in parts)))
    return table
