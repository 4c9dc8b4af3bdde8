"""The decoder-only transformer of the GPT papers, in one file, with its key-value cache.

Axes: B batch, T tokens, S keys (cached ones first), D model width, H query heads, K key-value heads, E width of a head,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chatwright.model.activation import activate
from chatwright.model.attention import dense_attention, maps_of, self_attention
from chatwright.model.config import ModelConfig, RopeScaling
from chatwright.model.linear import Linear
from chatwright.model.norms import LayerNorm, RMSNorm, unit_rms
from chatwright.model.sparse import sparse_attention


class KeyValues(Protocol):
    """Keys and values of tokens seen before, and how new ones attend to them."""

    length: int  # tokens that every row has there, where rows are padded to one length

    def attend(
        self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, stride: int | None, mask_BTS: Tensor | None
    ) -> Tensor:
        """Take in a layer's new keys and values and attend to all that a token may see, [B, H, T, E]."""

    def advance(self, tokens: int) -> None:
        """Called once all layers have taken in so many tokens."""


class Cache:
    """Keys and values of a padded batch, in buffers allocated once: [B, K, max_len, E] a layer."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (batch, config.kv_heads, max_len, config.d_head)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.max_len = max_len
        self.length = 0

    def attend(
        self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, stride: int | None, mask_BTS: Tensor | None
    ) -> Tensor:
        """Store the new keys and values after the ``length`` tokens there, and attend to all of them."""
        T, end = k_BKTE.shape[2], self.length + k_BKTE.shape[2]
        assert end <= self.max_len, f"the cache holds {self.max_len} tokens, not {end}"
        self.keys[layer][:, :, self.length : end] = k_BKTE
        self.values[layer][:, :, self.length : end] = v_BKTE
        if mask_BTS is None and self.length > 0 and T > 1:
            mask_BTS = torch.ones(1, T, end, dtype=torch.bool, device=q_BHTE.device).tril(self.length)
        return attention(q_BHTE, self.keys[layer][:, :, :end], self.values[layer][:, :, :end], stride, mask_BTS)

    def advance(self, tokens: int) -> None:
        """Count tokens that all layers have taken in."""
        self.length += tokens


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values come from one matrix, rows in the order q, k, v."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.d_head = config.heads, config.kv_heads, config.d_head
        self.dropout = config.dropout
        self.norm_eps = config.norm_eps
        self.stride = config.attention_stride if config.is_sparse(layer) else None
        self.rotated = config.is_rotated(layer)
        q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
        self.maps = (q, kv, kv)  # rows of qkv: one matrix holds three maps
        self.qkv = Linear(config.d_model, sum(self.maps), bias=config.bias != "none")
        self.out = Linear(config.heads * config.d_head, config.d_model, bias=config.bias in ("attention", "all"))
        self.q_norm = nn.Parameter(torch.ones(config.d_head)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(config.d_head)) if config.qk_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation | None,
        mask_BTS: Tensor | None,
        cache: KeyValues | None,
        places_N: Tensor | None = None,
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        qkv_BTNE = self.qkv(x_BTD).view(B, T, self.heads + 2 * self.kv_heads, self.d_head)
        qk_BTNE, v_BTKE = qkv_BTNE.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        parts_BTNE = [qkv_BTNE]
        if self.q_norm is not None and self.k_norm is not None:  # queries and keys in one go
            scale_NE = torch.cat((self.q_norm.expand(self.heads, -1), self.k_norm.expand(self.kv_heads, -1)))
            parts_BTNE = [qk_BTNE := unit_rms(qk_BTNE, self.norm_eps) * scale_NE, v_BTKE]
        if self.rotated and rotation is not None:
            parts_BTNE = [rotate(qk_BTNE, rotation), v_BTKE]
        # Normed and rotated in float32; attention takes the type that the values have.
        parts_BTNE = [part_BTNE.to(v_BTKE.dtype) for part_BTNE in parts_BTNE]
        dropout = self.dropout if self.training else 0.0
        if cache is None and self.stride is None:
            y_BTHE = self_attention(parts_BTNE, self.heads, self.kv_heads, mask_BTS, dropout)
            return self.out(at(y_BTHE.flatten(2), places_N))
        q_BHTE, k_BKTE, v_BKTE = (x.transpose(1, 2) for x in maps_of(parts_BTNE, self.heads, self.kv_heads))
        if cache is not None:
            y_BHTE = cache.attend(self.layer, q_BHTE, k_BKTE, v_BKTE, self.stride, mask_BTS)
        else:
            y_BHTE = attention(q_BHTE, k_BKTE, v_BKTE, self.stride, mask_BTS, dropout)
        return self.out(at(y_BHTE.transpose(1, 2).flatten(2), places_N))


def at(x_BTD: Tensor, places_N: Tensor | None) -> Tensor:
    """What stands at places of the flattened rows, [N, D]; all of it, [B, T, D], for None."""
    return x_BTD if places_N is None else x_BTD.flatten(0, 1).index_select(0, places_N)


def attention(
    q_BHTE: Tensor,
    k_BKSE: Tensor,
    v_BKSE: Tensor,
    stride: int | None,
    mask_BTS: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Dense attention, or sparse with a stride; see `dense_attention` and `sparse_attention`."""
    if stride is not None:
        return sparse_attention(q_BHTE, k_BKSE, v_BKSE, stride, mask_BTS, dropout)
    return dense_attention(q_BHTE, k_BKSE, v_BKSE, mask_BTS, dropout)


