"""Prompts as people sent them: of near-copies one, of each person few, and no person on both sides (IGPT A.2).

InstructGPT (2203.02155) also filters prompts for what names people; the service does so when it exports them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from chatwright.records import Conversation, Gold, Question
from chatwright.storage import keyed_uniform


class UsersConfig(BaseModel):
    """What is kept of conversations that have ``meta.user``; one without is of a user of its own.

    prefix: characters of the first question; of those that begin alike so far, one is kept, and of shorter ones one of
    each. most: of one user's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: int = Field(default=100, gt=0)  # ours: the paper says "long"
    most: int = Field(default=200, gt=0)  # IGPT A.2


def kept(talks: Iterable[Conversation], config: UsersConfig) -> list[Conversation]:
    """The conversations to keep, in their order; of near-copies and of a user's many the first ones."""
    begun: set[str] = set()
    of_user: Counter[str] = Counter()
    found = []
    for talk in talks:
        start = first_question(talk).strip()[: config.prefix]
        if start in begun or of_user[user(talk)] >= config.most:
            continue
        begun.add(start)
        of_user[user(talk)] += 1
        found.append(talk)
    return found


def by_user(talks: Sequence[Conversation], share: float) -> tuple[list[Conversation], list[Conversation]]:
    """Those to learn from and a held-out ``share``: all that a user said is on one side, whatever the seed of a run.

    Of two users and more there is one on each side.
    """
    places = {name: keyed_uniform("heldout user", name) for name in map(user, talks)}
    order = sorted(places, key=places.__getitem__)
    count = sum(place < share for place in places.values())
    out = set(order[: min(max(count, share > 0), len(order) - 1)])
    return [talk for talk in talks if user(talk) not in out], [talk for talk in talks if user(talk) in out]


def as_question(talk: Conversation) -> Question:
    """What is asked at the end of a conversation; nobody here knows what is right."""
    return Question(id=talk.id, messages=talk.messages[:-1], gold=Gold(kind="open"), check="open")


def user(talk: Conversation) -> str:
    """Who it is of."""
    return str(talk.meta.get("user") or f"nobody else: {talk.id}")


def first_question(talk: Conversation) -> str:
    """What the user says first."""
    return next(message.text for message in talk.messages if message.role == "user")
