from __future__ import annotations

import torch

from chatwright.model import masks

VALID_BT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
DOCUMENT_BT = torch.tensor([[5, 5, 2, 2], [0, 1, 2, 2], [3, 3, 3, 3]])


def test_causal_mask_sees_itself_and_before() -> None:
    assert masks.causal_mask(3)[0].tolist() == [[s <= t for s in range(3)] for t in range(3)]


def test_valid_mask_equals_the_loop_and_has_no_empty_row() -> None:
    mask_BTS = masks.valid_mask(VALID_BT)
    for b, t, s in torch.cartesian_prod(*map(torch.arange, mask_BTS.shape)).tolist():
        assert mask_BTS[b, t, s] == ((s <= t and bool(VALID_BT[b, s])) or s == t)
    assert mask_BTS.any(2).all()


def test_document_mask_equals_the_loop() -> None:
    mask_BTS = masks.document_mask(DOCUMENT_BT)
    for b, t, s in torch.cartesian_prod(*map(torch.arange, mask_BTS.shape)).tolist():
        assert mask_BTS[b, t, s] == (s <= t and DOCUMENT_BT[b, s] == DOCUMENT_BT[b, t])


def test_positions_count_valid_tokens() -> None:
    assert masks.positions_from_valid(VALID_BT).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0], [0, 1, 2, 3]]


def test_positions_restart_in_each_document() -> None:
    assert masks.positions_from_documents(DOCUMENT_BT).tolist() == [[0, 1, 0, 1], [0, 0, 0, 1], [0, 1, 2, 3]]
