"""Stop strings: the text ends before the first, and no part of one is ever said."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from chatwright.inference import sampling, speculation, text
from chatwright.inference.text import AnswerText, StopStrings
from chatwright.tokenizer.bpe import Tokenizer


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


def test_a_stop_string_is_found_across_tokens_and_characters_that_broke_off_are_said_once(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer.stream(), ["好的"])
    for byte in "你好的！".encode():
        for token in tokenizer.encode_bytes(bytes([byte])):
            answer.feed(token)
    answer.end()
    assert answer.pieces == ["你"]
    assert answer.stopped
    broken = AnswerText(tokenizer.stream(), [])
    for token in tokenizer.encode_bytes("好".encode()[:2]):
        broken.feed(token)
    broken.end()
    assert broken.pieces == ["\N{REPLACEMENT CHARACTER}"]


def test_worked_examples_hold() -> None:
    for module in (text, speculation, sampling):
        assert doctest.testmod(module, extraglobs={"torch": __import__("torch")}).failed == 0
