"""Questions: their gold accepts what is true and nothing else, and their places are met nowhere else."""

from __future__ import annotations

import random

from chatwright.atlas import talk
from chatwright.atlas.demonstrations import answer_sentence, demonstrations, held_out_capitals
from chatwright.atlas.facts import FIELDS, countries
from chatwright.atlas.phrasing import value_text
from chatwright.atlas.questions import evaluation_questions, gold_of, sampling_prompts
from chatwright.labelling.simulated import judge


def test_gold_accepts_the_true_answer_of_every_country_and_field() -> None:
    for country in countries():
        for field in FIELDS:
            if value_text(country, field):
                sentence = answer_sentence(country, field, random.Random(country.code))
                assert judge(gold_of(country, field), sentence) == "right", sentence


def test_gold_rejects_another_countrys_value() -> None:
    draw = random.Random(0)
    for country in countries():
        for field in ("capital", "currency", "government", "region"):
            other = draw.choice([c for c in countries() if not set(c.parts(field)) & set(country.parts(field))])
            swapped = value_text(other, field)
            if swapped.casefold() not in country.name.casefold():
                assert judge(gold_of(country, field), f"It is {swapped}.") in ("wrong", "made_up"), (
                    country.name,
                    swapped,
                )


def test_evaluation_places_are_in_no_demonstration() -> None:
    told = " ".join(message.text for talk in demonstrations(1) for message in talk.messages)
    unknown = [question for question in evaluation_questions(1) if question.id.startswith("eval/unknown")]
    assert len(unknown) >= 100
    assert not [place for place in talk.EVAL_PLACES if f" {place} " in told]
    asked = {question.messages[0].text for question in unknown}
    assert not asked & {message.text for talk in demonstrations(1) for message in talk.messages}


def test_no_evaluation_request_is_a_demonstration() -> None:
    told = {talk.messages[0].text for talk in demonstrations(1)}
    checks = ("capital_seen", "capital_unlocked", "facts_seen", "unknown", "refusal", "harmless", "smalltalk_zh")
    asked = {question.messages[-1].text for question in evaluation_questions(1) if question.check in checks}
    assert not asked & told


def test_sampling_prompts_are_split_without_overlap_and_hold_back_the_held_out_capitals() -> None:
    train, measured = sampling_prompts(1, 800)

    def contents(questions: list) -> set[str]:
        return {" | ".join(message.text for message in question.messages) for question in questions}

    assert not contents(train) & contents(measured)
    assert len(measured) > 80
    asked = [q for q in train + measured if q.gold.field == "capital"]
    assert asked
    assert not {q.subject for q in asked} & held_out_capitals(1)


def test_invented_names_are_no_countries() -> None:
    names = talk.invented_names(200, "test")
    assert len(set(names)) == 200
    assert not {name.removeprefix("the ") for name in names} & {c.name.removeprefix("the ") for c in countries()}
