"""Who asks a running service over HTTP: programs through /v1, and people with accounts through the chat page's API."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from measure import Timed

TURNS = 3  # questions of a conversation


@dataclass(frozen=True)
class Answer(Timed):
    """status: HTTP's; 0 when the connection or the answer broke off. ended: when all of it was there."""

    status: int
    ended: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        return self.status == 200


class Visitor(Protocol):
    """Somebody who asks."""

    async def ask(self, question: str, tokens: int) -> Answer:
        """Ask, and read the answer to its end."""


class Connection:
    """HTTP/1.1 over asyncio's streams, one request each: cheap enough to leave the processor to the server."""

    def __init__(self, port: int, headers: str = "") -> None:
        self.port, self.headers = port, headers

    async def open(self, method: str, path: str, body: Any = None) -> tuple[int, str, asyncio.StreamReader, Any]:
        """Send a request; the status, the response's headers, and what to read its body from and to close."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n{self.headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        received = (await reader.readuntil(b"\r\n\r\n")).decode()
        return int(received.split()[1]), received, reader, writer

    async def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
        """A request whose response is JSON; status 0 when the connection breaks."""
        with suppress(OSError, asyncio.IncompleteReadError):
            status, head, reader, writer = await self.open(method, path, body)
            data = await reader.read()
            writer.close()
            return status, json.loads(data) if data else None, head
        return 0, None, ""


class Program:
    """A program that asks /v1; each question has those before it in front, as a chat has."""

    def __init__(self, port: int, model: str) -> None:
        self._connection = Connection(port, "Authorization: Bearer none\r\n")
        self._model = model
        self._messages: list[dict[str, str]] = []

    async def ask(self, question: str, tokens: int) -> Answer:
        self._messages = [*self._messages[-4:], {"role": "user", "content": question}]
        body = {"model": self._model, "messages": self._messages, "max_tokens": tokens, "stream": True}
        answer, text = await _streamed(self._connection, "POST", "/v1/chat/completions", body, "content")
        self._messages.append({"role": "assistant", "content": text or "..."})
        return answer


class Person:
    """A person with an account on the chat page, and a conversation of a few turns."""

    def __init__(self, port: int, account: dict[str, str] | None = None) -> None:
        """account: name and password; a new one when left out."""
        self._port = port
        self._account = account or {"name": f"visitor-{secrets.token_hex(6)}", "password": secrets.token_urlsafe(16)}
        self._connection = Connection(port)
        self._conversation: str | None = None
        self._parent: str | None = None
        self._turns = 0

    async def sign_up(self) -> None:
        """Make the account."""
        await self._session("GET", "/api/session")
        status, _, _ = await self._connection.json("POST", "/api/signup", self._account)
        assert status == 202, f"nobody can sign up here (status {status})"

    async def log_in(self) -> None:
        """Begin a new session; the one before ends."""
        await self._session("GET", "/api/session")
        await self._session("POST", "/api/login", self._account)

    async def lift_limits(self) -> None:
        """As the admin: no rates, since all visitors come from one address; no titles, which are questions too."""
        buckets = ("messages_account", "messages_source", "tokens_account", "signup_source")
        wanted = {"signup": True, "model_titles": False, "rates": dict.fromkeys(buckets, "")}
        status, _, _ = await self._connection.json("PATCH", "/api/admin/settings", wanted)
        assert status == 200, f"the admin cannot change the settings (status {status})"

    async def _session(self, method: str, path: str, body: Any = None) -> None:
        _, session, head = await self._connection.json(method, path, body)
        cookies = dict(re.findall(r"(?im)^set-cookie: ([^=]+)=([^;\r]*)", head))
        token = session["csrf_token"]
        if cookies:
            self._cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        origin = f"http://127.0.0.1:{self._port}"
        self._connection.headers = f"Cookie: {self._cookie}\r\nX-CSRF-Token: {token}\r\nOrigin: {origin}\r\n"

    async def ask(self, question: str, tokens: int) -> Answer:
        if self._conversation is None or self._turns == TURNS:
            status, conversation, _ = await self._connection.json("POST", "/api/conversations", {})
            if status != 201:
                return Answer(time.monotonic(), [], status)
            self._conversation, self._parent, self._turns = conversation["id"], None, 0
        self._turns += 1
        asked = time.monotonic()
        path = f"/api/conversations/{self._conversation}/messages"
        body = {"content": question, "parent_id": self._parent, "settings": {"max_tokens": tokens}}
        body["key"] = secrets.token_hex(8)
        status, turn, _ = await self._connection.json("POST", path, body)
        if status != 201:
            return Answer(asked, [], status)
        [answer] = turn["answers"]
        events = f"{path}/{answer['id']}/events?after={answer['last_event']}"
        read, _ = await _streamed(self._connection, "GET", events, None, "text")
        self._parent = answer["id"]
        return Answer(asked, read.came, read.status, read.ended)


async def _streamed(connection: Connection, method: str, path: str, body: Any, key: str) -> tuple[Answer, str]:
    """An answer from server-sent events whose text is under a key; the last event says that it is whole."""
    asked, came, text, status, whole = time.monotonic(), list[float](), "", 0, False
    pattern = re.compile(rf'"{key}": ?("(?:[^"\\]|\\.)+")'.encode())
    with suppress(OSError, asyncio.IncompleteReadError):
        status, _, reader, writer = await connection.open(method, path, body)
        while status == 200 and (line := await reader.readline()):
            if line.startswith(b"data: [DONE]") or (
                line.startswith(b'data: {"message"') and b'"status": "done"' in line
            ):
                whole = True
            elif line.startswith(b"data:") and (found := pattern.search(line)):
                came.append(time.monotonic())
                text += json.loads(found[1])
        writer.close()
    return Answer(asked, came, status if whole or status != 200 else 0, time.monotonic()), text
