"""Passwords: hashed by argon2id, a few at a time, so that nobody can buy all of the machine with log-ins."""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chatwright.service.refusal import Refusal

T = TypeVar("T")
SHORTEST, LONGEST = 8, 128  # characters; 8 is NIST SP 800-63B's least for what a person chooses
AT_ONCE = 2
WAITING = 32  # more are turned away
RETRY_AFTER = 2.0  # seconds
# The head of every list of leaked passwords that is long enough to be chosen here at all.
COMMONEST = """\
12345678 123456789 1234567890 password password1 password123 qwertyui qwerty123 qwertyuiop 1q2w3e4r iloveyou sunshine
princess football baseball superman trustno1 letmein1 welcome1 abc12345 11111111 00000000 88888888 87654321 987654321
passw0rd admin123 administrator changeme chatwright"""


class Passwords:
    """Hashes and checks passwords in threads of its own."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """hasher: argon2-cffi's, with its defaults (RFC 9106, the second recommended) when left out."""
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hash")
        self._inside = 0
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """What is kept of a password."""
        return await self._work(lambda: self._hasher.hash(_normal(password)))

    async def matches(self, password: str, kept: str | None) -> bool:
        """Whether it is the password that `kept` was made of. Without `kept` it is not, and takes as long to say so."""

        def check() -> bool:
            try:
                return self._hasher.verify(kept or self._nobody, _normal(password)) and kept is not None
            except (VerificationError, InvalidHashError):
                return False

        return await self._work(check)

    def hash_now(self, password: str) -> str:
        """As `hash`, for the command line."""
        return self._hasher.hash(_normal(password))

    async def _work(self, task: Callable[[], T]) -> T:
        if self._inside >= AT_ONCE + WAITING:
            raise Refusal(503, "overloaded", "Too many people log in just now.", retry_after=RETRY_AFTER)
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, task)
        finally:
            self._inside -= 1


def _normal(password: str) -> str:
    """The same password typed on another system (NIST SP 800-63B 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def check_new(password: str, name: str) -> None:
    """Refusal when a new password is too short, too long, or what everybody would try first."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Refusal(400, "weak_password", f"A password has {SHORTEST} to {LONGEST} characters.", param="password")
    easy = password.casefold()
    if easy in COMMONEST.split() or easy == name.casefold() or len(set(easy)) < 3:
        raise Refusal(400, "weak_password", "This password is too easy to guess; choose another.", param="password")
