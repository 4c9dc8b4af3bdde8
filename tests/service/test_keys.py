"""Who may ask the API: keys, scopes, revocation, and programs on this machine without a key."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import openai
import pytest
from openai import OpenAI
from starlette.requests import Request

from chatwright.service import settings
from chatwright.service.keys import ApiKey, digest_of, new_key, on_this_machine, source_of
from chatwright.service.models import LoadedModel

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
ModelOf = Callable[..., LoadedModel]
Serving = Callable[..., str]


class Keys:
    """A key store in memory."""

    def __init__(self) -> None:
        self.by_digest: dict[str, ApiKey] = {}
        self.uses: list[str] = []

    def add(self, account: str, *scopes: str) -> str:
        made = new_key()
        self.by_digest[made.digest] = ApiKey(made.shown, account, frozenset(scopes))
        return made.secret

    def find(self, digest: str) -> ApiKey | None:
        return self.by_digest.get(digest)

    def used(self, key_id: str, at: float) -> None:
        self.uses.append(key_id)


def client(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def test_a_key_is_long_random_and_kept_as_its_hash():
    one, other = new_key(), new_key()
    assert one.secret != other.secret
    assert one.secret.startswith(one.shown)
    assert len(one.secret) > 40
    assert one.digest == digest_of(one.secret)
    assert one.secret not in repr(one.digest)


def test_without_keys_programs_here_may_ask_as_ever(scripted: ModelOf, serving: Serving):
    url = serving(scripted("Tokyo."))
    assert client(url, "none").chat.completions.create(model="atlas", messages=QUESTION).choices
    assert httpx.get(f"{url}/v1/models").status_code == 200


def test_a_required_key_is_asked_for_by_every_route(scripted: ModelOf, serving: Serving):
    keys = Keys()
    url = serving(scripted("Tokyo."), keys=keys, keyless=False)
    asked = [
        httpx.get(f"{url}/v1/models"),
        httpx.get(f"{url}/v1/models/atlas"),
        httpx.get(f"{url}/metrics"),
        *(httpx.post(f"{url}/v1/{path}", json={}) for path in ("chat/completions", "completions", "moderations")),
    ]
    for response in asked:
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{url}/health").status_code == 200
    assert client(url, keys.add("ada", "chat")).chat.completions.create(model="atlas", messages=QUESTION).choices


def test_a_key_does_what_its_scopes_say_until_it_is_revoked(scripted: ModelOf, serving: Serving):
    keys = Keys()
    secret = keys.add("ada", "models")
    url = serving(scripted("Tokyo."), keys=keys)
    asked = client(url, secret)
    assert [card.id for card in asked.models.list().data] == ["atlas"]
    assert [card.id for card in asked.models.list().data] == ["atlas"]
    assert len(keys.uses) == 1  # noted, but not at every request
    with pytest.raises(openai.PermissionDeniedError, match="may not be used for chat"):
        asked.chat.completions.create(model="atlas", messages=QUESTION)
    with pytest.raises(openai.PermissionDeniedError):
        asked.moderations.create(input="x")
    keys.by_digest.clear()
    with pytest.raises(openai.AuthenticationError, match="no longer"):  # also where none would be needed
        asked.models.list()


def test_requests_and_tokens_of_an_account_are_limited(
    scripted: ModelOf, serving: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(settings, "RATES", {"key_requests": "2/hour", "key_tokens": "5/hour"})  # the operator's own
    keys = Keys()
    ada, bob, eve = (keys.add(name, "chat", "models") for name in ("ada", "bob", "eve"))
    url = serving(scripted("Tokyo."), keys=keys)
    for _ in range(2):
        client(url, ada).models.list()
    with pytest.raises(openai.RateLimitError) as refused:
        client(url, ada).models.list()
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.response.json()["error"]["type"] == "rate_limit_error"
    client(url, bob).models.list()  # another's account has its own
    client(url, eve).chat.completions.create(model="atlas", messages=QUESTION)  # more tokens than it has
    with pytest.raises(openai.RateLimitError):
        client(url, eve).chat.completions.create(model="atlas", messages=QUESTION)


def request_from(host: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "client": (host, 1), "headers": raw})


def test_a_proxy_on_this_machine_is_not_this_machine():
    assert on_this_machine(request_from("127.0.0.1"))
    assert on_this_machine(request_from("::1"))
    assert on_this_machine(request_from("::ffff:127.0.0.1"))
    assert not on_this_machine(request_from("127.0.0.1", x_forwarded_for="203.0.113.9"))
    assert not on_this_machine(request_from("192.168.1.4"))
    assert not on_this_machine(request_from("testclient"))


def test_a_source_of_ipv6_is_its_network():
    assert source_of(request_from("2001:db8:1:2:3:4:5:6")) == "2001:db8:1:2::/64"
    assert source_of(request_from("192.0.2.7")) == "192.0.2.7"
    assert source_of(request_from("testclient")) == "testclient"
