"""API keys: made for a person, shown once, kept as a hash, limited to scopes, revocable."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from chatwright.service import audit
from chatwright.service.audit import Actor
from chatwright.service.database import Database, Rows
from chatwright.service.keys import SCOPES
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.sessions import hashed
from chatwright.service.tables import KeyRow, User

PREFIX = 11  # characters of the secret that are shown in lists: cw- and 8
MOST = 50  # keys of one person that work
CACHED_SECONDS = 10.0  # how long a revoked key may work at most in another process; in this one it ends at once
CACHED = 4096


@dataclass(frozen=True)
class Key:
    """A key, without its secret."""

    id: str
    account: str
    user_name: str
    name: str
    prefix: str
    scopes: frozenset[str]
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    revoked_at: float | None

    def view(self) -> dict[str, Any]:
        """The key as the page gets it."""
        shown = {name: value for name, value in self.__dict__.items() if name != "account"}
        return {**shown, "user_id": self.account, "scopes": [scope for scope in SCOPES if scope in self.scopes]}


class StoredKeys:
    """The API keys in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, Key | None]] = {}  # by hash: until when it holds
        self._changes = 0
        self._lock = threading.Lock()

    def create(
        self,
        user_id: str,
        name: str,
        scopes: Iterable[str],
        expires_at: float | None = None,
        actor: Actor | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which cannot be read again. Refusal when the person has too many."""
        secret = f"cw-{secrets.token_urlsafe(32)}"
        with self._database.write() as session:
            user = session.get(User, user_id)
            if user is None:
                raise not_found()
            mine = sa.select(sa.func.count()).where(KeyRow.user_id == user_id, KeyRow.revoked_at.is_(None))
            if (session.scalar(mine) or 0) >= MOST:
                raise Refusal(409, "too_many_keys", f"There are {MOST} keys already; revoke one first.")
            row = KeyRow(
                user_id=user_id,
                name=name,
                prefix=secret[:PREFIX],
                hash=hashed(secret),
                scopes=sorted(set(scopes)),
                expires_at=expires_at,
            )
            session.add(row)
            session.flush()
            audit.note(
                session, actor or Actor(None, "command line"), "key_created", row.id, scopes=row.scopes, user=user_id
            )
            return _key(row, user.name), secret

    def find(self, digest: str) -> Key | None:
        """The key whose secret has this sha256. None: unknown, revoked, expired, or its user is disabled."""
        now = time.time()
        with self._lock:
            until, key = self._cache.get(digest, (0.0, None))
            changes = self._changes
        if until < now:
            with self._database.read() as session:
                works = KeyRow.hash == digest, KeyRow.revoked_at.is_(None), User.disabled.is_(False)
                found = session.execute(_keys().where(*works)).first()
            key = None if found is None else _key(*found)
            with self._lock:
                if len(self._cache) >= CACHED:
                    self._cache.clear()
                if changes == self._changes:  # else what was read may be from before a key was revoked
                    self._cache[digest] = now + CACHED_SECONDS, key
        return None if key is None or (key.expires_at is not None and key.expires_at <= now) else key

    def used(self, key_id: str, at: float) -> None:
        """Remember when a key was last used."""
        with self._database.write() as session:
            session.execute(sa.update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=at))

    def revoke(self, key_id: str, user_id: str | None = None, actor: Actor | None = None) -> Key | None:
        """End a key. With `user_id` only that person's; None when there is no such key."""
        with self._database.write() as session:
            found = session.execute(_keys().where(KeyRow.id == key_id)).first()
            if found is None or (user_id is not None and found[0].user_id != user_id):
                return None
            row, name = found
            if row.revoked_at is None:
                row.revoked_at = time.time()
                audit.note(session, actor or Actor(None, "command line"), "key_revoked", key_id)
            key = _key(row, name)
        self.forget()
        return key

    def owned_by(self, user_id: str | None = None) -> list[Key]:
        """All keys, or one person's, newest first."""
        wanted = _keys().order_by(KeyRow.created_at.desc(), KeyRow.id)
        if user_id is not None:
            wanted = wanted.where(KeyRow.user_id == user_id)
        with self._database.read() as session:
            return [_key(row, name) for row, name in session.execute(wanted)]

    def forget(self) -> None:
        """Look keys up anew: something about them or their users has changed."""
        with self._lock:
            self._cache.clear()
            self._changes += 1


def _keys() -> Rows:
    return sa.select(KeyRow, User.name).join(User, User.id == KeyRow.user_id)


def _key(row: KeyRow, user_name: str) -> Key:
    return Key(
        row.id,
        row.user_id,
        user_name,
        row.name,
        row.prefix,
        frozenset(row.scopes),
        row.created_at,
        row.last_used_at,
        row.expires_at,
        row.revoked_at,
    )
