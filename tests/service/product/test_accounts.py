"""Accounts and sessions: what a person may do, and what nobody else may."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa

from chatwright.errors import UserError
from chatwright.service.accounts import clean_name
from chatwright.service.app import serve
from chatwright.service.attempts import Attempts
from chatwright.service.database import Database
from chatwright.service.passwords import AT_ONCE, WAITING, Passwords, check_new
from chatwright.service.product import Neighbours
from chatwright.service.refusal import Refusal
from chatwright.service.sessions import ABSOLUTE_SECONDS, IDLE_SECONDS, SEEN_EVERY, Sessions, hashed
from chatwright.service.tables import ConversationRow, FeedbackRow, MessageRow, SessionRow, User
from tests.service.product.browser import CHEAP, PASSWORD, Browser, Service, on_sqlite

ANNA = {"name": "anna", "password": PASSWORD}


def test_a_person_signs_up_logs_in_and_out(service: Service):
    browser = service.browser()
    assert browser.session["user"] is None
    assert browser.ok("POST", "/signup", ANNA) == {"status": "accepted"}
    assert browser.refresh()["user"] is None
    user = browser.log_in("Anna").session["user"]
    assert (user["name"], user["role"], user["consent"]) == ("anna", "user", False)
    assert browser.refresh()["user"] == user
    assert browser.ok("POST", "/logout")["user"] is None
    assert browser.refresh()["user"] is None


def test_sign_up_and_log_in_do_not_tell_who_exists(service: Service):
    service.browser("anna")
    stranger = service.browser()
    other = {"name": "anna", "password": "another password"}
    taken, free = (stranger.call("POST", "/signup", {**other, "name": name}) for name in ("ANNA", "nobody-yet"))
    assert (taken.status_code, taken.json()) == (free.status_code, free.json()) == (202, {"status": "accepted"})
    wrong, unknown = (stranger.call("POST", "/login", {**other, "name": name}) for name in ("anna", "who"))
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert wrong.status_code == 401
    assert stranger.log_in("anna").session["user"]["name"] == "anna"  # with the first password still


def test_a_sign_up_takes_the_same_work_and_answers_the_same_whether_the_name_is_free(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    service.browser("anna")
    stranger = service.browser()
    work: list[str] = []
    passwords = service.parts.passwords
    hash = passwords.hash
    monkeypatch.setattr(passwords, "hash", lambda password: work.append("hash") or hash(password))
    monkeypatch.setattr(service.parts.database, "watch", lambda kind, waited, took: work.append(kind))

    def sign_up(name: str) -> tuple[list[str], int, bytes, list[tuple[str, str]]]:
        work.clear()
        response = stranger.call("POST", "/signup", {"name": name, "password": "another password"})
        headers = [(key, value) for key, value in response.headers.items() if key != "date"]
        return list(work), response.status_code, response.content, headers

    free, taken = sign_up("nobody-yet"), sign_up("Anna")
    assert free == taken
    assert free[0].count("hash") == free[0].count("write") == 1
    [refused] = service.admin().ok("GET", "/admin/audit", params={"action": "signup_refused"})["items"]
    assert refused["target"] == service.browser().log_in("anna").session["user"]["id"]
    assert "Anna" not in json.dumps(refused)


def test_an_unknown_name_costs_a_hash_too():
    hashes = []

    class Counting(Passwords):
        async def _work(self, task: Callable) -> object:
            hashes.append(task)
            return await super()._work(task)

    passwords = Counting(CHEAP)
    assert asyncio.run(passwords.matches(PASSWORD, None)) is False
    assert asyncio.run(passwords.matches(PASSWORD, passwords.hash_now(PASSWORD))) is True
    assert asyncio.run(passwords.matches(PASSWORD, "no hash")) is False
    assert len(hashes) == 3


def test_hashing_is_bounded():
    gate = threading.Event()

    async def main() -> list[object]:
        passwords = Passwords(CHEAP)
        passwords._hasher = type("Slow", (), {"hash": lambda self, password: gate.wait(10) and password})()
        works = [asyncio.create_task(passwords.hash(f"password {i}")) for i in range(AT_ONCE + WAITING)]
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal) as refused:
            await passwords.hash("one more")
        gate.set()
        assert (refused.value.status, refused.value.retry_after) == (503, 2)
        return await asyncio.gather(*works)

    assert len(asyncio.run(main())) == AT_ONCE + WAITING


@pytest.mark.parametrize(
    ("name", "password", "param"),
    [
        ("an", PASSWORD, "name"),
        ("anna b", PASSWORD, "name"),
        ("<b>anna</b>", PASSWORD, "name"),
        ("anna\0", PASSWORD, "name"),
        ("anna", "short", "password"),
        ("annabella", "annabella", "password"),
        ("anna", "password1", "password"),
        ("anna", "aaaaaaaaaa", "password"),
        ("anna", "p" * 129, "password"),
    ],
)
@on_sqlite
def test_a_bad_name_or_password_is_refused(name: str, password: str, param: str, service: Service):
    response = service.browser().call("POST", "/signup", {"name": name, "password": password})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_names_that_look_the_same_are_the_same(service: Service):
    service.browser("Zoë")
    assert service.browser().log_in("ZOE\u0308").session["user"]["name"] == "Zoë"
    assert clean_name("Ａnna") == "Anna"
    with pytest.raises(Refusal):
        clean_name("a\u202enna")


def test_the_same_password_typed_on_another_system_is_right():
    composed, decomposed = "pässword fünf", "pa\u0308ssword fu\u0308nf"
    passwords = Passwords(CHEAP)
    assert asyncio.run(passwords.matches(decomposed, passwords.hash_now(composed)))
    check_new(composed, "anna")


# ---- sessions ----


def token_of(browser: Browser) -> str:
    return browser.http.cookies["chatwright_session"]


@on_sqlite
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(service: Service):
    response = httpx.get(f"{service.address}/api/session")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie
    assert response.headers["cache-control"] == "no-store"


@on_sqlite
def test_behind_https_the_cookie_is_for_this_host_alone(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("Hi."), public="https://chat.example.org")
    cookie = httpx.get(f"{service.address}/api/session").headers["set-cookie"]
    assert cookie.startswith("__Host-chatwright_session=")
    assert "Secure" in cookie


@pytest.mark.parametrize("public", ["chat.example.org", "ftp://chat.example.org", "https://", "https://a.example/chat"])
def test_what_is_no_address_of_a_site_is_refused(public: str):
    with pytest.raises(UserError, match=r"write it as in https://chat\.example\.org"):
        serve({}, port=0, database="sqlite://", neighbours=Neighbours(public=public))


def test_only_the_hash_of_a_token_is_kept(service: Service):
    anna = service.browser("anna")
    with service.parts.database.read() as session:
        [kept] = session.scalars(sa.select(SessionRow.hash)).all()
    assert kept == hashed(token_of(anna)) != token_of(anna)


def test_logging_in_gives_a_new_token_and_ends_the_old(service: Service):
    """Session fixation: who planted the token from before opens nothing with it."""
    browser = service.browser()
    planted = token_of(browser)
    browser.sign_up("anna")
    assert token_of(browser) != planted
    again = token_of(browser)
    browser.log_in("anna")
    assert token_of(browser) != again
    for old in (planted, again):
        session = httpx.get(f"{service.address}/api/session", cookies={"chatwright_session": old}).json()
        assert session["user"] is None


def test_sessions_end_when_idle_and_when_old(database: Database):
    with database.write() as session:
        session.add(User(id="u", name="anna", name_key="anna", role="user", consent=False))
    now = 1e9
    sessions = Sessions(database, lambda: now)
    idle, busy = sessions.open("u"), sessions.open("u")
    while now < 1e9 + IDLE_SECONDS:
        now += IDLE_SECONDS / 2
        assert sessions.find(busy) is not None
    now += SEEN_EVERY
    assert sessions.find(idle) is None
    while now < 1e9 + ABSOLUTE_SECONDS:
        assert sessions.find(busy) is not None
        now += IDLE_SECONDS / 2
    assert sessions.find(busy) is None
    assert sessions.find("made up") is None
    sessions.forget_old()
    with database.read() as session:
        assert session.scalars(sa.select(SessionRow)).all() == []


def test_a_new_password_ends_every_other_session(service: Service):
    here, there = service.browser("anna"), service.browser().log_in("anna")
    old = token_of(here)
    wrong = {"current": "wrong password", "new": "another long one"}
    assert here.refused("POST", "/account/password", wrong) == (403, "wrong_password")
    assert there.refresh()["user"] is not None
    here._took(here.call("POST", "/account/password", {"current": PASSWORD, "new": "another long one"}))
    assert here.session["user"]["name"] == "anna"
    assert token_of(here) != old
    assert there.refresh()["user"] is None
    assert service.browser().refused("POST", "/login", ANNA) == (401, "wrong_credentials")
    service.browser().log_in("anna", "another long one")


def test_who_lost_the_session_to_another_process_cannot_ask(service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "Hello")
    elsewhere = Database(service.parts.database.url.render_as_string(hide_password=False))
    with elsewhere.write() as session:
        session.execute(sa.update(User).where(User.name == "anna").values(disabled=True))
    path = f"/conversations/{id}/messages"
    for end in ("", f"/{answer['id']}/regenerate", f"/{answer['id']}/continue"):
        body = {} if end else {"content": "And?", "parent_id": answer["id"]}
        assert anna.refused("POST", path + end, body) == (401, "not_signed_in")
    with elsewhere.write() as session:
        session.execute(sa.update(User).values(disabled=False))
    assert anna.ask(id, "And?", answer["id"])["status"] == "done"
    with elsewhere.write() as session:
        session.execute(sa.delete(SessionRow))
    assert anna.refused("POST", path, {"content": "And now?", "parent_id": None}) == (401, "not_signed_in")
    elsewhere.close()


def test_a_question_is_a_visit(service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    database = service.parts.database
    with database.write() as session:
        session.execute(sa.update(SessionRow).values(last_seen_at=SessionRow.last_seen_at - 2 * SEEN_EVERY))
    before = time.time()
    anna.send(id, "Hello")
    with database.read() as session:
        assert session.scalars(sa.select(SessionRow.last_seen_at)).one() >= before - 1
        assert session.scalars(sa.select(User.last_seen_at)).one() >= before - 1


def test_logging_out_everywhere(service: Service):
    here, there = service.browser("anna"), service.browser().log_in("anna")
    here.ok("POST", "/logout", {"everywhere": True})
    assert there.refresh()["user"] is None


# ---- forged requests ----


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1"])
@on_sqlite
def test_a_request_from_another_sites_page_is_refused(origin: str | None, service: Service):
    anna = service.browser("anna")
    del anna.http.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin}
    assert anna.refused("POST", "/conversations", {}, headers=headers) == (403, "origin_refused")
    assert anna.ok("GET", "/conversations")["items"] == []


@on_sqlite
def test_a_request_without_the_pages_token_is_refused(service: Service):
    anna, mallory = service.browser("anna"), service.browser()
    for token in ("", "x" * 64, "ü", mallory.session["csrf_token"]):
        response = anna.http.post("/api/conversations", json={}, headers={"X-CSRF-Token": token.encode()})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "csrf_failed")
    assert anna.http.post("/api/conversations", json={}).status_code == 403
    anna.http.cookies.clear()
    assert anna.refused("POST", "/login", ANNA) == (403, "csrf_failed")


@on_sqlite
def test_a_form_cannot_speak_to_the_api(service: Service):
    anna = service.browser("anna")
    headers = {"X-CSRF-Token": anna.session["csrf_token"]}
    response = anna.http.post("/api/conversations", data={"title": "x"}, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (415, "not_json")


# ---- guessing ----


@on_sqlite
def test_guessing_an_account_is_slowed_whether_it_exists_or_not(service: Service):
    service.browser("anna")
    service.parts.brakes.login_account = Attempts(3, 60)
    stranger = service.browser()
    for name in ("anna", "nobody"):
        body = {"name": name, "password": "wrong password"}
        answers = [stranger.refused("POST", "/login", body) for _ in range(4)]
        assert answers == [(401, "wrong_credentials")] * 3 + [(429, "too_many_attempts")]
    response = stranger.call("POST", "/login", ANNA)
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 60
    assert response.json()["error"]["retry_after"] == int(response.headers["retry-after"])


@on_sqlite
def test_guessing_many_accounts_from_one_place_is_slowed(service: Service):
    service.parts.brakes.login_source = Attempts(3, 60)
    stranger = service.browser()
    codes = [stranger.refused("POST", "/login", {"name": f"name{i}", "password": "x"})[0] for i in range(4)]
    assert codes == [401, 401, 401, 429]


@on_sqlite
def test_signing_up_from_one_place_is_slowed(service: Service):
    service.set(rates={"signup_source": "2/hour"})
    stranger = service.browser()
    codes = [stranger.call("POST", "/signup", {"name": f"name{i}", "password": PASSWORD}).status_code for i in range(3)]
    assert codes == [202, 202, 429]


def test_attempts_are_forgotten_in_time():
    now = 0.0
    attempts = Attempts(2, 10, lambda: now)
    attempts.count("a")
    now = 5.0
    attempts.count("a")
    with pytest.raises(Refusal) as refused:
        attempts.check("a")
    assert refused.value.retry_after == 5
    attempts.check("b")
    now = 10.0
    attempts.check("a")
    attempts.count("a")
    attempts.forget("a")
    attempts.check("a")


# ---- guests ----


def test_guests_come_in_only_where_the_operator_lets_them(service: Service):
    browser = service.browser()
    assert browser.refused("POST", "/guest") == (403, "guests_closed")
    service.set(guests=True, consent_default=True)
    user = browser._took(browser.call("POST", "/guest"))["user"]
    assert (user["role"], user["consent"]) == ("guest", False)
    assert browser.ask(browser.conversation(), "Hello")["status"] == "done"


def test_a_guest_who_signs_up_keeps_the_conversations(service: Service):
    service.set(guests=True)
    guest = service.browser()
    guest._took(guest.call("POST", "/guest"))
    id, before = guest.conversation(title="Mine"), token_of(guest)
    guest.sign_up("anna")
    assert guest.session["user"]["role"] == "user"
    assert [item["id"] for item in guest.ok("GET", "/conversations")["items"]] == [id]
    assert token_of(guest) != before


def test_a_guest_who_wants_a_taken_name_stays_a_guest(service: Service):
    service.browser("anna")
    service.set(guests=True)
    guest = service.browser()
    guest._took(guest.call("POST", "/guest"))
    guest.ok("POST", "/signup", {"name": "anna", "password": "another password"})
    assert guest.refused("POST", "/login", {"name": "anna", "password": "another password"}) == (
        401,
        "wrong_credentials",
    )
    assert guest.refresh()["user"]["role"] == "guest"


def test_guests_who_are_gone_are_forgotten(service: Service):
    parts = service.parts
    guest, anna = parts.accounts.create_guest(), parts.accounts.create("anna", "hash")
    with parts.database.write() as session:
        session.execute(sa.update(User).values(created_at=time.time() - 40 * 86400, last_seen_at=None))
    parts.accounts.forget_guests(30)
    with parts.database.read() as session:
        assert session.get(User, guest) is None
        assert session.get(User, anna) is not None


def test_sign_up_can_be_closed(service: Service):
    service.set(signup=False)
    browser = service.browser()
    assert browser.session["config"]["signup"] is False
    assert browser.refused("POST", "/signup", ANNA) == (403, "signup_closed")


# ---- one's own data ----


def test_settings_change_key_by_key(service: Service):
    anna = service.browser("anna")
    anna.ok("PATCH", "/account", {"settings": {"temperature": 1, "instructions": "Be brief.", "language": "zh"}})
    user = anna.ok("PATCH", "/account", {"settings": {"temperature": None, "max_tokens": 5}, "consent": True})["user"]
    assert user["consent"] is True
    expected = {"instructions": "Be brief.", "language": "zh", "max_tokens": 5}
    assert {key: value for key, value in user["settings"].items() if value is not None} == expected
    for wrong in ({"temperature": 3}, {"max_tokens": 0}, {"language": "xx"}, {"unknown": 1}, {"temperature": "1"}):
        assert anna.refused("PATCH", "/account", {"settings": wrong}) == (400, "invalid_value")


def test_the_export_has_all_that_is_kept_and_nothing_of_others(service: Service):
    anna, ben = service.browser("anna"), service.browser("ben")
    ben.ask(ben.conversation(), "The secret of Ben")
    id = anna.conversation()
    answer = anna.ask(id, "What is the capital of Japan?")
    path = f"/conversations/{id}/messages/{answer['id']}/feedback"
    anna.ok("PUT", path, {"vote": "up", "tags": ["clear"], "text": "Well said"})
    response = anna.call("GET", "/account/export")
    assert response.headers["content-disposition"] == 'attachment; filename="chatwright.json"'
    exported = response.json()
    assert exported["account"]["name"] == "anna"
    [conversation] = exported["conversations"]
    assert [message["content"] for message in conversation["messages"]] == [
        "What is the capital of Japan?",
        "The capital of Japan is Tokyo.",
    ]
    assert conversation["messages"][1]["feedback"]["text"] == "Well said"
    assert [line["action"] for line in exported["log"]] == []
    assert "Ben" not in response.text
    assert PASSWORD not in response.text
    assert "argon2" not in response.text


def test_deleting_an_account_deletes_all_data(service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "What is the capital of Japan?")
    anna.ok("PUT", f"/conversations/{id}/messages/{answer['id']}/feedback", {"vote": "down", "tags": ["wrong"]})
    token = anna.ok("POST", f"/conversations/{id}/share", {})["token"]
    assert anna.refused("POST", "/account/delete", {"password": "wrong password"}) == (403, "wrong_password")
    assert anna.ok("POST", "/account/delete", {"password": PASSWORD})["user"] is None
    assert anna.refresh()["user"] is None
    assert anna.call("GET", f"/shared/{token}").status_code == 404
    with service.parts.database.read() as session:
        for table in (User, SessionRow, ConversationRow, MessageRow, FeedbackRow):
            assert session.scalars(sa.select(table)).all() == []
    anna.sign_up("anna")  # the name is free again


def test_an_account_can_be_deleted_while_its_answer_is_made(product: Callable[..., Service], scripted: Callable):
    model = scripted("word " * 200, delay=0.05)
    anna = product(model).browser("anna")
    anna.send(anna.conversation(), "Hello")
    anna.ok("POST", "/account/delete", {"password": PASSWORD})
    assert model.engine.finished.wait(10)
    assert model.engine.generated < 200
