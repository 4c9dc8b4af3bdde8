"""Attention masks and positions as pure functions: causal, padded, packed. True means: may attend."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """Bool [1, T, T]: each token sees itself and those before it."""
    return torch.ones(1, length, length, dtype=torch.bool, device=device).tril()


def valid_mask(valid_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: causal, keys of padding hidden, on whichever side the padding is.

    Padding sees itself, so that no row is empty (a softmax over nothing is NaN).

    >>> valid_mask(torch.tensor([[False, True, True]]))[0].int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    length = valid_BT.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=valid_BT.device)
    return causal_mask(length, valid_BT.device) & valid_BT[:, None, :] | itself


def document_mask(document_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: causal, and only within the same document; ``document_BT`` numbers each token's document.

    >>> document_mask(torch.tensor([[7, 7, 8]]))[0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same = document_BT[:, :, None] == document_BT[:, None, :]
    return causal_mask(document_BT.shape[1], document_BT.device) & same


def shared_prefix_mask(segment_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: causal, within the same segment and to segment 0, which the others go on from.

    >>> shared_prefix_mask(torch.tensor([[0, 1, 1, 2]]))[0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    """
    return document_mask(segment_BT) | causal_mask(segment_BT.shape[1], segment_BT.device) & (segment_BT == 0)[:, None]


def positions_from_valid(valid_BT: Tensor) -> Tensor:
    """Int64 [B, T]: 0 for the first valid token, counting valid tokens only; 0 on padding before it.

    >>> positions_from_valid(torch.tensor([[False, True, True]])).tolist()
    [[0, 0, 1]]
    """
    return (valid_BT.long().cumsum(1) - 1).clamp_min(0)


def positions_from_documents(document_BT: Tensor) -> Tensor:
    """Int64 [B, T]: positions that restart at 0 where a document begins.

    >>> positions_from_documents(torch.tensor([[7, 7, 8, 8, 8]])).tolist()
    [[0, 1, 0, 1, 2]]
    """
    index_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    begins_BT = torch.ones_like(document_BT, dtype=torch.bool)
    begins_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    start_BT = torch.where(begins_BT, index_T, 0).cummax(1).values
    return index_T - start_BT
