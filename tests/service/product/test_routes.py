"""Every route: whose things it shows, what it takes, and what it never does."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from chatwright.service import security
from chatwright.service.security import LARGEST_BODY
from tests.service.product.browser import Service, on_sqlite

JSON = {"content-type": "application/json"}

# What to send to each route that has an id in its path. {…} are Anna's things; the asker is somebody else.
BODIES: dict[tuple[str, str], Any] = {
    ("GET", "/api/conversations/{conversation_id}"): None,
    ("PATCH", "/api/conversations/{conversation_id}"): {"title": "stolen"},
    ("DELETE", "/api/conversations/{conversation_id}"): None,
    ("POST", "/api/conversations/{conversation_id}/messages"): {"content": "Hello", "parent_id": None},
    ("POST", "/api/conversations/{conversation_id}/messages/{message_id}/regenerate"): {},
    ("POST", "/api/conversations/{conversation_id}/messages/{message_id}/continue"): {},
    ("POST", "/api/conversations/{conversation_id}/messages/{message_id}/stop"): {},
    ("GET", "/api/conversations/{conversation_id}/messages/{message_id}/events"): None,
    ("PUT", "/api/conversations/{conversation_id}/messages/{message_id}/feedback"): {"vote": "up"},
    ("DELETE", "/api/conversations/{conversation_id}/messages/{message_id}/feedback"): None,
    ("PUT", "/api/conversations/{conversation_id}/comparisons/{comparison_id}"): {"choice": "a"},
    ("POST", "/api/conversations/{conversation_id}/share"): {},
    ("DELETE", "/api/conversations/{conversation_id}/share"): None,
    ("DELETE", "/api/keys/{key_id}"): None,
    ("PATCH", "/api/admin/users/{user_id}"): {"role": "user"},
    ("DELETE", "/api/admin/users/{user_id}"): None,
    ("POST", "/api/admin/users/{user_id}/password"): {},
    ("GET", "/api/admin/conversations/{conversation_id}"): None,
    ("GET", "/api/admin/export/{kind}"): None,
    ("DELETE", "/api/admin/keys/{key_id}"): None,
}
# A link that its owner gave out is for everybody who has it, and for nobody who has not.
PUBLIC = {("GET", "/api/shared/{token}")}
# The same for everybody: names of models, not of persons.
OURS = {("GET", "/v1/models/{name}")}


def routes(of: Iterable[Any]) -> Iterator[APIRoute]:
    """All routes, those of included routers too."""
    for route in of:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if isinstance(route, APIRoute):
            yield route
        elif inner is not None:
            yield from routes(inner.routes)


def with_ids(service: Service) -> set[tuple[str, str]]:
    return {
        (method, route.path) for route in routes(service.app.routes) for method in route.methods if "{" in route.path
    }


@pytest.fixture
def things(product: Callable[..., Service], scripted: Callable) -> tuple[Service, dict[str, str]]:
    """A service, and the ids of what is Anna's in it: a conversation with a comparison, shared, and a key."""
    service = product(scripted("The capital of Japan is Tokyo."))
    service.set(comparisons=True, user_keys=True)
    anna = service.browser("anna")
    return service, anna.belongings()


@on_sqlite
def test_every_route_with_an_id_is_covered_here(service: Service):
    found = with_ids(service)
    assert {route for route in found if route[1].startswith("/api/")} == set(BODIES) | PUBLIC
    assert len(found) >= 20


def test_every_route_with_an_id_gives_another_persons_request_404(things: tuple[Service, dict[str, str]]):
    service, ids = things
    anna, ben = service.browser().log_in("anna"), service.browser("ben")
    before = anna.ok("GET", "/account/export")
    for (method, path), body in BODIES.items():
        refused = ben.refused(method, path.format(**ids).removeprefix("/api"), body)
        assert refused == (404, "not_found"), (method, path)
    after = anna.ok("GET", "/account/export")
    for exported in (before, after):
        del exported["sessions"], exported["account"]["last_seen_at"]
    assert after == before


