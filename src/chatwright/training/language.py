"""The language-model loss of a batch, whatever its rows are: windows of text or packed conversations."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from chatwright.model.decoder import Decoder
from chatwright.model.masks import document_mask, positions_from_documents
from chatwright.training.batches import Ahead, Batch
from chatwright.training.loop import Part
from chatwright.training.objectives import linear_cross_entropy
from chatwright.training.parallel import Layout
from chatwright.training.runtime import Precision, autocast


def states(model: Decoder, batch: Batch, places_N: Tensor | None = None) -> Tensor:
    """The model's last states, [B, T, D], or those at places of the flattened rows, [N, D].

    Each document of a packed row is as if it were alone.
    """
    if batch.documents_BT is None:
        return model.hidden(batch.tokens_BT, places_N=places_N)
    positions_BT = positions_from_documents(batch.documents_BT)
    mask_BTS = document_mask(batch.documents_BT)
    return model.hidden(batch.tokens_BT, positions_BT=positions_BT, mask_BTS=mask_BTS, places_N=places_N)


def summed_nats(model: Decoder, batch: Batch) -> Tensor:
    """Sum of the negative log-likelihoods of the batch's counted targets; logits are made for those alone."""
    places_N = batch.located().places_N if batch.places_N is None else batch.places_N
    assert places_N is not None
    if len(places_N) == batch.targets_BT.numel():
        hidden_ND, targets_N = states(model, batch).flatten(0, 1), batch.targets_BT.flatten()
    else:
        hidden_ND, targets_N = states(model, batch, places_N), batch.targets_BT.flatten().index_select(0, places_N)
    # After the states: only then is the weight of a spread model whole.
    weight_VD = model.embedding.weight if model.head is None else model.head.weight
    return linear_cross_entropy(hidden_ND, weight_VD, targets_N)


def language_parts(
    model: Decoder,
    rows: Ahead,
    first: int,
    count: int,
    *,
    micro_batch: int,
    precision: Precision,
    layout: Layout,
    weight: float = 1.0,
) -> Iterator[Part]:
    """``weight`` times the mean loss of the counted targets of ``count`` rows from ``first`` on.

    In parts of ``micro_batch`` rows, this process's share of them. All processes go through equally many, of equal
    size, since they exchange weights on the way; processes exchange gradients after the last part alone.
    """
    counted = rows.rows.counted(first, count)
    pieces = _pieces(layout.share(count), first, count, micro_batch)
    ahead = [*pieces[1:], _pieces(layout.share(count), first + count, count, micro_batch)[0]]
    for piece, then in zip(pieces, ahead, strict=True):
        batch = rows.batch(*piece, then).to(layout.device)
        layout.exchange(model, piece is pieces[-1])
        with autocast(precision, layout.device):
            loss = summed_nats(model, batch) * (weight / counted)
        yield Part(loss, piece[1] * batch.tokens_BT.shape[1])


def _pieces(share: range, first: int, count: int, size: int) -> list[tuple[int, int, int]]:
    """(first row, how many there are, how many slots they fill) of each part of a share.

    >>> _pieces(range(3, 6), first=100, count=5, size=2)  # rows 103 and 104, then one slot for which there is no row
    [(103, 2, 2), (100, 0, 1)]
    """
    starts = range(share.start, share.stop, size)
    ends = [min(start + size, share.stop) for start in starts]
    real = [max(0, min(end, count) - start) for start, end in zip(starts, ends, strict=True)]
    return [
        (first + start if there else first, there, end - start)
        for start, end, there in zip(starts, ends, real, strict=True)
    ]
