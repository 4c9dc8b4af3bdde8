from __future__ import annotations

from collections.abc import Callable

from chatwright.inference.sampling import Sampling
from chatwright.service.answers import End, answer
from chatwright.service.models import LoadedModel


def test_an_answer_ends_with_its_reason_and_exact_cost(scripted: Callable[..., LoadedModel]):
    model = scripted("The capital of Japan is Tokyo.")
    tokens = len(model.tokenizer.encode("The capital of Japan is Tokyo."))
    *pieces, end = answer(model, [1], Sampling())
    assert "".join(pieces) == "The capital of Japan is Tokyo."
    assert end == End("stop", tokens + 1)
    assert list(answer(model, [1], Sampling(max_tokens=2)))[-1] == End("length", 2)


def test_a_stop_string_ends_generation_soon(scripted: Callable[..., LoadedModel]):
    model = scripted("Tokyo. " * 100)
    *pieces, end = answer(model, [1], Sampling(max_tokens=500, stop=(".",)))
    assert "".join(pieces) == "Tokyo"
    assert end.reason == "stop"
    assert end.tokens == model.engine.generated < 20