def test_every_route_with_an_id_refuses_who_is_not_signed_in(things: tuple[Service, dict[str, str]]):
    service, ids = things
    stranger = service.browser()
    for (method, path), body in BODIES.items():
        refused = stranger.refused(method, path.format(**ids).removeprefix("/api"), body)
        assert refused == (401, "not_signed_in"), (method, path)


def test_another_persons_message_in_ones_own_conversation_is_404(things: tuple[Service, dict[str, str]]):
    service, ids = things
    ben = service.browser("ben")
    mixed = {**ids, "conversation_id": ben.conversation()}
    for (method, path), body in BODIES.items():
        if "{message_id}" in path or "{comparison_id}" in path:
            refused = ben.refused(method, path.format(**mixed).removeprefix("/api"), body)
            assert refused == (404, "not_found"), (method, path)


def test_every_route_with_an_id_gives_404_for_what_is_not_there(things: tuple[Service, dict[str, str]]):
    service, ids = things
    admin = service.admin()
    for strange in ("0" * 24, "%00", "a'; DROP TABLE users;--", "..%2f..", "\u202e", "x" * 300):
        for (method, path), body in BODIES.items():
            if "{kind}" in path:
                continue
            url = path.format(**dict.fromkeys(ids, strange)).removeprefix("/api")
            status, _ = admin.refused(method, url, body)
            assert status in (400, 404, 405), (method, path, strange, status)
    assert service.browser().log_in("anna").read(ids["conversation_id"])["title"]


@on_sqlite
def test_every_changing_route_refuses_forged_requests(things: tuple[Service, dict[str, str]]):
    service, ids = things
    anna = service.browser().log_in("anna")
    checked = 0
    for route in routes(service.app.routes):
        for method in route.methods & {"POST", "PUT", "PATCH", "DELETE"}:
            if not route.path.startswith("/api/"):
                continue
            url = route.path.format(**ids)
            body = {"content": b"{}", "headers": JSON} if method != "DELETE" else {}
            response = anna.http.request(method, url, **body)
            assert response.status_code == 403, (method, url, response.text)
            assert response.json()["error"]["code"] == "csrf_failed"
            headers = {**body.get("headers", {}), "Origin": "https://evil.example"}
            headers["X-CSRF-Token"] = anna.session["csrf_token"]
            response = anna.http.request(method, url, content=body.get("content"), headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_refused"), (method, url)
            checked += 1
    assert checked > 20
    assert anna.read(ids["conversation_id"])["title"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/c/0123", 200),
        ("/share/abc", 200),
        ("/admin/users", 200),
        ("/assets/none.js", 404),
        ("/nothing", 404),
        ("/api/session", 200),
        ("/api/conversations", 401),
        ("/api/nothing", 404),
        ("/api/shared/abc", 404),
        ("/v1/models", 200),
        ("/../pyproject.toml", 404),
        ("/..%2f..%2fpyproject.toml", 404),
    ],
)
@on_sqlite
def test_every_response_has_the_headers_that_bind_browsers(path: str, status: int, service: Service):
    response = httpx.get(f"{service.address}{path}")
    assert response.status_code == status
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-frame-options"] == "DENY"
    assert not any(name.startswith("access-control") for name in response.headers)
    if path.startswith("/api"):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-type"] == "application/json"
        assert (status == 200) == ("error" not in response.json())


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
@on_sqlite
def test_a_method_that_is_not_there_is_refused_with_the_headers_too(method: str, service: Service):
    response = httpx.request(method, f"{service.address}/api/session")
    assert response.status_code in (404, 405)
    assert "content-security-policy" in response.headers
    assert not any(name.startswith("access-control") for name in response.headers)


