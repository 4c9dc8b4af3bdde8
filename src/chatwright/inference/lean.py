"""A decoder block for inference on a CPU: the same computation in fewer calls, with our own kernels between products.

With few tokens in a step, calling PyTorch's small operations costs more than the products do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chatwright import native
from chatwright.model.decoder import Block, KeyValues, Rotation
from chatwright.model.norms import RMSNorm


class LeanBlock(nn.Module):
    """Stands in for a `Block` whose linear maps are `weights.Linear`; numbers are rounded at the same places."""

    def __init__(self, block: Block, source: Block) -> None:
        """In place of ``block``, with the norms of ``source``."""
        super().__init__()
        attention, mlp = block.attention, block.mlp
        self.attention, self.mlp = attention, mlp  # under their own names: their linear maps are replaced there
        self.post = block.post
        self.take(source)

    def take(self, block: Block) -> None:
        """Copy the norms of a block, and make the linear maps that are here now known to the kernels."""
        attention = block.attention
        self.norms = _norm(block.attention_norm), _norm(block.mlp_norm)
        self.turned = None
        if attention.q_norm is not None and attention.k_norm is not None:
            scales = (attention.q_norm.expand(attention.heads, -1), attention.k_norm.expand(attention.kv_heads, -1))
            self.turned = torch.cat(scales).detach().float().contiguous()
        linears = (self.attention.qkv, self.attention.out, self.mlp.up, self.mlp.down)
        structs = [struct() for linear in linears if (struct := getattr(linear, "struct", None))]
        self._structs = structs if len(structs) == len(linears) else None
        self._norm_structs = tuple(native.NormStruct.of(*norm) for norm in self.norms)

    def forward(self, x_1ND: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: KeyValues) -> Tensor:
        if self._structs is not None:
            return self._at_once(x_1ND, rotation, cache, self._structs)
        first, second = self.norms
        if self.post:
            x_1ND = native.norm(self._attend(x_1ND, x_1ND, rotation, cache), *first)
            return native.norm(self._mlp(x_1ND, x_1ND), *second)
        x_1ND = self._attend(native.norm(x_1ND, *first), x_1ND, rotation, cache)
        return self._mlp(native.norm(x_1ND, *second), x_1ND)

    def _at_once(
        self, x_1ND: Tensor, rotation: Rotation | None, cache: KeyValues, linears: list[native.LinearStruct]
    ) -> Tensor:
        """All before attention in a call, and all after it."""
        own, x_ND, (qkv, *others) = self.attention, x_1ND[0], linears
        norm = None if self.post else self._norm_structs[0]
        rotated = rotation if own.rotated else None
        heads = own.heads + own.kv_heads
        qkv_NX = native.begin_block(x_ND, norm, qkv, heads, own.d_head, own.norm_eps, self.turned, rotated)
        y_ND = self._attended(qkv_NX, cache)
        return native.end_block(y_ND, x_ND, self._norm_structs, others, post=self.post, gated=self.mlp.gated)[None]

    def _attend(self, x_1ND: Tensor, residual: Tensor, rotation: Rotation | None, cache: KeyValues) -> Tensor:
        own = self.attention
        qkv_NX = own.qkv(x_1ND)[0]
        rotated = rotation if own.rotated else None
        if rotated is not None or self.turned is not None:
            native.turn(qkv_NX, own.heads + own.kv_heads, own.d_head, own.norm_eps, self.turned, rotated)
        return own.out(self._attended(qkv_NX, cache)[None], residual)

    def _attended(self, qkv_NX: Tensor, cache: KeyValues) -> Tensor:
        """What attention makes of a step's queries, keys and values, [N, H E]."""
        own = self.attention
        H, K, E = own.heads, own.kv_heads, own.d_head
        q, k, v = qkv_NX.view(1, -1, H + 2 * K, E).transpose(1, 2).split((H, K, K), dim=1)
        return cache.attend(own.layer, q, k, v, own.stride, None).transpose(1, 2).reshape(-1, H * E)

    def _mlp(self, x_1ND: Tensor, residual: Tensor) -> Tensor:
        return self.mlp.down(native.activate(self.mlp.up(x_1ND), gated=self.mlp.gated), residual)


def _norm(norm: nn.Module) -> tuple[Tensor, Tensor | None, float, bool]:
    """A norm's weight, bias, epsilon, and whether it takes the mean off."""
    if isinstance(norm, RMSNorm):
        return norm.weight.detach().float(), None, norm.eps, False
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight.detach().float(), norm.bias.detach().float(), norm.eps, True
