from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from chatwright.inference.sampling import Sampling
from chatwright.service.answers import End, StopStrings, answer
from chatwright.service.models import LoadedModel


def said(pieces: list[str], stops: list[str]) -> list[str]:
    scanner = StopStrings(stops)
    return [scanner.feed(piece) for piece in pieces] + [scanner.rest()]


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_stop_string_that_is_complete_first_whatever_the_pieces(
    pieces: list[str], stops: list[str]
):
    text = expected = "".join(pieces)
    for end in range(len(text) + 1):
        complete = [text.find(stop, 0, end) for stop in stops if stop in text[:end]]
        if complete:
            expected = text[: min(complete)]
            break
    assert "".join(said(pieces, stops)) == expected


def test_half_a_stop_string_is_held_back_until_it_is_none():
    assert said(["one #", "# two #", "## three"], ["###"]) == ["one ", "## two ", "", ""]
    assert said(["one #", "#"], ["###"]) == ["one ", "", "##"]


def test_an_answer_ends_with_its_reason_and_exact_cost(scripted: Callable[..., LoadedModel]):
    model = scripted("The capital of Japan is Tokyo.")
    tokens = len(model.tokenizer.encode("The capital of Japan is Tokyo."))
    *pieces, end = answer(model, [1], Sampling())
    assert "".join(pieces) == "The capital of Japan is Tokyo."
    assert end == End("stop", tokens + 1)
    assert list(answer(model, [1], Sampling(max_tokens=2)))[-1] == End("length", 2)


def test_a_stop_string_ends_generation_soon(scripted: Callable[..., LoadedModel]):
    model = scripted("Tokyo. " * 100)
    *pieces, end = answer(model, [1], Sampling(max_tokens=500), ["."])
    assert "".join(pieces) == "Tokyo"
    assert end.reason == "stop"
    assert end.tokens == model.engine.generated < 20
