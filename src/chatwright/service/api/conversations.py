"""Routes of conversations: the list, the tree, turns, events, ratings, choices and public links."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field, StringConstraints

from chatwright.service import views
from chatwright.service.accounts import TurnSettings
from chatwright.service.api.context import (
    RETRY_AFTER,
    STREAMS,
    Anyone,
    Asker,
    Bearer,
    Body,
    Context,
    NoNul,
    Parts,
    Search,
    Somebody,
    Text,
    Title,
)
from chatwright.service.conversations import PAGE_MOST
from chatwright.service.feedback import Pick, Vote
from chatwright.service.refusal import Refusal
from chatwright.service.sessions import Person
from chatwright.service.streams import EventStream
from chatwright.service.turns import LONGEST_MESSAGE, Plan, Seen, Turn, Wish, drawn_for_comparison

router = APIRouter(prefix="/api")

MOST_TAGS = 10
# Ends of lines to some readers though not to browsers: JSON can say them otherwise.
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

Id = Annotated[str, Field(max_length=64)]


class NewConversation(Body):
    """A conversation to begin."""

    title: Title = ""
    settings: TurnSettings | None = None
    consent: bool | None = None


class ConversationChange(Body):
    """What of a conversation changes."""

    title: Title | None = None
    archived: bool | None = None
    consent: bool | None = None
    settings: TurnSettings | None = None
    current_id: Id | None = None


class Question(Body):
    """A message to answer."""

    content: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_MESSAGE, pattern=r"\S"), NoNul]
    parent_id: Id | None = None
    key: Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul] | None = None
    compare: bool = False
    settings: TurnSettings | None = None


class Again(Body):
    """How to answer again."""

    settings: TurnSettings | None = None


class Nothing(Body):
    """An empty body."""


class Rating(Body):
    """What a person thinks of an answer."""

    vote: Vote
    tags: Annotated[list[Id], Field(max_length=MOST_TAGS)] = Field(default_factory=list)
    text: Text = ""


class Preference(Body):
    """Which of two answers is better."""

    choice: Pick
    text: Text = ""


class Sharing(Body):
    """Which branch to share."""

    message_id: Id | None = None


# --- the list ---


@router.get("/conversations")
def list_conversations(
    person: Somebody,
    parts: Parts,
    search: Search = "",
    archived: bool = False,
    limit: Annotated[int, Query(ge=1, le=PAGE_MOST)] = 50,
    cursor: Annotated[str, Query(max_length=100)] = "",
) -> dict[str, Any]:
    """The person's conversations."""
    items, following = parts.conversations.page(person.id, search, archived, limit, cursor)
    return {"items": items, "next_cursor": following}


@router.post("/conversations", status_code=201)
def create_conversation(body: NewConversation, person: Somebody, parts: Parts) -> dict[str, Any]:
    """Begin a conversation."""
    parts.within("messages_account", person.id)
    return parts.conversations.create(person.id, body.title, _given(body.settings), body.consent)


@router.delete("/conversations", status_code=204)
async def delete_conversations(person: Somebody, parts: Parts) -> None:
    """Delete all of the person's conversations."""
    await parts.answers.drop(lambda task: task.user_id == person.id)
    await asyncio.to_thread(parts.conversations.delete_all, person.id)


@router.get("/conversations/{conversation_id}")
def read_conversation(conversation_id: str, person: Somebody, parts: Parts) -> dict[str, Any]:
    """A conversation with its messages."""
    return parts.conversations.read(person.id, conversation_id)


@router.patch("/conversations/{conversation_id}")
def change_conversation(
    conversation_id: str, body: ConversationChange, person: Somebody, parts: Parts
) -> dict[str, Any]:
    """Change a conversation."""
    changes: dict[str, Any] = {key: getattr(body, key) for key in body.model_fields_set}
    if body.settings is not None:
        changes["settings"] = _given(body.settings)
    for key in ("title", "archived", "settings", "current_id"):
        if key in changes and changes[key] in (None, ""):
            raise Refusal(400, "invalid_value", f"{key} must have a value.", param=key)
    return parts.conversations.change(person.id, conversation_id, changes)


