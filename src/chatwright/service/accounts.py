"""Accounts: making, finding, changing and deleting them. Nothing here tells a stranger who has one."""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from chatwright.service import audit, sessions
from chatwright.service.audit import Actor
from chatwright.service.database import Database
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.tables import User, new_id

LONGEST_NAME = 64
LONGEST_INSTRUCTIONS = 4000  # characters
NAME = re.compile(r"[\w.@+-]{3,64}")
ROLES = ("admin", "user", "guest")


class TurnSettings(BaseModel):
    """How answers are made; None: as the next wider settings say, and at last as the service does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=200)] | None = None
    instructions: Annotated[str, Field(max_length=LONGEST_INSTRUCTIONS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class AccountSettings(TurnSettings):
    """An account's settings: of its answers, and of the page."""

    language: Literal["en", "zh"] | None = None
    theme: Literal["light", "dark"] | None = None


class Accounts:
    """The accounts in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        password_hash: str | None,
        *,
        role: str = "user",
        consent: bool = False,
        actor: Actor | None = None,
        guest_id: str | None = None,
    ) -> str | None:
        """The new account's id; None when the name is taken. With `guest_id` that guest becomes the account.

        Either way it takes one transaction with a line in the log, so that its time tells as little as the answer.
        """
        by = actor or Actor(None, "command line")
        try:
            with self._database.write() as session:
                taken = session.scalar(sa.select(User.id).where(User.name_key == name_key(name)))
                if taken is not None:
                    audit.note(session, by, "signup_refused", taken)
                    return None
                guest = session.get(User, guest_id) if guest_id else None
                if guest is None or guest.role != "guest":
                    guest = User(id=new_id(), consent=consent, settings={}, created_at=time.time())
                    session.add(guest)
                guest.name, guest.name_key = clean_name(name), name_key(name)
                guest.password_hash, guest.role = password_hash, role
                if role != "guest":
                    audit.note(session, by, "admin_created" if role == "admin" else "account_created", guest.id)
                return guest.id
        except IntegrityError:  # somebody took the name at the same moment
            return None

    def create_guest(self) -> str:
        """A guest's account: no password, no consent."""
        created = self.create(f"guest-{secrets.token_hex(8)}", None, role="guest")
        assert created is not None
        return created

    def credentials(self, name: str) -> tuple[str | None, str | None]:
        """The id and password hash of the account that may log in by this name; None for both when there is none."""
        with self._database.read() as session:
            user = session.scalar(sa.select(User).where(User.name_key == name_key(name)))
        return (
            (None, None)
            if user is None or user.disabled or user.password_hash is None
            else (user.id, user.password_hash)
        )

    def password_hash(self, user_id: str) -> str | None:
        """What is kept of the password."""
        with self._database.read() as session:
            user = session.get(User, user_id)
            return user.password_hash if user else None

    def change(self, user_id: str, settings: dict[str, Any] | None, consent: bool | None) -> None:
        """Take changes of settings (only the keys given; None takes one away) and of consent."""
        with self._database.write() as session:
            user = _locked(session, user_id)
            if settings is not None:
                user.settings = merged(user.settings, settings)
            if consent is not None:
                user.consent = consent

    def set_password(self, user_id: str, password_hash: str, actor: Actor, token: str | None) -> None:
        """Change a password: every session ends. With `token`, a new session begins with it."""
        with self._database.write() as session:
            user = _locked(session, user_id)
            user.password_hash = password_hash
            sessions.end_all(session, user_id)
            if token is not None:
                sessions.begin(session, user_id, token, time.time())
            audit.note(session, actor, "password_changed" if actor.id == user_id else "password_reset", user_id)

    def delete(self, user_id: str, actor: Actor) -> None:
        """Delete an account with all data. Refusal for the last admin: nobody could let in another."""
        with self._database.write() as session:
            user = _locked(session, user_id)
            if user.role == "admin":
                keep_an_admin(session, user_id)
            session.execute(sa.delete(User).where(User.id == user_id))
            audit.note(session, actor, "account_deleted" if actor.id == user_id else "user_deleted", user_id)

    def forget_guests(self, days: int) -> None:
        """Delete guests who have not been seen for so long."""
        with self._database.write() as session:
            seen = sa.func.coalesce(User.last_seen_at, User.created_at)
            session.execute(sa.delete(User).where(User.role == "guest", seen < time.time() - days * 86400))


def _locked(session: Session, user_id: str) -> User:
    user = session.scalar(sa.select(User).where(User.id == user_id).with_for_update())
    if user is None:
        raise not_found()
    return user


def keep_an_admin(session: Session, leaving: str) -> None:
    """Refusal when nobody would be admin without `leaving`."""
    others = sa.select(User.id).where(User.role == "admin", User.disabled.is_(False), User.id != leaving).limit(1)
    if session.scalar(others) is None:
        raise Refusal(409, "last_admin", "This is the last admin; make another first.")


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings after changes: None takes a key away.

    >>> merged({"model": "a", "top_p": 0.5}, {"model": None, "temperature": 1.0})
    {'top_p': 0.5, 'temperature': 1.0}
    """
    return {key: value for key, value in (settings | changes).items() if value is not None}


def clean_name(name: str) -> str:
    """A name as it is shown. Refusal when it cannot be one."""
    clean = unicodedata.normalize("NFKC", name)
    if not NAME.fullmatch(clean):
        raise Refusal(
            400, "invalid_value", "A name has 3 to 64 letters, digits or any of . _ - @ +, and no spaces.", param="name"
        )
    return clean


def name_key(name: str) -> str:
    """A name as it is compared: two that look the same are the same.

    >>> name_key("Ａnna") == name_key("ANNA")
    True
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
