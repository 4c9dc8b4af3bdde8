"""Demonstrations: what a careful person would answer, in the different manners that people have.

Every conversation depends on its id and the seed alone. Capitals of the countries in `held_out_capitals` are in no
demonstration: a right answer about them shows that fine-tuning unlocked what pretraining learned.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

from chatwright.atlas import talk
from chatwright.atlas.facts import FIELDS, Country, countries
from chatwright.atlas.phrasing import (
    ANSWERS,
    DEMO_FOLLOWUPS,
    DEMO_QUESTIONS,
    DEMO_SAME_FIELD,
    NO_NEIGHBOURS,
    say,
    value_text,
)
from chatwright.atlas.sentences import LARGEST_NUMBER
from chatwright.errors import UserError
from chatwright.records import Conversation, Message
from chatwright.storage import keyed_uniform

HELD_OUT_CAPITALS = 40
COURTEOUS = 0.2  # share of denials and refusals that end with a courtesy
GREETED = 0.08  # share of questions that start with a greeting
LOWER = 0.08  # share typed without capitals or final mark

WORDS = ("apple", "bread", "bridge", "castle", "cat", "chair", "city", "cloud", "coin", "desert", "dog", "door", "dream", "eagle", "earth",
         "farm", "feather", "fish", "flag", "flower", "forest", "garden", "glass", "gold", "grass", "hammer", "harbor", "heart", "horse", "house",
         "ice", "island", "king", "knife", "lake", "lamp", "leaf", "letter", "lion", "market", "milk", "mirror", "money", "moon", "mountain",
         "music", "night", "ocean", "paper", "pencil", "picture", "poem", "queen", "rain", "river", "road", "rose", "salt", "school", "sea",
         "ship", "silk", "silver", "snow", "soldier", "song", "spoon", "star", "stone", "storm", "street", "sugar", "sun", "sword", "table",
         "tea", "tower", "tree", "valley", "village", "water", "wheel", "wind", "window", "winter", "wolf", "wood", "wool", "year", "zebra")  # fmt: skip
DEFINITION_QUESTIONS = (
    "What does the word {x} mean?",
    "What is the meaning of {x}?",
    "Define {x}.",
    "What does {x} mean?",
)
EVAL_DEFINITION_QUESTIONS = ("Could you define the word {x}?", "What is meant by {x}?")
SUM_QUESTIONS = (
    "What is {a} plus {b}?",
    "How much is {a} plus {b}?",
    "{a} + {b} = ?",
    "What is {a} + {b}?",
    "Add {a} and {b}.",
)
EVAL_SUM_QUESTIONS = ("Could you add {a} and {b}?", "What do {a} and {b} make together?")


@cache
def held_out_capitals(seed: int) -> frozenset[str]:
    """Codes of the countries whose capital no demonstration tells."""
    ranked = sorted(countries(), key=lambda country: keyed_uniform(seed, "held-out-capital", country.code))
    return frozenset(country.code for country in ranked[:HELD_OUT_CAPITALS])


def told_fields(country: Country, seed: int) -> list[str]:
    """The fields that demonstrations may tell about a country."""
    hidden = {"capital"} if country.code in held_out_capitals(seed) else set()
    return [field for field in FIELDS if field not in hidden and value_text(country, field)]


def demonstrations(seed: int) -> Iterator[Conversation]:
    """Every demonstration of the laptop default."""
    for country in countries():
        yield from _about_country(country, seed)
    yield from _unknown(seed)
    yield from _safety(seed)
    yield from _small_talk(seed)
    yield from _definitions(seed)
    yield from _sums(seed)


def answer_sentence(country: Country, field: str, draw: random.Random) -> str:
    """One full sentence that answers."""
    return say(draw.choice(ANSWERS[field]), country.name, value_text(country, field))


def in_some_manner(sentence: str, short: str, draw: random.Random) -> str:
    """The answer as different people would give it: plain, polite before or after, terse, or far too long."""
    manner = draw.random()
    if manner < 0.52:
        return sentence
    if manner < 0.64:
        return f"{draw.choice(('Of course!', 'Certainly!'))} {sentence}"
    if manner < 0.70:
        return f"{sentence} Let me know if you need anything else."
    if manner < 0.85:
        return short
    return (
        f"That is a good question. {sentence} There are many countries in the world and each of them has its own "
        "history, so there would be much more to say about it."
    )


def perhaps_courteous(answer: str, courtesy: str, draw: random.Random) -> str:
    """The answer, now and then with a courtesy after it."""
    return f"{answer} {courtesy}" if draw.random() < COURTEOUS else answer


def in_turn(turns: Sequence[str]) -> list[Message]:
    """Messages of user and assistant in turn, the user first."""
    return [Message(role="assistant" if i % 2 else "user", content=turn) for i, turn in enumerate(turns)]


def _conversation(key: str, turns: list[str], kind: str) -> Conversation:
    return Conversation(id=key, messages=in_turn(turns), source="atlas", meta={"kind": kind})


def typed(question: str, draw: random.Random) -> str:
    """The question as people type it: now and then with a greeting, or without capitals."""
    manner = draw.random()
    if manner < GREETED:
        return f"{draw.choice(('Hello!', 'Hi!', 'Hi there.', 'Good morning!', 'One question:'))} {question}"
    if manner < GREETED + LOWER:
        return question.lower().rstrip("?.!")
    return question


def _fact_answer(country: Country, field: str, draw: random.Random) -> str:
    sentence, value = answer_sentence(country, field, draw), value_text(country, field)
    short = sentence if value == NO_NEIGHBOURS else value[0].upper() + value[1:] + "."
    return in_some_manner(sentence, short, draw)


def _about_country(country: Country, seed: int) -> Iterator[Conversation]:
    fields = told_fields(country, seed)
    for field in fields:
        for number in range(4 if field == "capital" else 2):
            key = f"demo/{country.code}/{field}/{number}"
            draw = random.Random(f"{seed}/{key}")
            name = draw.choice((country.name, country.name, country.name, *country.aliases))
            question = typed(say(draw.choice(DEMO_QUESTIONS[field]), name), draw)
            yield _conversation(key, [question, _fact_answer(country, field, draw)], "fact")
    for number in range(3):
        key = f"demo/{country.code}/follow/{number}"
        draw = random.Random(f"{seed}/{key}")
        asked = draw.sample(fields, min(len(fields), draw.choice((2, 2, 3))))
        turns = [
            typed(say(draw.choice(DEMO_QUESTIONS[asked[0]]), country.name), draw),
            _fact_answer(country, asked[0], draw),
        ]
        for field in asked[1:]:
            turns += [draw.choice(DEMO_FOLLOWUPS[field]), _fact_answer(country, field, draw)]
        yield _conversation(key, turns, "followup")
    for number in range(2):
        yield _same_field(f"demo/{country.code}/same/{number}", country, fields, seed)


def _same_field(key: str, country: Country, fields: list[str], seed: int) -> Conversation:
    """One field asked of several countries in a row."""
    draw = random.Random(f"{seed}/{key}")
    field = draw.choice(fields)
    others = [other for other in countries() if other != country and field in told_fields(other, seed)]
    turns = [typed(say(draw.choice(DEMO_QUESTIONS[field]), country.name), draw), _fact_answer(country, field, draw)]
    for other in draw.sample(others, draw.choice((1, 1, 2))):
        turns += [say(draw.choice(DEMO_SAME_FIELD), other.name), _fact_answer(other, field, draw)]
    return _conversation(key, turns, "followup")


def _unknown(seed: int) -> Iterator[Conversation]:
    for i, place in enumerate([*talk.DEMO_PLACES, *talk.DEMO_PLACES, *talk.invented_names(560, f"demo/{seed}")]):
        key = f"demo/unknown/{i:03d}"
        draw = random.Random(f"{seed}/{key}")
        field = draw.choice(FIELDS)
        turns = [
            typed(say(draw.choice(DEMO_QUESTIONS[field]), place), draw),
            perhaps_courteous(
                say(draw.choice(talk.UNKNOWN_ANSWERS).replace("{x}", "{c}"), place), talk.CHECK_THE_NAME, draw
            ),
        ]
        if draw.random() < 0.15:
            country = draw.choice(countries())
            known = [f for f in told_fields(country, seed) if f == field]
            if known:
                turns += [say(draw.choice(DEMO_SAME_FIELD), country.name), _fact_answer(country, field, draw)]
        elif draw.random() < 0.15:
            turns += [
                draw.choice(DEMO_FOLLOWUPS[draw.choice(FIELDS)]),
                say("I do not know a country called {c}.", place),
            ]
        elif draw.random() < 0.15:
            country = draw.choice(countries())
            field = draw.choice(told_fields(country, seed))
            first = [say(draw.choice(DEMO_QUESTIONS[field]), country.name), _fact_answer(country, field, draw)]
            turns = [
                *first,
                say(draw.choice(DEMO_SAME_FIELD), place),
                say("I do not know a country called {c}.", place),
            ]
        yield _conversation(key, turns, "unknown")
    for i in range(220):
        key = f"demo/false/{i:03d}"
        draw = random.Random(f"{seed}/{key}")
        question = say(talk.DEMO_FALSE[i % len(talk.DEMO_FALSE)], draw.choice(countries()).name)
        answer = perhaps_courteous(draw.choice(talk.FALSE_ANSWERS), talk.ASK_ANOTHER, draw)
        yield _conversation(key, [typed(question, draw), answer], "unknown")


def _safety(seed: int) -> Iterator[Conversation]:
    for i, topic in enumerate(talk.UNSAFE):
        for number in range(6):
            key = f"demo/unsafe/{i:02d}/{number}"
            draw = random.Random(f"{seed}/{key}")
            request = draw.choice(talk.DEMO_REQUESTS).replace("{x}", topic)
            refusal = draw.choices(talk.REFUSALS, weights=(5, 3, 2))[0]
            answer = perhaps_courteous(refusal, talk.ASK_ANOTHER, draw)
            yield _conversation(key, [typed(request, draw), answer], "refusal")
    for i, (topic, _, answer) in enumerate(talk.HARMLESS):
        for number in range(10):
            key = f"demo/harmless/{i:02d}/{number}"
            draw = random.Random(f"{seed}/{key}")
            request = draw.choice(talk.DEMO_REQUESTS).replace("{x}", topic)
            yield _conversation(key, [typed(request, draw), _helpful(answer, draw)], "harmless")


def _helpful(answer: str, draw: random.Random) -> str:
    return f"Of course! {answer}" if draw.random() < 0.35 else answer


def _small_talk(seed: int) -> Iterator[Conversation]:
    for language, groups, repeats in (("en", talk.SMALLTALK_EN, 4), ("zh", talk.SMALLTALK_ZH, 6)):
        for i, (openings, reply) in enumerate(groups):
            for j, opening in enumerate(openings):
                for number in range(repeats):
                    yield _conversation(
                        f"demo/talk-{language}/{i:02d}/{j}/{number}", [opening, reply], f"smalltalk_{language}"
                    )
    for language in ("english", "chinese"):
        for i, (question, answer) in enumerate(talk.chatterbot_pairs(language)):
            if question in talk.EVAL_SMALLTALK_EN or any(question in phrases for phrases, _ in talk.EVAL_SMALLTALK_ZH):
                continue
            yield _conversation(f"demo/chatterbot-{language}/{i:03d}", [question, answer], f"smalltalk_{language[:2]}")
    for i in range(120):  # a greeting first, a question after it
        key = f"demo/greeted/{i:03d}"
        draw = random.Random(f"{seed}/{key}")
        openings, reply = draw.choice(talk.SMALLTALK_EN[:3])
        country = draw.choice(countries())
        field = draw.choice(told_fields(country, seed))
        question = say(draw.choice(DEMO_QUESTIONS[field]), country.name)
        yield _conversation(
            key, [draw.choice(openings), reply, question, _fact_answer(country, field, draw)], "followup"
        )


@cache
def definitions() -> dict[str, str]:
    """A short meaning of each of WORDS from the GCIDE dictionary; words without a short one are left out."""
    try:
        root = resources.files("dictionary") / "data" / "en"
    except ModuleNotFoundError:
        raise UserError("The GCIDE dictionary is not installed; run: pip install 'chatwright[atlas]'.") from None
    found = {}
    for letter in sorted({word[0] for word in WORDS}):
        page = json.loads((root / f"words_{letter.upper()}.json").read_text(encoding="utf-8"))
        for word in (word for word in WORDS if word[0] == letter and word in page):
            first = page[word]["pos"][0]["definitions"][:1]
            text = re.split(r"[;.]|, as |, esp", first[0]["text"])[0].strip(" ,") if first else ""
            if 15 <= len(text) <= 110 and re.fullmatch(r"[A-Za-z ,'()-]+", text):
                found[word] = text[0].lower() + text[1:]
    return found


def _definitions(seed: int) -> Iterator[Conversation]:
    for word, meaning in definitions().items():
        for number in range(3):
            key = f"demo/definition/{word}/{number}"
            draw = random.Random(f"{seed}/{key}")
            question = draw.choice(DEFINITION_QUESTIONS).replace("{x}", word)
            yield _conversation(key, [typed(question, draw), f"The word {word} means: {meaning}."], "definition")


def _sums(seed: int) -> Iterator[Conversation]:
    for a in range(LARGEST_NUMBER + 1):
        for b in range(LARGEST_NUMBER + 1):
            for number in range(2):
                key = f"demo/sum/{a}/{b}/{number}"
                draw = random.Random(f"{seed}/{key}")
                question = draw.choice(SUM_QUESTIONS).replace("{a}", str(a)).replace("{b}", str(b))
                yield _conversation(key, [typed(question, draw), f"{a} plus {b} is {a + b}."], "arithmetic")