@router.delete("/conversations/{conversation_id}", status_code=204)
async def delete_conversation(conversation_id: str, person: Somebody, parts: Parts) -> None:
    """Delete a conversation."""
    await parts.answers.drop(lambda task: task.conversation_id == conversation_id and task.user_id == person.id)
    await asyncio.to_thread(parts.conversations.delete, person.id, conversation_id)


# --- turns ---


@router.post("/conversations/{conversation_id}/messages", status_code=201)
async def ask(conversation_id: str, body: Question, response: Response, asker: Bearer, parts: Parts) -> dict[str, Any]:
    """Ask something; its answer is made apart from this request."""

    def planned(seen: Seen) -> Plan:
        decision = None if parts.moderator is None else parts.moderator.check(body.content)
        settings = parts.settings.current
        unasked = drawn_for_comparison(conversation_id, body.parent_id, settings.comparison_share)
        wish = Wish(_given(body.settings), settings.comparisons and (body.compare or unasked), body.key)
        return parts.turns.ask(seen, body.parent_id, body.content, wish, decision)

    turn, view = await _taken(parts, asker, conversation_id, planned)
    if turn.repeated or turn.continued:
        response.status_code = 200
    return view


@router.post("/conversations/{conversation_id}/messages/{message_id}/regenerate", status_code=201)
async def regenerate(conversation_id: str, message_id: str, body: Again, asker: Bearer, parts: Parts) -> dict[str, Any]:
    """Another version of an answer."""
    wish = Wish(_given(body.settings))
    _, view = await _taken(parts, asker, conversation_id, lambda seen: parts.turns.regenerate(seen, message_id, wish))
    return view


@router.post("/conversations/{conversation_id}/messages/{message_id}/continue")
async def go_on(conversation_id: str, message_id: str, body: Nothing, asker: Bearer, parts: Parts) -> dict[str, Any]:
    """More of an answer that was cut."""
    _, view = await _taken(parts, asker, conversation_id, lambda seen: parts.turns.go_on(seen, message_id))
    return view


@router.post("/conversations/{conversation_id}/messages/{message_id}/stop")
async def stop(conversation_id: str, message_id: str, body: Nothing, person: Somebody, parts: Parts) -> dict[str, Any]:
    """End an answer as it is."""
    await asyncio.to_thread(parts.conversations.check, person.id, conversation_id, message_id)
    await parts.answers.stop(message_id)
    return await _message(parts, person, conversation_id, message_id)


async def _taken(
    parts: Context, asker: Asker, conversation_id: str, planned: Callable[[Seen], Plan]
) -> tuple[Turn, dict[str, Any]]:
    """Take a turn; what came of it, and that as the page gets it. All that the engine waits for is done in one go."""

    def begin() -> tuple[Person, Plan]:
        seen = parts.begin_turn(asker, conversation_id)
        return seen.person, planned(seen)

    person, plan = await parts.workers.do(begin)
    turn = await parts.answers.make(plan, asker.came)
    return turn, await parts.workers.do(partial(_turn_view, parts, person, conversation_id, turn))


def _turn_view(parts: Context, person: Person, conversation_id: str, turn: Turn) -> dict[str, Any]:
    parts.sessions.note_visit(person)
    ids = [*([turn.question] if turn.question else []), *turn.answers]
    messages, conversation = parts.conversations.excerpt(person.id, conversation_id, ids)
    pair = None if turn.comparison is None else parts.feedback.read(turn.comparison)
    return {
        "question": messages[0] if turn.question else None,
        "answers": messages[1:] if turn.question else messages,
        "comparison": None if pair is None else views.comparison(pair),
        "continued": turn.continued,
        "conversation": conversation,
    }


async def _message(parts: Context, person: Person, conversation_id: str, message_id: str) -> dict[str, Any]:
    [message] = await asyncio.to_thread(parts.conversations.messages, person.id, conversation_id, [message_id])
    return message


def _given(settings: TurnSettings | None) -> dict[str, Any]:
    """The settings that a body names; None takes one away."""
    return {} if settings is None else settings.model_dump(exclude_unset=True)