def test_what_people_write_comes_back_as_data_and_never_as_a_page(service: Service):
    """What the page must show as text arrives as JSON that no browser takes for HTML."""
    anna = service.browser("anna")
    evil = "<img src=x onerror=alert(1)></script><svg onload=alert(1)>{{7*7}}\u2028."
    id = anna.conversation(title=evil)
    answer = anna.ask(id, evil)
    path = f"/conversations/{id}/messages/{answer['id']}/feedback"
    anna.ok("PUT", path, {"vote": "up", "text": evil})
    for url in ("/conversations", f"/conversations/{id}", "/account/export"):
        response = anna.call("GET", url)
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert evil in json.dumps(response.json(), ensure_ascii=False)
    for url in (f"/api/conversations/{evil}", f"/c/{evil}", f"/{evil}"):
        assert "onerror" not in anna.http.get(url).text


@on_sqlite
def test_a_body_that_does_not_arrive_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(f"POST /api/login HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert raw.recv(12) == b"HTTP/1.1 408"


@on_sqlite
def test_bodies_are_bounded(service: Service):
    anna = service.browser("anna")
    headers = {**JSON, "X-CSRF-Token": anna.session["csrf_token"]}
    response = anna.http.post("/api/conversations", content=b" " * (LARGEST_BODY + 1), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert "content-security-policy" in response.headers

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    try:
        response = anna.http.post("/api/conversations", content=endless(), headers=headers)
        assert response.status_code == 413
    except httpx.TransportError:
        pass  # the server has hung up on it, which is as good
    assert anna.ok("GET", "/conversations")["items"] == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_value"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_value"),
        (b"null", "invalid_value"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"title": "\\ud800"}', "invalid_value"),
        (b'{"title": "a\\u0000b"}', "invalid_value"),
        (b'{"title": 5}', "invalid_value"),
        (b'{"title": "x", "title2": "y"}', "invalid_value"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"settings": {"temperature": NaN}}', "invalid_value"),
        (b'{"settings": {"max_tokens": 1e400}}', "invalid_value"),
    ],
)
@on_sqlite
def test_a_body_that_makes_no_sense_is_refused(content: bytes, code: str, service: Service):
    anna = service.browser("anna")
    headers = {**JSON, "X-CSRF-Token": anna.session["csrf_token"]}
    response = anna.http.post("/api/conversations", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


def test_random_bytes_and_random_requests_leave_the_server_up(things: tuple[Service, dict[str, str]]):
    service, ids = things
    anna = service.browser().log_in("anna")
    host, port = service.address.removeprefix("http://").split(":")
    draw = random.Random(0)
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(draw.randbytes(draw.randrange(1, 2000)))
            raw.shutdown(socket.SHUT_WR)
    strange = [None, 0, -1, 1e308, "", "\u202e", [], {}, [[]], True, "x" * 70_000, {"a": None}, 2**70]
    every = [route for route in routes(service.app.routes) if route.path.startswith("/api/")]
    for _ in range(100):
        route = draw.choice(every)
        method = draw.choice(sorted(route.methods))
        names = ["content", "parent_id", "settings", "title", "consent", "vote", "tags", "choice", "password", "name"]
        body = {draw.choice(names): draw.choice(strange) for _ in range(draw.randrange(4))}
        if method == "DELETE" or "delete" in route.path or "logout" in route.path:
            continue
        query = {
            name: draw.choice(["", "-1", "9" * 40, "nan", "\0", "é"]) for name in ("page", "limit", "after", "since")
        }
        params = query if draw.random() < 0.3 else {}
        content = None if method == "GET" else draw.choice([json.dumps(body).encode(), draw.randbytes(50)])
        headers = {**JSON, "X-CSRF-Token": anna.session["csrf_token"]} if content is not None else {}
        response = anna.http.request(method, route.path.format(**ids), content=content, headers=headers, params=params)
        assert response.status_code < 500, (method, route.path, content, params, response.text)
    assert anna.refresh()["config"]["version"]
