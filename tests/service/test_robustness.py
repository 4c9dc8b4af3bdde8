"""A hostile network: requests made from the API's own description, random bytes, readers that stall or vanish."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from chatwright.service.models import LoadedModel

Serving = Callable[..., str]
ModelOf = Callable[..., LoadedModel]
QUESTION = [{"role": "user", "content": "Tokyo?"}]
LONG = {"model": "tiny", "messages": QUESTION, "stream": True, "logit_bias": {}, "seed": 1}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_the_description_names_every_route_of_the_api(tiny: LoadedModel, serving: Serving):
    paths = httpx.get(f"{serving(tiny)}/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/moderations",
    }
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "messages"]
    assert "$ref" not in json.dumps(paths["/v1/chat/completions"]["post"]["requestBody"])


ALLOWED, FORBIDDEN = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
GENERATED = [("/v1/models/{name}", ALLOWED)]  # no text is forbidden there
GENERATED += [
    (f"/v1/{end}", mode) for end in ("chat/completions", "completions", "moderations") for mode in (ALLOWED, FORBIDDEN)
]


@pytest.mark.parametrize(("path", "mode"), GENERATED)
def test_whatever_the_description_allows_or_forbids_is_answered_without_a_failure(
    path: str, mode: schemathesis.GenerationMode, tiny: LoadedModel, serving: Serving
):
    torch.set_flush_denormal(False)  # hypothesis wants the smallest numbers, which our kernels round to 0
    url = serving(tiny)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    [operation] = [result.ok() for result in schema.get_all_operations() if result.ok().path == path]
    quick = settings(
        max_examples=25,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    statuses = set()

    def ask(case: schemathesis.Case) -> None:
        response = case.call(timeout=60)
        statuses.add(response.status_code)
        assert response.status_code < 500
        if response.status_code >= 400:
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}

    quick(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    assert statuses
    assert httpx.get(f"{url}/health").status_code == 200


def test_random_bytes_leave_the_server_up(tiny: LoadedModel, serving: Serving):
    url = serving(tiny)
    draw = random.Random(0)
    address = (urlsplit(url).hostname, urlsplit(url).port)
    good = json.dumps({"model": "tiny", "messages": QUESTION, "max_tokens": 2}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(good) + good
    for turn in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if turn % 3 == 0:
            data = bytearray(draw.randbytes(draw.randint(1, 600)))
        if turn % 3 == 1:
            data = data[: draw.randrange(len(data))]
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(bytes(data))
            client.shutdown(socket.SHUT_WR)
    assert httpx.post(
        f"{url}/v1/chat/completions", content=good, headers={"Content-Type": "application/json"}
    ).is_success
    wait_until(lambda: httpx.get(f"{url}/health").json()["requests"] == 0)


@pytest.mark.parametrize("name", ["../tiny", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "runs/atlas", "%2e", "tiny/"])
def test_a_model_is_a_name_and_never_a_path(name: str, tiny: LoadedModel, serving: Serving):
    url = serving(tiny)
    assert httpx.get(f"{url}/v1/models/{name}").status_code in (404, 307)
    response = httpx.post(f"{url}/v1/chat/completions", json={"model": name, "messages": QUESTION})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_a_client_that_vanishes_frees_its_place_in_the_engine(tiny: LoadedModel, serving: Serving):
    address = urlsplit(serving(tiny))
    slow = {**LONG, "model": "tiny", "n": 8}
    body = json.dumps(slow).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for _ in range(3):
        client = socket.create_connection((address.hostname, address.port))
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        client.recv(200)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone without a word
        client.close()
    load = tiny.engine.load
    wait_until(lambda: tiny.engine.load.running == tiny.engine.load.waiting == 0)
    assert tiny.engine.load.free == load.blocks


def test_a_reader_that_never_reads_holds_no_place_in_the_engine(
    tiny: LoadedModel, serving: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chatwright.service.streams.READING_SECONDS", 0.5)
    url = serving(tiny)
    address = urlsplit(url)
    body = json.dumps({**LONG, "n": 8, "logprobs": True, "top_logprobs": 20}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.hostname, address.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    try:
        ask = {"model": "tiny", "messages": QUESTION, "max_tokens": 4}
        assert httpx.post(f"{url}/v1/chat/completions", json=ask, timeout=60).is_success
        wait_until(lambda: httpx.get(f"{url}/health").json()["requests"] == 0)
        assert tiny.engine.load.running == 0
    finally:
        client.close()


def test_a_body_that_never_comes_is_given_up(tiny: LoadedModel, serving: Serving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chatwright.service.streams.READING_SECONDS", 0.2)
    address = urlsplit(serving(tiny))
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        head = b"POST /v1/moderations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in client.recv(100)


def test_more_than_the_caps_is_refused_with_its_status(scripted: ModelOf, serving: Serving):
    url = serving(scripted("x"))

    def status(path: str, body: object) -> int:
        return httpx.post(f"{url}/v1/{path}", json=body).status_code

    ask = {"model": "atlas", "messages": QUESTION}
    assert status("chat/completions", {**ask, "n": 9}) == 400
    assert status("chat/completions", {**ask, "stop": ["x"] * 5}) == 400
    assert status("chat/completions", {**ask, "stop": "x" * 300}) == 400
    assert status("chat/completions", {**ask, "messages": QUESTION * 2049}) == 400
    assert status("chat/completions", {**ask, "messages": [{"role": "user", "content": "x" * (1 << 20)}]}) == 413
    assert status("moderations", {"input": ["x"] * 65}) == 400
    assert status("moderations", {"input": ["x" * 70_000] * 2}) == 413