Rotation = tuple[Tensor, Tensor]  # cosines and sines of the tokens' angles, each [1 or B, T, 1, E]


def rotation_tables(config: ModelConfig) -> Rotation:
    """Cosine and sine of each position's angles, [context, E] each; e and e + E/2 turn together, as in Hugging Face."""
    inverse_E2 = inverse_frequencies(config)
    if config.rope_scaling is not None:
        inverse_E2 = scaled_frequencies(inverse_E2, config.rope_scaling)
    angles_SE2 = torch.arange(config.context, device="cpu").double()[:, None] * inverse_E2
    angles_SE = torch.cat((angles_SE2, angles_SE2), dim=-1)
    return angles_SE.cos().float(), angles_SE.sin().float()


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Angles a token of each rotated pair, before any scaling: float64 [E / 2]."""
    return config.rope_theta ** -(torch.arange(0, config.d_head, 2, device="cpu").double() / config.d_head)


def scaled_frequencies(inverse_E2: Tensor, scaling: RopeScaling) -> Tensor:
    """Angles a token, slowed down for a longer context (see `RopeScaling`)."""
    if scaling.kind == "linear":
        return inverse_E2 / scaling.factor
    turns_E2 = scaling.original_context * inverse_E2 / (2 * math.pi)  # in the original context
    fast_E2 = (turns_E2 - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    fast_E2 = fast_E2.clamp(0, 1)
    return inverse_E2 * (fast_E2 + (1 - fast_E2) / scaling.factor)


def rotate(x_BTNE: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (x[e], x[e + E/2]) by its position's angle (RoPE)."""
    cos, sin = rotation
    first, second = x_BTNE.chunk(2, dim=-1)
    return x_BTNE * cos + torch.cat((-second, first), dim=-1) * sin


