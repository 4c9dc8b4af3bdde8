from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatwright.corpus.words import words, words_with_spans


def test_words_are_lower_case_without_punctuation_and_ideographs_stand_alone() -> None:
    assert words("Don't STOP -- e.g. now_here! 你好ab") == ["dont", "stop", "eg", "nowhere", "你", "好", "ab"]


@given(text=st.text())
def test_words_with_spans_agree_with_words(text: str) -> None:
    spans = list(words_with_spans(text))
    assert [word for word, _, _ in spans] == words(text)
    assert all(word in words(text[start:end]) for word, start, end in spans)
