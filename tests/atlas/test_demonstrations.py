"""Demonstrations: what they hold back, and that they depend on the seed alone."""

from __future__ import annotations

from chatwright.atlas.demonstrations import demonstrations, held_out_capitals
from chatwright.atlas.facts import countries
from chatwright.atlas.phrasing import (
    DEMO_FOLLOWUPS,
    DEMO_QUESTIONS,
    DEMO_SAME_FIELD,
    EVAL_FOLLOWUPS,
    EVAL_QUESTIONS,
    EVAL_SAME_FIELD,
    QUIZZES,
)
from chatwright.atlas.sentences import fact_documents
from chatwright.labelling.simulated import mentioned


def test_no_demonstration_tells_a_held_out_capital() -> None:
    hidden = held_out_capitals(1)
    told = [" ".join(message.text for message in talk.messages) for talk in demonstrations(1)]
    assert len(hidden) == 40
    for country in countries():
        capital = country.capital[0]
        if country.code in hidden and capital != country.name and capital not in country.name:
            about = [text for text in told if capital in mentioned_exactly(text, capital) and "capital" in text]
            assert not [text for text in about if country.name in text], country.name


def mentioned_exactly(text: str, name: str) -> set[str]:
    return {name} if mentioned(text, [name]) else set()


def test_held_out_capitals_are_in_the_pretraining_text() -> None:
    text = " ".join(document.text for document in fact_documents(1))
    for country in countries():
        if country.code in held_out_capitals(1):
            assert country.capital[0] in text


def test_templates_of_demonstrations_and_evaluation_are_disjoint() -> None:
    for field in DEMO_QUESTIONS:
        assert not set(EVAL_QUESTIONS[field]) & (set(DEMO_QUESTIONS[field]) | set(QUIZZES[field]))
        assert not set(EVAL_FOLLOWUPS[field]) & set(DEMO_FOLLOWUPS[field])
    assert not set(EVAL_SAME_FIELD) & set(DEMO_SAME_FIELD)


def test_same_seed_same_demonstrations_and_another_seed_others() -> None:
    assert list(demonstrations(1)) == list(demonstrations(1))
    assert list(demonstrations(1)) != list(demonstrations(2))


def test_ids_are_unique() -> None:
    ids = [talk.id for talk in demonstrations(1)]
    assert len(ids) == len(set(ids))
