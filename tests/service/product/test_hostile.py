"""A hostile network at the page's API: requests made from its description, mangled ones, readers that never read."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
import torch
from fastapi.openapi.utils import get_openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from chatwright.inference.request import Completion, Delta
from chatwright.service import app, streams
from chatwright.service.api import admin, keys, session
from chatwright.service.api import conversations as routes
from chatwright.service.models import LoadedModel
from tests.service.product.browser import Browser, Service, on_sqlite, wait_until
from tests.service.product.parts import Forbidding

Product = Callable[..., Service]
# What would end the session that asks, or slow it down: they are asked by nobody who is signed in.
ENDING = {"/api/login", "/api/signup", "/api/logout", "/api/account/delete", "/api/account/password"}
ENDING |= {"/api/admin/users/{user_id}", "/api/admin/users/{user_id}/password"}
PUBLIC = {"/api/session", "/api/guest", "/api/login", "/api/signup", "/api/logout", "/api/shared/{token}"}
EXAMPLES = 3  # of each operation


def description() -> dict[str, Any]:
    """OpenAPI's of the page's API, which is not served: it is for the page alone."""
    every = [route for module in (session, routes, keys, admin) for route in module.router.routes]
    return get_openapi(title="page", version="1", routes=every)


def headers_of(browser: Browser) -> dict[str, str]:
    return {"X-CSRF-Token": browser.session["csrf_token"], "Origin": browser.address}


ALLOWED, FORBIDDEN = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("mode", "database_url"), [(ALLOWED, "postgresql"), (FORBIDDEN, "sqlite")], indirect=["database_url"]
)
def test_whatever_the_description_allows_or_forbids_is_answered_without_a_failure(
    mode: schemathesis.GenerationMode, service: Service
):
    torch.set_flush_denormal(False)  # hypothesis wants the smallest numbers, which our kernels round to 0
    service.set(comparisons=True, user_keys=True)
    root, stranger = service.admin(), service.browser()
    real = {**root.belongings(), "user_id": service.browser("anna").session["user"]["id"]}
    quick = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    tried, done = Counter[str](), set[str]()
    wire = requests.Session()

    def status_of(case: schemathesis.Case, browser: Browser) -> int:
        cookies = dict(browser.http.cookies)
        response = case.call(
            base_url=service.address, session=wire, headers=headers_of(browser), cookies=cookies, timeout=60
        )
        told = (case.method, case.path, case.path_parameters, case.query, case.body, response.text[:500])
        assert response.status_code < 500, told
        if response.status_code >= 400:
            assert {"code", "message", "param"} <= response.json()["error"].keys(), told
        return response.status_code

    def ask(case: schemathesis.Case) -> None:
        name = f"{case.method} {case.path}"
        tried[name] += 1
        if tried[name] % 3 and case.path_parameters:  # else whatever ids were made up
            case.path_parameters = {key: real.get(key, value) for key, value in case.path_parameters.items()}
        if case.path not in ENDING and case.method != "DELETE" and status_of(case, root) < 300:
            done.add(name)
        status = status_of(case, stranger)
        assert status >= 400 or case.path in PUBLIC, name

    operations = [result.ok() for result in schemathesis.openapi.from_dict(description()).get_all_operations()]
    for operation in operations:
        with suppress(Unsatisfiable):  # nothing can be wrong with what has neither body nor parameters
            quick(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    assert root.refresh()["user"]["role"] == "admin"
    assert len(tried) > 25
    assert mode == FORBIDDEN or (len(tried) == len(operations) and len(done) > 20)


@on_sqlite
def test_mangled_requests_of_somebody_signed_in_leave_the_server_up(service: Service):
    anna = service.browser("anna")
    host, port = urlsplit(service.address).netloc.split(":")
    body = json.dumps({"title": "Hello", "settings": {"temperature": 0.5}}).encode()
    cookies = "; ".join(f"{name}={value}" for name, value in anna.http.cookies.items())
    fields = {"Host": f"{host}:{port}", "Cookie": cookies, "Content-Type": "application/json", **headers_of(anna)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
    whole = b"POST /api/conversations HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    draw = random.Random(0)
    for turn in range(90):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if turn % 3 == 0:  # the body alone
            data = bytearray(whole[: -len(body)]) + draw.randbytes(len(body))
        if turn % 3 == 1:
            data = data[: draw.randrange(len(data))]
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(bytes(data))
            client.shutdown(socket.SHUT_WR)
            assert not re.match(rb"HTTP/1.1 5\d\d", client.recv(20)), bytes(data)
    assert anna.refresh()["user"]["name"] == "anna"


class Flood:
    """An engine whose answers are larger than any buffer between here and a reader."""

    pieces, size = 60, 100_000  # characters

    def begin(self, prompt: list[int], sampling: object, listener: Callable) -> Callable[[], None]:
        for _ in range(self.pieces):
            listener(Delta("x" * self.size, [], [], []), None)
        listener(Delta("", [], [], []), Completion([1], [0.0], "stop", "x" * self.size * self.pieces))
        return lambda: None


@on_sqlite
def test_readers_who_never_read_hold_no_place_no_memory_and_nobody_up(
    product: Product, scripted: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "READING_SECONDS", 0.3)
    monkeypatch.setattr(app, "UNREAD_SECONDS", 1.0)
    model = scripted("Hello.")
    flood = LoadedModel("flood", Flood(), model.tokenizer, model.context, "fp_flood", 1)
    service = product(model, flood, moderator=Forbidding("poison"))
    anna = service.browser("anna")
    host, port = urlsplit(service.address).netloc.split(":")
    cookies = "; ".join(f"{name}={value}" for name, value in anna.http.cookies.items())
    id = anna.conversation()
    [answer] = anna.send(id, "Flood me", settings={"model": "flood"})["answers"]
    path = f"/api/conversations/{id}/messages/{answer['id']}/events?after=0"
    readers = []
    for _ in range(8):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookies}\r\n\r\n".encode())
        readers.append(reader)
    assert anna.end_of(answer)["status"] == "done"  # who reads is not held up, and the answer is whole
    assert service.parts.line.length == 0
    wait_until(lambda: not service.parts.streams)

    def unsent() -> int:
        return sum(one.transport.get_write_buffer_size() for one in list(service.server.server_state.connections))

    assert unsent() < len(readers) * 3 * flood.engine.size  # of sixty times as much
    wait_until(lambda: unsent() == 0)  # and in the end not even that
    ben = service.browser("ben")
    assert ben.ask(ben.conversation(), "Hello")["content"] == "Hello."
    for reader in readers:
        reader.close()
