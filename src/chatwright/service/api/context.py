"""What the routes of the page's API share: the parts of the service, and who is asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from chatwright import __version__
from chatwright.service import accounts, conversations, feedback, passwords, turns, views
from chatwright.service.accounts import Accounts
from chatwright.service.admin import MOST_ITEMS, Admin, Page
from chatwright.service.api_error import ApiError
from chatwright.service.attempts import Attempts
from chatwright.service.audit import Actor
from chatwright.service.clock import clock_of
from chatwright.service.conversations import Conversations
from chatwright.service.database import Database
from chatwright.service.feedback import Feedback
from chatwright.service.generation import Answers
from chatwright.service.keys import SCOPES, source_of
from chatwright.service.limits import Limiter
from chatwright.service.line import Line
from chatwright.service.load import Meter
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import Moderator
from chatwright.service.passwords import Passwords
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.security import CHANGING, check_csrf, check_origin
from chatwright.service.sessions import ABSOLUTE_SECONDS, Person, Sessions, csrf_token, new_token
from chatwright.service.settings import AdminSettings, SettingsStore
from chatwright.service.stored_keys import StoredKeys
from chatwright.service.tables import User
from chatwright.service.turns import Seen, Turns
from chatwright.service.workers import Workers

COOKIE = "chatwright_session"
QUARTER = 15 * 60.0  # seconds
RETRY_AFTER = 5.0
STREAMS = 32  # open at once by one person: some tabs, each with a few


@dataclass
class Brakes:
    """How often strangers may try. Those who are signed in stay so, whoever tries their password."""

    login_account: Attempts = field(default_factory=lambda: Attempts(10, QUARTER))
    login_source: Attempts = field(default_factory=lambda: Attempts(50, QUARTER))
    guest_source: Attempts = field(default_factory=lambda: Attempts(30, 4 * QUARTER))


@dataclass
class Context:
    """The parts of a service.

    workers: threads for turns. public: its address where a proxy stands before it. streams: open ones, by person.
    """

    database: Database
    models: Mapping[str, LoadedModel]
    line: Line
    meter: Meter
    settings: SettingsStore
    accounts: Accounts
    passwords: Passwords
    sessions: Sessions
    conversations: Conversations
    turns: Turns
    answers: Answers
    feedback: Feedback
    keys: StoredKeys
    admin: Admin
    workers: Workers
    limiter: Limiter | None = None
    moderator: Moderator | None = None
    public: str | None = None
    brakes: Brakes = field(default_factory=Brakes)
    streams: dict[str, int] = field(default_factory=dict)

    def within(self, bucket: str, key: str, cost: int = 1) -> None:
        """Refusal when the key has used up what the operator allows."""
        if self.limiter is None:
            return
        try:
            self.limiter.hit(bucket, key, cost)
        except ApiError as error:
            wait = error.retry_after or RETRY_AFTER
            raise Refusal(429, "rate_limited", "Too much at once; please wait.", retry_after=wait) from None

    def begin_turn(self, asker: Asker, conversation_id: str) -> Seen:
        """The conversation of whoever asks, in one transaction. Not for the event loop's thread.

        Refusal for who is not signed in, asks too much, or has no such conversation.
        """
        assert asker.token is not None, "see with_token"
        with self.database.cursor("read") as cursor:
            person = known(self.sessions.holder(cursor, asker.token))
            self.answers.check_room(person.id)
            self.within("messages_source", asker.source)
            self.within("messages_account", person.id)
            self.within("tokens_account", person.id, 0)
            return self.turns.look(cursor, person, conversation_id)

    def apply(self, settings: AdminSettings) -> None:
        """Do as the operator's settings say. UserError when a rate cannot be read."""
        if self.limiter is not None:
            self.limiter.configure(settings.rates)


@dataclass(frozen=True)
class Asker:
    """Whoever asks, before anybody has looked who that is. token: what the cookie holds. came: when, monotonic."""

    token: str | None
    source: str
    came: float


@dataclass(frozen=True)
class Visitor:
    """Who asks. token: what the cookie holds; person: None when not signed in."""

    token: str | None
    person: Person | None
    source: str

    @property
    def actor(self) -> Actor:
        """The visitor as the audit log names one."""
        return (
            Actor(None, "", self.source)
            if self.person is None
            else Actor(self.person.id, self.person.name, self.source)
        )


async def context(request: Request) -> Context:
    """The service's parts."""
    return request.app.state.context


Parts = Annotated[Context, Depends(context)]


async def asker(request: Request, parts: Parts) -> Asker:
    """Whoever asks. Refusal when a request that changes something may be forged by another site's page."""
    token = request.cookies.get(_cookie_name(request))
    if request.method in CHANGING:
        check_origin(request.headers.get("origin"), request.headers.get("host", ""), parts.public)
        check_csrf(token, request.headers.get("x-csrf-token"))
    return Asker(token, source_of(request), clock_of(request).came)