class Mlp(nn.Module):
    """GELU (tanh form) as in GPT-2, or SwiGLU, whose gate and up projections are one matrix, gate rows first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.maps = (config.d_ff,) * (2 if self.gated else 1)  # rows of up: the gate's first
        self.up = Linear(config.d_model, sum(self.maps), bias=config.bias == "all")
        self.down = Linear(config.d_ff, config.d_model, bias=config.bias == "all")

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(activate(self.up(x_BTD), gated=self.gated))


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream; normed before (GPT-2) or after the sum (GPT-1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = build_norm(config)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout)
        self.post = config.norm_place == "post"
        self.recompute = False  # whether activations are made again in the backward pass instead of kept
        self._compiled: Callable[..., Tensor] | None = None

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation | None,
        mask_BTS: Tensor | None,
        cache: KeyValues | None,
        places_N: Tensor | None = None,
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return self._forward(x_BTD, rotation, mask_BTS, cache, places_N)
        learn = self._compiled or self._forward
        if self.recompute:
            return checkpoint(learn, x_BTD, rotation, mask_BTS, cache, places_N, use_reentrant=False)
        return learn(x_BTD, rotation, mask_BTS, cache, places_N)

    def compile_training(self) -> None:
        """Compile what is done for a backward pass; generation, whose shapes change at every token, stays as it is."""
        self._compiled = torch.compile(self._forward)

    def _forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation | None,
        mask_BTS: Tensor | None,
        cache: KeyValues | None,
        places_N: Tensor | None,
    ) -> Tensor:
        seen_BTD = x_BTD if self.post else self.attention_norm(x_BTD)
        mixed = self.dropout(self.attention(seen_BTD, rotation, mask_BTS, cache, places_N))
        x = at(x_BTD, places_N) + mixed
        if self.post:
            x = self.attention_norm(x)
            return self.mlp_norm(x + self.dropout(self.mlp(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def build_norm(config: ModelConfig) -> nn.Module:
    """The config's norm over the model's width."""
    kind = LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(config.d_model, eps=config.norm_eps)


class Decoder(nn.Module):
    """Tokens in, logits of the next token out. UserError when the config's combination is not built."""

    cos_SE: Tensor
    sin_SE: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.layout  # noqa: B018  refuses a combination of no family, which could not be saved, before any training
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model) if config.positions == "learned" else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = build_norm(config) if config.norm_place == "pre" else nn.Identity()
        self.head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.make_tables()
        init_weights(self)

    def make_tables(self) -> None:
        """Compute what is neither learned nor stored, the rotations of the positions; on the CPU, always."""
        if self.config.positions == "rope":
            cos_SE, sin_SE = rotation_tables(self.config)
            self.register_buffer("cos_SE", cos_SE, persistent=False)
            self.register_buffer("sin_SE", sin_SE, persistent=False)

    def drop_residuals(self, share: float) -> None:
        """Set the dropout of what each sub-block adds to the residual stream; attention and embeddings keep theirs."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.dropout.p = share

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BTS: Tensor | None = None,
        cache: KeyValues | None = None,
        places_N: Tensor | None = None,
    ) -> Tensor:
        """The states that the head reads, after the final norm where there is one, [B, T, D].

        positions_BT: int64; default 0, 1, ... after what the cache holds. mask_BTS: bool [B or 1, T, S], true where a
        token may attend, S = cache length + T; default causal. The cache, if given, takes in these tokens. places_N:
        int64, places of the flattened rows whose states alone are wanted, [N, D]; what the last block does after its
        attention is done for those.
        """
        past = 0 if cache is None else cache.length
        T = tokens_BT.shape[1]
        if positions_BT is None:
            assert past + T <= self.config.context, f"{past + T} tokens exceed the context of {self.config.context}"
            positions_BT = torch.arange(past, past + T, device=tokens_BT.device)[None]
        x_BTD = self.embedding(tokens_BT)
        rotation = None
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions_BT)
        else:
            rotation = self.cos_SE[positions_BT][:, :, None], self.sin_SE[positions_BT][:, :, None]
        x_BTD = self.dropout(x_BTD)
        if torch.is_autocast_enabled(x_BTD.device.type):
            x_BTD = x_BTD.to(torch.get_autocast_dtype(x_BTD.device.type))
        *blocks, last = self.blocks
        for block in blocks:
            x_BTD = block(x_BTD, rotation, mask_BTS, cache)
        x_BTD = last(x_BTD, rotation, mask_BTS, cache, *(() if places_N is None else (places_N,)))
        if cache is not None:
            cache.advance(T)
        return self.norm(x_BTD)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Scores of the next token, [B, T, V] (any leading axes will do)."""
        return F.linear(hidden_BTD, self.embedding.weight) if self.head is None else self.head(hidden_BTD)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BTS: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Logits of the next token after each token, [B, T, V]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens_BT, positions_BT=positions_BT, mask_BTS=mask_BTS, cache=cache))


@torch.no_grad()
def init_weights(
    model: Decoder,
    generator: torch.Generator | None = None,
    place: Callable[[Tensor, Tensor], Tensor] = lambda whole, parameter: whole,
) -> None:
    """Draw every weight anew: N(0, 0.02) (GPT-1, 4.1); norms 1, biases 0.

    With norms before the sub-blocks, residual projections are N(0, 0.02 / sqrt(2 layers)) (GPT-2, 2.3). Weights are
    drawn one parameter at a time, on the generator's device; ``place`` makes of a whole one what goes into the
    parameter, where a model is spread over processes.
    """
    std = 0.02
    residual_std = std / math.sqrt(2 * model.config.layers) if model.config.norm_place == "pre" else std
    device = model.embedding.weight.device if generator is None else generator.device
    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if name.endswith("bias"):
            drawn.zero_()
        elif "norm" in name:
            drawn.fill_(1.0)
        else:
            residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            drawn.normal_(std=residual_std if residual else std, generator=generator)
        parameter.copy_(place(drawn, parameter))
