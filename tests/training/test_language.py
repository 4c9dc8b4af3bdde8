from __future__ import annotations

import doctest

import pytest
import torch

from chatwright.model.decoder import Decoder
from chatwright.model.presets import preset
from chatwright.training import language
from chatwright.training.batches import Ahead, Example, Packed
from chatwright.training.language import language_parts, states, summed_nats
from chatwright.training.loop import accumulate
from chatwright.training.objectives import lm_loss
from chatwright.training.parallel import Layout


@pytest.fixture(params=["modern", "gpt2"])
def model(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(0)
    return Decoder(preset(request.param, vocab_size=50, context=24, layers=2, d_model=32, heads=4))


@pytest.fixture
def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(50, (length,), generator=generator).tolist() for length in (9, 12, 5, 20, 3)]
    return [Example(row, [i % 3 > 0 for i in range(len(row))]) for row in ids]


def test_a_packed_conversation_has_the_logits_that_it_has_alone(model: Decoder, examples: list[Example]) -> None:
    packed = Packed(examples, length=24, pad=0, seed=0)
    assert len(packed) < len(examples)
    for row, items in enumerate(packed.contents):
        batch = packed.rows([row])
        together_TV = model.logits(states(model, batch))[0]
        for document, item in enumerate(items):
            alone_TV = model(torch.tensor([examples[item].ids[:-1]]))[0]
            torch.testing.assert_close(together_TV[batch.documents_BT[0] == document], alone_TV, atol=1e-5, rtol=1e-4)


def test_the_loss_of_a_packed_batch_is_that_of_its_conversations(model: Decoder, examples: list[Example]) -> None:
    packed = Packed(examples, length=24, pad=0, seed=0)
    alone = 0.0
    for example in examples:
        ids, mask = torch.tensor([example.ids]), torch.tensor([example.mask[1:]])
        alone += lm_loss(model(ids[:, :-1]), ids[:, 1:], mask).item() * int(mask.sum())
    together = summed_nats(model, packed.rows(range(len(packed)))).item()
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 16])
def test_micro_batches_change_neither_loss_nor_gradient(
    model: Decoder, examples: list[Example], alone: Layout, micro_batch: int
) -> None:
    rows = Ahead(Packed(examples, length=24, pad=0, seed=0), pin=False)
    settings = {"precision": "float32", "weight": 0.5, "layout": alone}
    parts = list(language_parts(model, rows, 0, 4, micro_batch=4, **settings))
    expected = torch.autograd.grad(parts[0].loss, model.blocks[0].mlp.up.weight)[0]
    sums = accumulate(language_parts(model, rows, 0, 4, micro_batch=micro_batch, **settings), alone)
    assert float(sums["loss"]) == pytest.approx(parts[0].loss.item(), rel=1e-5)
    torch.testing.assert_close(model.blocks[0].mlp.up.weight.grad, expected, atol=1e-6, rtol=1e-4)


def test_worked_examples_hold() -> None:
    assert doctest.testmod(language).failed == 0


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_shares_of_all_processes_are_equally_many_and_cover_the_rows_once(ranks: int) -> None:
    count, seen = 5, []
    shapes = set()
    for rank in range(ranks):
        each = -(-count // ranks)
        pieces = language._pieces(range(rank * each, (rank + 1) * each), 100, count, 2)
        shapes.add(tuple(slots for _, _, slots in pieces))
        seen += [first + i for first, there, _ in pieces for i in range(there)]
    assert sorted(seen) == [100, 101, 102, 103, 104]
    assert len(shapes) == 1
