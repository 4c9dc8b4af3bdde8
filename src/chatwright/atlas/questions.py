"""Questions whose answers can be judged: for the checks (templates that no demonstration uses) and for sampling."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from chatwright.atlas import demonstrations as demo
from chatwright.atlas import phrasing, talk
from chatwright.atlas.facts import FIELDS, Country, bare, countries
from chatwright.atlas.sentences import LARGEST_NUMBER
from chatwright.records import Gold, Message, Question
from chatwright.storage import keyed_uniform

HELD_OUT_PROMPTS = 0.2  # share of sampling prompts kept for measuring


@dataclass(frozen=True)
class Forms:
    """The templates of a two-turn question: by field, how it opens and goes on; and how it turns to another country."""

    openings: dict[str, tuple[str, ...]]
    followups: dict[str, tuple[str, ...]]
    same_field: tuple[str, ...]


DEMO_FORMS = Forms(phrasing.DEMO_QUESTIONS, phrasing.DEMO_FOLLOWUPS, phrasing.DEMO_SAME_FIELD)
EVAL_FORMS = Forms(phrasing.EVAL_QUESTIONS, phrasing.EVAL_FOLLOWUPS, phrasing.EVAL_SAME_FIELD)


@cache
def inventory(field: str) -> tuple[str, ...]:
    """Every value of a field over all countries."""
    if field == "neighbours":
        return tuple(bare(country.name) for country in countries())
    return tuple(dict.fromkeys(part for country in countries() for part in country.parts(field)))


def gold_of(country: Country, field: str) -> Gold:
    """What a right answer about a country has, and which values would be wrong."""
    parts = country.parts(field)
    if not parts:
        return Gold(
            kind="fact", field=field, right=[["no land neighbours", "no neighbours", "no land borders", "island"]]
        )
    right = [[bare(part)] for part in parts]
    allowed = {bare(part) for part in parts}
    if field == "capital":
        right[0] += country.other_capitals
        allowed |= set(country.other_capitals)
    if field == "neighbours":
        allowed |= {bare(name) for name in country.all_neighbours} | {bare(country.name)}
    wrong = [value for value in inventory(field) if bare(value) not in allowed and not _inside(value, country.name)]
    return Gold(kind="fact", field=field, right=right, wrong=[bare(value) for value in wrong])


def _inside(value: str, name: str) -> bool:
    return bare(value).casefold() in name.casefold()


def _unknown_gold(field: str) -> Gold:
    return Gold(kind="unknown", wrong=list(inventory(field)) if field in ("capital", "currency") else [])


def _user(*turns: str) -> list[Message]:
    return demo.in_turn(turns)


def evaluation_questions(seed: int) -> Iterator[Question]:
    """The questions of every check. Templates, made-up places and half of the Chinese phrases are met nowhere else."""
    hidden = demo.held_out_capitals(seed)
    for country in countries():
        draw = random.Random(f"{seed}/eval/{country.code}")
        templates = phrasing.EVAL_QUESTIONS["capital"]
        if country.code in hidden:
            for i, template in enumerate(templates):
                yield _fact(f"eval/unlocked/{country.code}/{i}", country, "capital", template, "capital_unlocked")
        else:
            yield _fact(f"eval/capital/{country.code}", country, "capital", draw.choice(templates), "capital_seen")
        others = [field for field in demo.told_fields(country, seed) if field != "capital"]
        for field in draw.sample(others, min(2, len(others))):
            template = draw.choice(phrasing.EVAL_QUESTIONS[field])
            yield _fact(f"eval/{field}/{country.code}", country, field, template, "facts_seen")
        yield _followup(f"eval/follow/{country.code}", country, seed, EVAL_FORMS, "followup")
    yield from _eval_unknown(seed)
    for i, topic in enumerate(talk.UNSAFE):
        request = talk.EVAL_REQUESTS[i % len(talk.EVAL_REQUESTS)].replace("{x}", topic)
        yield Question(id=f"eval/unsafe/{i:02d}", messages=_user(request), gold=Gold(kind="refusal"), check="refusal")
    for i, topic in enumerate(talk.EVAL_UNSAFE):
        request = (talk.DEMO_REQUESTS + talk.EVAL_REQUESTS)[i % 14].replace("{x}", topic)
        yield Question(
            id=f"eval/unsafe-new/{i:02d}",
            messages=_user(request),
            gold=Gold(kind="refusal"),
            check="refusal_new_topics",
        )
    for i, (topic, keyword, _) in enumerate(talk.HARMLESS):
        for j in range(2):
            request = talk.EVAL_REQUESTS[(i + j) % len(talk.EVAL_REQUESTS)].replace("{x}", topic)
            gold = Gold(kind="harmless", right=[[keyword]])
            yield Question(id=f"eval/harmless/{i:02d}/{j}", messages=_user(request), gold=gold, check="harmless")
    for i, (phrases, words) in enumerate(talk.EVAL_SMALLTALK_ZH):
        gold = Gold(kind="smalltalk", right=[list(words)] if words else [], language="zh")
        for j, phrase in enumerate(phrases):
            yield Question(id=f"eval/talk-zh/{i:02d}/{j}", messages=_user(phrase), gold=gold, check="smalltalk_zh")
    for i, phrase in enumerate(talk.EVAL_SMALLTALK_EN):
        yield Question(
            id=f"eval/talk-en/{i:02d}", messages=_user(phrase), gold=Gold(kind="smalltalk"), check="smalltalk_en"
        )
    for i, word in enumerate(demo.definitions()):
        request = demo.EVAL_DEFINITION_QUESTIONS[i % 2].replace("{x}", word)
        yield Question(id=f"eval/definition/{word}", messages=_user(request), gold=_meaning(word), check="definition")
    for i in range(60):
        draw = random.Random(f"{seed}/eval/sum/{i}")
        a, b = draw.randint(0, LARGEST_NUMBER), draw.randint(0, LARGEST_NUMBER)
        request = draw.choice(demo.EVAL_SUM_QUESTIONS).replace("{a}", str(a)).replace("{b}", str(b))
        yield Question(id=f"eval/sum/{i:02d}", messages=_user(request), gold=_sum(a, b), check="arithmetic")


def _meaning(word: str) -> Gold:
    return Gold(kind="definition", right=[[demo.definitions()[word]]])


def _sum(a: int, b: int) -> Gold:
    return Gold(kind="arithmetic", right=[[f"is {a + b}", f"are {a + b}", f"make {a + b}"]])


def _fact(key: str, country: Country, field: str, template: str, check: str) -> Question:
    question = phrasing.say(template, country.name)
    return Question(id=key, messages=_user(question), gold=gold_of(country, field), check=check, subject=country.code)


def _followup(key: str, country: Country, seed: int, forms: Forms, check: str) -> Question:
    """A second turn that needs the first: another field of the same country, or the same field of another country."""
    draw = random.Random(f"{seed}/{key}")
    fields = demo.told_fields(country, seed)
    first = draw.choice(fields)
    opening = phrasing.say(draw.choice(forms.openings[first]), country.name)
    told = demo.answer_sentence(country, first, draw)
    if draw.random() < 0.6:
        field = draw.choice([field for field in fields if field != first])
        second, subject = draw.choice(forms.followups[field]), country
    else:
        field = first
        subject = draw.choice(
            [other for other in countries() if other != country and field in demo.told_fields(other, seed)]
        )
        second = phrasing.say(draw.choice(forms.same_field), subject.name)
    gold = gold_of(subject, field)
    return Question(id=key, messages=_user(opening, told, second), gold=gold, check=check, subject=subject.code)


def _eval_unknown(seed: int) -> Iterator[Question]:
    taken = set(talk.invented_names(560, f"demo/{seed}"))
    names = [name for name in talk.invented_names(120, f"eval/{seed}") if name not in taken][:100]
    for i, place in enumerate([*talk.EVAL_PLACES, *names]):
        draw = random.Random(f"{seed}/eval/unknown/{i}")
        field = draw.choice(FIELDS)
        request = phrasing.say(draw.choice(phrasing.EVAL_QUESTIONS[field]), place)
        yield Question(id=f"eval/unknown/{i:03d}", messages=_user(request), gold=_unknown_gold(field), check="unknown")
    for i in range(40):
        draw = random.Random(f"{seed}/eval/false/{i}")
        request = phrasing.say(talk.EVAL_FALSE[i % len(talk.EVAL_FALSE)], draw.choice(countries()).name)
        yield Question(
            id=f"eval/false/{i:02d}", messages=_user(request), gold=_unknown_gold("capital"), check="unknown"
        )


def sampling_prompts(seed: int, count: int) -> tuple[list[Question], list[Question]]:
    """About ``count`` prompts for comparisons and rollouts, and a disjoint fifth of them for measuring.

    They use the demonstrations' templates and never ask for a held-out capital.
    """
    kinds: tuple[tuple[float, Callable[[str, random.Random, int], Question]], ...] = (
        (0.35, _prompt_fact),
        (0.15, _prompt_followup),
        (0.13, _prompt_unknown),
        (0.11, _prompt_refusal),
        (0.20, _prompt_harmless),
        (0.06, _prompt_talk),
    )
    train: dict[str, Question] = {}
    measured: dict[str, Question] = {}
    for number in range(count):
        key = f"prompt/{number:05d}"
        draw = random.Random(f"{seed}/{key}")
        make = draw.choices([make for _, make in kinds], weights=[weight for weight, _ in kinds])[0]
        question = make(key, draw, seed)
        content = " | ".join(message.text for message in question.messages)
        # split by content, so that the same prompt drawn twice never lands on both sides
        side = measured if keyed_uniform(seed, "measured", content) < HELD_OUT_PROMPTS else train
        side.setdefault(content, question)
    return list(train.values()), list(measured.values())


def _prompt_fact(key: str, draw: random.Random, seed: int) -> Question:
    country = draw.choice(countries())
    field = draw.choice(demo.told_fields(country, seed))
    question = demo.typed(phrasing.say(draw.choice(phrasing.DEMO_QUESTIONS[field]), country.name), draw)
    return Question(id=key, messages=_user(question), gold=gold_of(country, field), check="", subject=country.code)


def _prompt_followup(key: str, draw: random.Random, seed: int) -> Question:
    return _followup(key, draw.choice(countries()), seed, DEMO_FORMS, "")


def _prompt_unknown(key: str, draw: random.Random, seed: int) -> Question:
    field = draw.choice(FIELDS)
    if draw.random() < 0.75:
        place = draw.choice([*talk.DEMO_PLACES, *_prompt_places(seed)])
        question = phrasing.say(draw.choice(phrasing.DEMO_QUESTIONS[field]), place)
    else:
        question = phrasing.say(draw.choice(talk.DEMO_FALSE), draw.choice(countries()).name)
    return Question(id=key, messages=_user(demo.typed(question, draw)), gold=_unknown_gold(field), check="")


@cache
def _prompt_places(seed: int) -> tuple[str, ...]:
    evaluated = set(talk.invented_names(120, f"eval/{seed}"))
    return tuple(name for name in talk.invented_names(300, f"prompt/{seed}") if name not in evaluated)


def _prompt_refusal(key: str, draw: random.Random, seed: int) -> Question:
    request = draw.choice(talk.DEMO_REQUESTS).replace("{x}", draw.choice(talk.UNSAFE))
    return Question(
        id=key, messages=_user(demo.typed(request, draw)), gold=Gold(kind="refusal"), check="", subject="request"
    )


def _prompt_harmless(key: str, draw: random.Random, seed: int) -> Question:
    topic, keyword, _ = draw.choice(talk.HARMLESS)
    request = draw.choice(talk.DEMO_REQUESTS).replace("{x}", topic)
    gold = Gold(kind="harmless", right=[[keyword]])
    return Question(id=key, messages=_user(demo.typed(request, draw)), gold=gold, check="", subject="request")


def _prompt_talk(key: str, draw: random.Random, seed: int) -> Question:
    chinese = draw.random() < 0.5
    openings = [openings for openings, _ in (talk.SMALLTALK_ZH if chinese else talk.SMALLTALK_EN)]
    gold = Gold(kind="smalltalk", language="zh" if chinese else "en")
    opening = draw.choice(draw.choice(openings))
    return Question(id=key, messages=_user(opening), gold=gold, check="")
