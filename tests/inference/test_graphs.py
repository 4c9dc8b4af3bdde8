"""The layout of recorded steps, with a recorder that computes anew what a GPU would launch again."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from chatwright import native
from chatwright.inference import graphs, weights
from chatwright.inference.engine import Engine
from chatwright.inference.graphs import Recorded, StepGraphs
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.tokenizer.bpe import Tokenizer


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "usable", lambda tensor: False)
    monkeypatch.setattr(weights, "_linear", lambda weight, bias, precision: weights.Plain(weight.bfloat16(), bias))


class Recorder:
    """Keeps what a step reads and writes in place, as a CUDA graph does."""

    def __init__(self) -> None:
        self.recorded = self.launched = 0

    def __call__(self, step: Callable[[], Tensor]) -> Recorded:
        self.recorded += 1
        states_RD = step().clone()

        def launch() -> None:
            self.launched += 1
            states_RD.copy_(step())

        return launch, states_RD


def recording(engine: Engine) -> Recorder:
    recorder = Recorder()
    engine._graphs = StepGraphs(engine.model, engine._cache, recorder)
    return recorder


def samplings(count: int) -> list[Sampling]:
    """Greedy and drawn, of many lengths."""
    return [Sampling(3 + 5 * i, temperature=float(i % 2), seed=i, logprobs=0) for i in range(count)]


def test_recorded_steps_answer_as_others_do(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    wanted = Engine(model, tokenizer, batch_size=4).generate(prompts, samplings(len(prompts)))
    engine = Engine(model, tokenizer, batch_size=4)
    recorder = recording(engine)
    found = engine.generate(prompts, samplings(len(prompts)))
    assert [answer.tokens for answer in found] == [answer.tokens for answer in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert recorder.launched > 3 * recorder.recorded
    assert set(engine._graphs._steps) <= {(rows, 4) for rows in (1, 2, 4, 8, 16, 32)}  # type: ignore[union-attr]


def test_rows_that_nobody_asked_for_leave_all_blocks_alone(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, batch_size=3)
    recording(engine)
    for length in (1, 2, 3):
        engine.submit(list(range(length)), Sampling(20, seed=length))
    engine.step()
    before = [buffer.clone() for buffer in engine._cache.keys]
    engine.step()  # three rows, filled up to four
    written = [(now != then).flatten(1).any(1) for now, then in zip(engine._cache.keys, before, strict=True)]
    own = {request.sequence.blocks[0] for request in engine._requests.values()}
    for blocks in written:
        assert set(blocks.nonzero().flatten().tolist()) <= own | {engine._cache.spare}


def test_new_weights_are_seen_by_what_was_recorded_before(model: Decoder, tokenizer: Tokenizer) -> None:
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    ask = [[5, 6, 7]], [Sampling(12, temperature=0.0)]
    engine = Engine(model, tokenizer, batch_size=2, precision="bfloat16")
    recorder = recording(engine)
    first = engine.generate(*ask)
    engine.refresh(other)
    recorded = recorder.recorded
    assert engine.source is other
    second = engine.generate(*ask)
    assert recorder.recorded == recorded
    wanted = Engine(other, tokenizer, batch_size=2, precision="bfloat16").generate(*ask)
    assert second[0].tokens == wanted[0].tokens
    assert second[0].logprobs == pytest.approx(wanted[0].logprobs, abs=1e-3)
    assert second[0].logprobs != first[0].logprobs


def test_examples() -> None:
    assert doctest.testmod(graphs).failed == 0
