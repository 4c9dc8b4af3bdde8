"""A decoder block for inference on a CPU: the same computation in fewer calls, with our own kernels between products.

With few tokens in a step, calling PyTorch's small operations costs more than the products do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chatwright.inference import native
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
        self.take_norms(source)

    def take_norms(self, block: Block) -> None:
        """Copy the weights of a block's norms."""
        attention = block.attention
        self.attention_norm, self.mlp_norm = _norm(block.attention_norm), _norm(block.mlp_norm)
        self.turned = None
        if attention.q_norm is not None and attention.k_norm is not None:
            scales = (attention.q_norm.expand(attention.heads, -1), attention.k_norm.expand(attention.kv_heads, -1))
            self.turned = torch.cat(scales).detach().float().contiguous()

    def forward(self, x_1ND: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: KeyValues) -> Tensor:
        if self.post:
            x_1ND = self._normed(self._attend(x_1ND, x_1ND, rotation, cache), self.attention_norm)
            return self._normed(self._mlp(x_1ND, x_1ND), self.mlp_norm)
        x_1ND = self._attend(self._normed(x_1ND, self.attention_norm), x_1ND, rotation, cache)
        return self._mlp(self._normed(x_1ND, self.mlp_norm), x_1ND)

    def _attend(self, x_1ND: Tensor, residual: Tensor, rotation: Rotation | None, cache: KeyValues) -> Tensor:
        own = self.attention
        H, K, E = own.heads, own.kv_heads, own.d_head
        qkv_NX = own.qkv(x_1ND)[0]
        rotated = rotation if own.rotated else None
        if rotated is not None or self.turned is not None:
            native.turn(qkv_NX, H + K, E, own.norm_eps, self.turned, rotated)
        q, k, v = qkv_NX.view(1, -1, H + 2 * K, E).transpose(1, 2).split((H, K, K), dim=1)
        y_1HNE = cache.attend(own.layer, q, k, v, own.stride, None)
        return own.out(y_1HNE.transpose(1, 2).reshape(1, -1, H * E), residual)

    def _mlp(self, x_1ND: Tensor, residual: Tensor) -> Tensor:
        return self.mlp.down(native.activate(self.mlp.up(x_1ND), gated=self.mlp.gated), residual)

    @staticmethod
    def _normed(x_1ND: Tensor, norm: tuple[Any, ...]) -> Tensor:
        weight, bias, eps, centred = norm
        return native.norm(x_1ND, weight, bias, eps, centred=centred)


def _norm(norm: nn.Module) -> tuple[Tensor, Tensor | None, float, bool]:
    """A norm's weight, bias, epsilon, and whether it takes the mean off."""
    if isinstance(norm, RMSNorm):
        return norm.weight.detach().float(), None, norm.eps, False
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight.detach().float(), norm.bias.detach().float(), norm.eps, True
