"""API keys and who may ask what of the API: bearer tokens, scopes, and programs on this machine without a key.

A key is random enough (256 bits) that its plain hash can be kept and looked up; the key itself is shown once.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from chatwright.service.api_error import ApiError

SCOPES = ("chat", "completions", "moderations", "models", "metrics")
MARK = "cw-"  # with which every key begins
SHOWN = len(MARK) + 8  # characters of a key that lists show
USED_EVERY = 60.0  # seconds between two notes of a key's use
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")  # a proxy stands between: the caller is not on this machine


class Key(Protocol):
    """A key that is valid now. account: whose it is."""

    @property
    def id(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def scopes(self) -> Collection[str]: ...


class KeyStore(Protocol):
    """Where keys are kept. Called in worker threads."""

    def find(self, digest: str) -> Key | None:
        """The key with this hash; None when there is none, or it is revoked, or over."""

    def used(self, key_id: str, at: float) -> None:
        """Note that a key was used, in seconds since 1970."""


@dataclass(frozen=True)
class ApiKey:
    """A `Key`."""

    id: str
    account: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class NewKey:
    """A key just made. secret: to be shown once. shown: its beginning, for lists. digest: to be kept."""

    secret: str
    shown: str
    digest: str


def new_key() -> NewKey:
    """Make a key.

    >>> new_key().secret
    'cw-Zc1f...'
    """
    secret = MARK + secrets.token_urlsafe(32)
    return NewKey(secret, secret[:SHOWN], digest_of(secret))


def digest_of(secret: str) -> str:
    """The hash under which a key is kept."""
    return hashlib.sha256(secret.encode("utf-8", errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who asks. account: None for a program without a key. source: its address."""

    account: str | None
    source: str


class Access:
    """Decides whether a request may be answered."""

    def __init__(self, keys: KeyStore | None = None, *, keyless: bool = True) -> None:
        """keyless: whether programs on this machine may ask without a key; from elsewhere none ever may."""
        self._keys, self._keyless = keys, keyless
        self._noted: dict[str, float] = {}

    async def caller(self, request: Request, scope: str) -> Caller:
        """Who asks for what has this scope. ApiError 401 without a valid key, 403 for a key without the scope."""
        source = source_of(request)
        secret = _bearer(request)
        if secret is None or not secret.startswith(MARK):  # clients must send something: api_key="none"
            if self._keyless and on_this_machine(request):
                return Caller(None, source)
            raise ApiError(
                401, "Give an API key of this server: 'Authorization: Bearer cw-...'.", code="invalid_api_key"
            )
        key = None if self._keys is None else await asyncio.to_thread(self._keys.find, digest_of(secret))
        if key is None:
            raise ApiError(401, "This API key is not valid here, or no longer.", code="invalid_api_key")
        if scope not in key.scopes:
            raise ApiError(403, f"This API key may not be used for {scope}.", code="insufficient_scope")
        await self._note(key)
        return Caller(key.account, source)

    async def _note(self, key: Key) -> None:
        """Write down a key's use, but not at every request."""
        now = time.time()
        if now - self._noted.get(key.id, 0.0) >= USED_EVERY:
            self._noted[key.id] = now
            assert self._keys is not None
            await asyncio.to_thread(self._keys.used, key.id, now)


def source_of(request: Request) -> str:
    """The caller's address, of IPv6 the first 64 bits: one customer's network."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return str(address)


def on_this_machine(request: Request) -> bool:
    """Whether the caller is a program on this machine, and no proxy."""
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def _bearer(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" and secret.strip() else None