Unknown = Annotated[Asker, Depends(asker)]


async def with_token(unknown: Unknown) -> Asker:
    """Whoever asks with a session's token, which nobody has looked at yet. Refusal without one."""
    if unknown.token is None:
        raise not_signed_in()
    return unknown


Bearer = Annotated[Asker, Depends(with_token)]


def visitor(unknown: Unknown, parts: Parts) -> Visitor:
    """Whoever asks, and who that is."""
    person = parts.sessions.find(unknown.token) if unknown.token else None
    return Visitor(unknown.token, person, unknown.source)


Anyone = Annotated[Visitor, Depends(visitor)]


async def signed_in(anyone: Anyone) -> Person:
    """Whoever is signed in. Refusal else."""
    return known(anyone.person)


def not_signed_in() -> Refusal:
    """What somebody hears who must log in."""
    return Refusal(401, "not_signed_in", "Log in first.")


def known(person: Person | None) -> Person:
    """The person. Refusal when it is nobody."""
    if person is None:
        raise not_signed_in()
    return person


Somebody = Annotated[Person, Depends(signed_in)]


async def admin(person: Somebody) -> Person:
    """An admin. To everybody else there is nothing here."""
    if not person.is_admin:
        raise not_found()
    return person


async def page(
    number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
    limit: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 50,
) -> Page:
    """The part of a list that is asked for."""
    return Page(number, limit)


Paged = Annotated[Page, Depends(page)]


class Body(BaseModel):
    """Base of the bodies: unknown keys refused, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


NoNul = AfterValidator(_without_nul)  # PostgreSQL keeps none
Title = Annotated[str, StringConstraints(max_length=conversations.LONGEST_TITLE, strip_whitespace=True), NoNul]
Text = Annotated[str, StringConstraints(max_length=feedback.LONGEST_TEXT), NoNul]
Search = Annotated[str, Query(max_length=200)]
Consent = Annotated[bool | None, Query()]


def session_view(parts: Context, request: Request, response: Response, token: str | None) -> dict[str, Any]:
    """The session that a token opens, as the page gets it; sets the cookie where it is new."""
    if token is None:
        token = new_token()
    if token != request.cookies.get(_cookie_name(request)):
        set_cookie(request, response, token)
    person = parts.sessions.find(token)
    return {
        "user": None if person is None else _user(parts, person),
        "csrf_token": csrf_token(token),
        "config": config(parts),
    }


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Give the browser a session's token: for this site alone, and out of reach of scripts."""
    response.set_cookie(
        _cookie_name(request),
        token,
        max_age=int(ABSOLUTE_SECONDS),
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )


def _is_secure(request: Request) -> bool:
    public = request.app.state.context.public
    return (public or str(request.base_url)).startswith("https://")


def _cookie_name(request: Request) -> str:
    """Over https, a name that only this very host can have set."""
    return f"__Host-{COOKIE}" if _is_secure(request) else COOKIE


def _user(parts: Context, person: Person) -> dict[str, Any]:
    with parts.database.read() as session:
        row = session.get_one(User, person.id)
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "consent": row.consent,
        "settings": views.account_settings(row.settings),
        "created_at": row.created_at,
    }


def model_view(model: LoadedModel) -> dict[str, Any]:
    """A model as the page gets it."""
    return {
        "id": model.name,
        "context": model.context,
        "fingerprint": model.fingerprint,
        "created_at": model.created,
    }


def config(parts: Context) -> dict[str, Any]:
    """What the page must know before anybody is signed in."""
    settings = parts.settings.current
    models = list(parts.models.values())
    return {
        "version": __version__,
        "signup": settings.signup,
        "guests": settings.guests,
        "comparisons": settings.comparisons,
        "consent_default": settings.consent_default,
        "user_keys": settings.user_keys,
        "models": [model_view(model) for model in models],
        "default_model": models[0].name if models else "",
        "default_temperature": turns.TEMPERATURE,
        "feedback_tags": {vote: list(tags) for vote, tags in feedback.TAGS.items()},
        "key_scopes": list(SCOPES),
        "limits": {
            "message_chars": turns.LONGEST_MESSAGE,
            "name_chars": accounts.LONGEST_NAME,
            "password_min": passwords.SHORTEST,
            "password_chars": passwords.LONGEST,
            "instructions_chars": accounts.LONGEST_INSTRUCTIONS,
            "title_chars": conversations.LONGEST_TITLE,
            "feedback_chars": feedback.LONGEST_TEXT,
            "max_tokens": max((model.context for model in models), default=0),
        },
    }
