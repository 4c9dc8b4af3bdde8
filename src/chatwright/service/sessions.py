"""Who is signed in: opaque tokens in a cookie, their hashes in the database, and the token against forged requests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.service.database import Database
from chatwright.service.tables import SessionRow, User

IDLE_SECONDS = 14 * 86400.0  # ours: a fortnight away, and one logs in again
ABSOLUTE_SECONDS = 60 * 86400.0
SEEN_EVERY = 60.0  # seconds; how exactly the last visit is known

# Every request asks this. It is built once, since that takes longer than the database's answer.
_HOLDER = (
    sa.select(SessionRow.last_seen_at, SessionRow.created_at, User.id, User.name, User.role, User.consent)
    .join(User, User.id == SessionRow.user_id)
    .where(SessionRow.hash == sa.bindparam("hash"), User.disabled.is_(False))
)


@dataclass(frozen=True)
class Person:
    """Somebody signed in. session: the hash of the session. seen: when the last visit was noted."""

    id: str
    name: str
    role: str
    consent: bool
    session: str
    seen: float

    @property
    def is_admin(self) -> bool:
        """Whether the person may use the admin page."""
        return self.role == "admin"

    @property
    def is_guest(self) -> bool:
        """Whether the person has no password."""
        return self.role == "guest"


class Sessions:
    """Opens, finds and ends sessions."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._holder = database.prepare(_HOLDER)

    def open(self, user_id: str, before: str | None = None) -> str:
        """A new session's token. The one `before`, if any, ends: a token from before logging in opens nothing."""
        token = new_token()
        with self._database.write() as session:
            if before is not None:
                end(session, hashed(before))
            begin(session, user_id, token, self._clock())
        return token

    def find(self, token: str) -> Person | None:
        """Who holds the token, whose visit is noted. None when it is unknown or over, or the account is disabled."""
        with self._database.cursor("read") as cursor:
            person = self.holder(cursor, token)
        if person is not None:
            self.note_visit(person)
        return person

    def holder(self, cursor: Any, token: str) -> Person | None:
        """Who holds the token, in a transaction under way; see `find`."""
        now, hash = self._clock(), hashed(token)
        for seen, created, id, name, role, consent in self._holder.rows(cursor, {"hash": hash}):
            if now <= seen + IDLE_SECONDS and now <= created + ABSOLUTE_SECONDS:
                return Person(id, name, role, consent, hash, seen)
        return None

    def note_visit(self, person: Person) -> None:
        """Write down that somebody was here, unless that was done lately."""
        now = self._clock()
        if now > person.seen + SEEN_EVERY:
            with self._database.write() as session:
                session.execute(sa.update(SessionRow).where(SessionRow.hash == person.session).values(last_seen_at=now))
                session.execute(sa.update(User).where(User.id == person.id).values(last_seen_at=now))

    def end(self, token: str, everywhere: bool = False) -> None:
        """Log out; `everywhere`: all sessions of the person."""
        with self._database.write() as session:
            row = session.get(SessionRow, hashed(token))
            if row is None:
                return
            if everywhere:
                end_all(session, row.user_id)
            else:
                session.delete(row)

    def forget_old(self) -> None:
        """Delete the sessions that are over."""
        now = self._clock()
        with self._database.write() as session:
            old = (SessionRow.last_seen_at < now - IDLE_SECONDS) | (SessionRow.created_at < now - ABSOLUTE_SECONDS)
            session.execute(sa.delete(SessionRow).where(old))


def begin(session: Session, user_id: str, token: str, now: float) -> None:
    """Write a new session, in a transaction under way."""
    session.add(SessionRow(hash=hashed(token), user_id=user_id, created_at=now, last_seen_at=now))
    session.execute(sa.update(User).where(User.id == user_id).values(last_seen_at=now))


def end(session: Session, token_hash: str) -> None:
    """Delete a session, in a transaction under way."""
    session.execute(sa.delete(SessionRow).where(SessionRow.hash == token_hash))


def end_all(session: Session, user_id: str) -> None:
    """Delete all sessions of a person, in a transaction under way."""
    session.execute(sa.delete(SessionRow).where(SessionRow.user_id == user_id))


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What is kept of a token: of random bits a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(token: str) -> str:
    """What a page must send along with the cookie `token`; other sites' pages cannot read it, nor make it up."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def csrf_matches(token: str, sent: str) -> bool:
    """Whether `sent` belongs to the cookie."""
    return hmac.compare_digest(csrf_token(token).encode(), sent.encode())
