"""Pretraining text from facts: the Factbook's fields written out as short paragraphs in many forms.

A small model learns a fact from many, varied exposures; a fact met in one form only can hardly be asked for in another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from chatwright.atlas.facts import FIELDS, Country, bare, countries
from chatwright.atlas.phrasing import NO_NEIGHBOURS, QUIZZES, STATEMENTS, say, value_text
from chatwright.records import Document

PROSE_SHARE = 0.6  # of a country's paragraphs; the others are quizzes
LIST_LENGTH = 12  # countries in one list of a field
SUMS = (
    "{a} plus {b} is {c}.",
    "{a} + {b} = {c}.",
    "The sum of {a} and {b} is {c}.",
    "If you add {a} and {b}, you get {c}.",
)
SUMS_IN_A_ROW = 10
LARGEST_NUMBER = 9


def fact_documents(seed: int, paragraphs: int = 60) -> Iterator[Document]:
    """``paragraphs`` documents a country, lists of every field, sums; each depends on its id and ``seed`` alone."""
    for country in countries():
        for number in range(paragraphs):
            key = f"facts/{country.code}/{number:03d}"
            draw = random.Random(f"{seed}/{key}")
            form = "prose" if draw.random() < PROSE_SHARE else "quiz"
            text = _prose(country, draw) if form == "prose" else _quiz(country, draw)
            yield Document(id=key, text=text, source="facts", meta={"country": country.code, "form": form})
    for field in FIELDS:
        for number in range(paragraphs):
            key = f"facts/{field}/{number:03d}"
            draw = random.Random(f"{seed}/{key}")
            yield Document(id=key, text=_list(field, draw), source="facts", meta={"field": field, "form": "list"})
    for number in range(2 * paragraphs):
        key = f"facts/sums/{number:03d}"
        yield Document(id=key, text=_sums(random.Random(f"{seed}/{key}")), source="facts", meta={"form": "sums"})


def _known_fields(country: Country, draw: random.Random) -> list[str]:
    fields = [field for field in FIELDS if value_text(country, field)]
    draw.shuffle(fields)
    return fields


def _prose(country: Country, draw: random.Random) -> str:
    """All fields in one paragraph, each in one of its forms; "its" only once the country has been named."""
    sentences: list[str] = []
    for field in _known_fields(country, draw):
        forms = [form for form in STATEMENTS[field] if sentences or "{c}" in form]
        sentences.append(say(draw.choice(forms), country.name, value_text(country, field)))
    return " ".join(sentences)


def _quiz(country: Country, draw: random.Random) -> str:
    """A few questions with short or full answers, a line each."""
    lines = []
    for field in _known_fields(country, draw)[: draw.randint(3, 6)]:
        question = say(draw.choice(QUIZZES[field]), country.name)
        value = value_text(country, field)
        full = say(draw.choice([form for form in STATEMENTS[field] if "{c}" in form]), country.name, value)
        answer = full if draw.random() < 0.6 or value == NO_NEIGHBOURS else value[0].upper() + value[1:] + "."
        lines.append(f"{question} {answer}")
    return "\n".join(lines)


def _list(field: str, draw: random.Random) -> str:
    known = [country for country in countries() if country.parts(field)]
    chosen = draw.sample(known, LIST_LENGTH)
    return "\n".join(f"{bare(country.name)}: {value_text(country, field)}" for country in chosen)


def _sums(draw: random.Random) -> str:
    lines = []
    for _ in range(SUMS_IN_A_ROW):
        a, b = draw.randint(0, LARGEST_NUMBER), draw.randint(0, LARGEST_NUMBER)
        lines.append(draw.choice(SUMS).format(a=a, b=b, c=a + b))
    return " ".join(lines)
