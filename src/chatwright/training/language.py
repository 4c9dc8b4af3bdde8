"""The language-model loss of a batch, whatever its rows are: windows of text or packed conversations."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from chatwright.model.decoder import Decoder
from chatwright.model.masks import document_mask, positions_from_documents
from chatwright.training.batches import Batch
from chatwright.training.loop import Part
from chatwright.training.objectives import linear_cross_entropy
from chatwright.training.runtime import Precision, autocast


def states(model: Decoder, batch: Batch) -> Tensor:
    """The model's last states, [B, T, D]; each document of a packed row as if it were alone."""
    if batch.documents_BT is None:
        return model.hidden(batch.tokens_BT)
    positions_BT = positions_from_documents(batch.documents_BT)
    return model.hidden(batch.tokens_BT, positions_BT=positions_BT, mask_BTS=document_mask(batch.documents_BT))


def summed_nats(model: Decoder, batch: Batch) -> Tensor:
    """Sum of the negative log-likelihoods of the batch's counted targets; logits are made for those alone."""
    weight_VD = model.embedding.weight if model.head is None else model.head.weight
    return linear_cross_entropy(states(model, batch)[batch.mask_BT], weight_VD, batch.targets_BT[batch.mask_BT])


def language_parts(
    model: Decoder, batch: Batch, micro_batch: int, precision: Precision, weight: float = 1.0
) -> Iterator[Part]:
    """``weight`` times the mean loss of the batch's counted targets, as parts of ``micro_batch`` rows."""
    device = model.embedding.weight.device
    counted = int(batch.mask_BT.sum())
    for first in range(0, len(batch.tokens_BT), micro_batch):
        part = batch.rows(slice(first, first + micro_batch)).to(device)
        with autocast(precision, device):
            loss = summed_nats(model, part) * (weight / counted)
        yield Part(loss, part.tokens_BT.numel())