# --- events ---


@router.get("/conversations/{conversation_id}/messages/{message_id}/events")
async def events(
    conversation_id: str,
    message_id: str,
    person: Somebody,
    parts: Parts,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """An answer as it is made, from after the last event that was seen."""
    await asyncio.to_thread(parts.conversations.check, person.id, conversation_id, message_id)
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        after = int(last_event_id)
    if parts.streams.get(person.id, 0) >= STREAMS:
        raise Refusal(429, "rate_limited", "Too many streams are open; close one.", retry_after=RETRY_AFTER)
    return EventStream(_events(parts, person, conversation_id, message_id, after))


async def _events(
    parts: Context, person: Person, conversation_id: str, message_id: str, after: int
) -> AsyncGenerator[str]:
    """The events of an answer; the last is its end, which is told only after it is on disk."""
    with _counted(parts, person):
        yield "retry: 1000\n\n"
        live = parts.answers.live(message_id)
        if live is not None:
            async for event in live.follow(after):
                if event is None:
                    yield ": keep-alive\n\n"
                else:
                    yield _event(event.number, event.kind, {"text": event.text})
        try:
            excerpt = parts.conversations.excerpt
            [message], conversation = await asyncio.to_thread(excerpt, person.id, conversation_id, [message_id])
        except Refusal:  # deleted meanwhile
            yield _event(0, "gone", {})
            return
        yield _event(message["last_event"], "end", {"message": message, "conversation": conversation})


@contextmanager
def _counted(parts: Context, person: Person) -> Iterator[None]:
    """One more stream of the person while the block lasts."""
    parts.streams[person.id] = parts.streams.get(person.id, 0) + 1
    try:
        yield
    finally:
        parts.streams[person.id] -= 1
        if not parts.streams[person.id]:
            del parts.streams[person.id]


def _event(number: int, kind: str, data: dict[str, Any]) -> str:
    line = json.dumps(data, ensure_ascii=False).translate(LINE_ENDS)
    return f"id: {number}\nevent: {kind}\ndata: {line}\n\n"


# --- ratings and choices ---


@router.put("/conversations/{conversation_id}/messages/{message_id}/feedback")
async def rate(conversation_id: str, message_id: str, body: Rating, person: Somebody, parts: Parts) -> dict[str, Any]:
    """Rate a version of an answer, or rate it anew."""
    await asyncio.to_thread(
        parts.feedback.rate, person.id, conversation_id, message_id, body.vote, body.tags, body.text
    )
    return await _message(parts, person, conversation_id, message_id)


@router.delete("/conversations/{conversation_id}/messages/{message_id}/feedback")
async def unrate(conversation_id: str, message_id: str, person: Somebody, parts: Parts) -> dict[str, Any]:
    """Take a rating back."""
    await asyncio.to_thread(parts.feedback.unrate, person.id, conversation_id, message_id)
    return await _message(parts, person, conversation_id, message_id)


@router.put("/conversations/{conversation_id}/comparisons/{comparison_id}")
def choose(
    conversation_id: str, comparison_id: str, body: Preference, person: Somebody, parts: Parts
) -> dict[str, Any]:
    """Say which of two answers is better."""
    return views.comparison(parts.feedback.choose(person.id, conversation_id, comparison_id, body.choice, body.text))


# --- public links ---


@router.post("/conversations/{conversation_id}/share", status_code=201)
def share(conversation_id: str, body: Sharing, anyone: Anyone, person: Somebody, parts: Parts) -> dict[str, Any]:
    """Make the public link."""
    return parts.conversations.share(person.id, conversation_id, body.message_id, anyone.actor)


@router.delete("/conversations/{conversation_id}/share", status_code=204)
def unshare(conversation_id: str, anyone: Anyone, person: Somebody, parts: Parts) -> None:
    """End the public link."""
    parts.conversations.unshare(person.id, conversation_id, anyone.actor)


@router.get("/shared/{token}")
def shared(token: str, parts: Parts) -> dict[str, Any]:
    """What a public link shows, to everybody who has it."""
    return parts.conversations.shared(token)
