"""What a model costs, from its config alone: operations and bytes. Equal to what is measured (see the tests)."""

from __future__ import annotations

from dataclasses import dataclass

from chatwright import native
from chatwright.model.attention import SHORT
from chatwright.model.config import ModelConfig, parameter_count


def train_flops(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations of training on ``tokens``: 6 N D and attention.

    N counts the head but no other embedding; a dense layer's attention takes 12 * heads * d_head * context a token,
    halved because half of it is masked (Kaplan 2020, section 2.1; Chowdhery 2022, appendix B); a sparse layer's that of
    the keys that it looks at.
    """
    matrices = parameter_count(config, embeddings=False) + config.vocab_size * config.d_model
    width, context, stride = config.heads * config.d_head, config.context, config.attention_stride
    sparse_keys = min(context / 2, stride + context / (2 * stride))
    keys = sum(sparse_keys if config.is_sparse(layer) else context / 2 for layer in range(config.layers))
    return tokens * (6.0 * matrices + 12.0 * width * keys)


def kv_cache_bytes(config: ModelConfig, tokens: int, width: int = 2) -> int:
    """Keys and values of ``tokens`` in all layers, ``width`` bytes a number."""
    return 2 * config.layers * config.kv_heads * config.d_head * tokens * width


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass keeps for the backward pass.

    block: of one block; entry: the block's input, all that is kept of a block whose activations are computed again.
    rest: of what is not in a block, the final norm and the loss. shared: the part of ``block`` that tensor parallelism
    divides.
    """

    block: float
    shared: float
    entry: float
    rest: float


def activations(config: ModelConfig, rows: int, *, low: bool, cpu: bool) -> Activations:
    """What is kept for ``rows`` rows of the model's context.

    low: whether matrices are multiplied in 16 bits, and the residual stream is in 16 bits, rather than in 32.
    cpu: in 16 bits on a CPU short rows attend by plain products, which keep their probabilities (see `attention`), and
    SwiGLU is a kernel that keeps its two inputs alone (see `activation`).
    """
    tokens, b = rows * config.context, 2 if low else 4
    D, F = config.d_model, config.d_ff
    q, kv = config.heads * config.d_head, config.kv_heads * config.d_head
    # A norm keeps its input (LayerNorm) or its float32 result before the gain (RMSNorm), and what the next map reads.
    norm = b * D + 8 + b * D if config.norm == "layernorm" else 4 * D + 4 + b * D
    if config.qk_norm:
        normed = 4 * (q + kv) + 4 * (config.heads + config.kv_heads)
        keys = normed + b * (q + kv) + b * (q + 2 * kv)  # the values keep the matrix that they are a view of
    elif config.positions == "rope":
        keys = b * (q + kv) + b * (q + 2 * kv)
    else:
        keys = b * (q + 2 * kv)
    if cpu and low and config.context <= SHORT:
        if config.positions == "rope" and not native.fast_short(config.d_head):
            keys -= b * (q + kv)  # plain products keep copies of them alone
        attention = keys + b * config.heads * config.context + b * q
    else:
        attention = keys + b * q + 4 * config.heads
    gated = 3 if cpu and low else 4
    mlp = b * F * (gated if config.activation == "swiglu" else 2)
    final = norm if config.norm_place == "pre" else 0
    return Activations(
        block=tokens * (2 * norm + attention + mlp),
        shared=tokens * (attention + mlp),
        entry=tokens * b * D,
        rest=tokens * (final + b * D) + 4.0 * config.vocab_size * D,  # the loss keeps its gradients (see objectives)
    )
