"""A browser without a screen: keeps cookies, sends the page's token and its own origin, reads event streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI

from chatwright.service.api.context import Context
from chatwright.service.app import create_app, listen
from chatwright.service.models import LoadedModel
from chatwright.service.passwords import Passwords
from chatwright.service.product import Neighbours

PASSWORD = "correct horse battery"
# For tests of what happens before the database is asked anything.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something; a busy machine is not a broken service."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@dataclass
class Event:
    """An event of a stream."""

    number: int
    kind: str
    data: dict[str, Any]


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """The events of a stream as they come."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "event" in fields:
                yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


class Browser:
    """Somebody at the page."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = httpx.Client(base_url=address, timeout=60, headers={"Origin": address}, verify=False)
        self.session: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> dict[str, Any]:
        """Ask who is signed in."""
        return self._took(self.http.get("/api/session"))

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A request of the page."""
        headers = {"X-CSRF-Token": self.session["csrf_token"], **options.pop("headers", {})}
        if body is not None or method in ("POST", "PUT", "PATCH"):
            options["json"] = {} if body is None else body
        return self.http.request(method, f"/api{path}", headers=headers, **options)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer of a request that must go well."""
        response = self.call(method, path, body, **options)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """The status and code of a request that must not go well."""
        response = self.call(method, path, body, **options)
        assert not response.is_success, response.text
        return response.status_code, response.json()["error"]["code"]

    def sign_up(self, name: str, password: str = PASSWORD) -> Browser:
        """Make an account and log in."""
        self.ok("POST", "/signup", {"name": name, "password": password})
        return self.log_in(name, password)

    def log_in(self, name: str, password: str = PASSWORD) -> Browser:
        """Log in."""
        self._took(self.call("POST", "/login", {"name": name, "password": password}))
        return self

    def conversation(self, **body: Any) -> str:
        """Begin a conversation: its id."""
        return self.ok("POST", "/conversations", body)["id"]

    def read(self, conversation: str) -> dict[str, Any]:
        """A conversation."""
        return self.ok("GET", f"/conversations/{conversation}")

    def belongings(self) -> dict[str, str]:
        """What stands in the addresses of what is the person's: a conversation with a comparison, shared, and a key."""
        turn = self.send(self.conversation(), "What is the capital of Japan?", compare=True)
        for answer in turn["answers"]:
            self.end_of(answer)
        id = turn["conversation"]["id"]
        return {
            "conversation_id": id,
            "message_id": turn["answers"][0]["id"],
            "comparison_id": turn["comparison"]["id"],
            "key_id": self.ok("POST", "/keys", {"name": "k", "scopes": ["chat"]})["key"]["id"],
            "user_id": self.session["user"]["id"],
            "token": self.ok("POST", f"/conversations/{id}/share", {})["token"],
            "kind": "feedback",
        }

    def send(self, conversation: str, content: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
        """Ask; the turn, whose answer is under way."""
        body = {"content": content, "parent_id": parent, **more}
        return self.ok("POST", f"/conversations/{conversation}/messages", body)

    def ask(self, conversation: str, content: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
        """Ask, and wait for the answer: that message."""
        return self.end_of(self.send(conversation, content, parent, **more)["answers"][0])

    def end_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """An answer when it is over."""
        *_, end = self.events(message)
        assert end.kind == "end"
        return end.data["message"]

    def events(self, message: dict[str, Any], after: int | None = None) -> Iterator[Event]:
        """The events of an answer as they come."""
        path = f"/api/conversations/{message['conversation_id']}/messages/{message['id']}/events"
        after = message["last_event"] if after is None else after
        with self.http.stream("GET", path, params={"after": after}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield from read_events(response.iter_lines())

    def _took(self, response: httpx.Response) -> dict[str, Any]:
        assert response.is_success, response.text
        self.session = response.json()
        return self.session


@dataclass
class Service:
    """A running service."""

    address: str
    app: FastAPI
    server: uvicorn.Server
    browsers: list[Browser] = field(default_factory=list)

    @property
    def parts(self) -> Context:
        """What it is made of."""
        return self.app.state.context

    def browser(self, name: str | None = None) -> Browser:
        """A new browser; with a name, signed up and in."""
        browser = Browser(self.address)
        self.browsers.append(browser)
        return browser if name is None else browser.sign_up(name)

    def admin(self, name: str = "root") -> Browser:
        """A browser with an admin signed in."""
        passwords = self.parts.passwords
        assert self.parts.accounts.create(name, passwords.hash_now(PASSWORD), role="admin") is not None
        return self.browser().log_in(name)

    def set(self, **settings: Any) -> None:
        """Set as the operator does."""
        self.parts.settings.change(settings, self.parts.apply)


class QuickServer(uvicorn.Server):
    """Ends as soon as it is told to, not at the next tenth of a second."""

    async def main_loop(self) -> None:
        """Until it is told to end."""
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def serving_product(models: Sequence[LoadedModel], database_url: str, **options: Any) -> Iterator[Service]:
    """Serve models on a port of loopback (a free one), with cheap passwords and without titles by models."""
    port = options.pop("port", 0)
    sizes = {key: options.pop(key) for key in ("waiting_places", "at_once") if key in options}
    titles = options.pop("model_titles", False)
    neighbours = Neighbours(passwords=Passwords(CHEAP), **options)
    listening = listen("127.0.0.1", port)
    app = create_app({model.name: model for model in models}, database=database_url, neighbours=neighbours, **sizes)
    server = QuickServer(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    service = Service(f"http://127.0.0.1:{listening.getsockname()[1]}", app, server)
    service.set(model_titles=titles, rates={"messages_account": "", "messages_source": ""})
    try:
        yield service
    finally:
        for browser in service.browsers:
            browser.http.close()
        server.should_exit = True
        thread.join()
        listening.close()
