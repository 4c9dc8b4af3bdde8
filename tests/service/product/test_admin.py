"""What an operator sees and does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatwright.errors import UserError
from tests.service.product.browser import PASSWORD, Service, on_sqlite
from tests.service.product.parts import Full


def test_people_are_listed_with_what_they_did(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    service.browser("ben")
    answer = anna.ask(anna.conversation(), "Hello")
    anna.ok("PUT", f"/conversations/{answer['conversation_id']}/messages/{answer['id']}/feedback", {"vote": "up"})
    page = admin.ok("GET", "/admin/users", params={"limit": 2})
    assert (page["total"], page["page"], page["limit"], len(page["items"])) == (3, 1, 2, 2)
    [found] = admin.ok("GET", "/admin/users", params={"search": "ANN"})["items"]
    assert (found["name"], found["role"], found["conversations"], found["messages"], found["feedback"]) == (
        "anna",
        "user",
        1,
        1,
        1,
    )
    assert [user["name"] for user in admin.ok("GET", "/admin/users", params={"role": "admin"})["items"]] == ["root"]
    assert "password" not in str(page)


def test_a_disabled_account_is_out_at_once_and_comes_back(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    path = f"/admin/users/{anna.session['user']['id']}"
    _, secret = service.parts.keys.create(anna.session["user"]["id"], "k", ["chat"])
    assert admin.ok("PATCH", path, {"disabled": True})["disabled"] is True
    assert anna.refresh()["user"] is None
    credentials = {"name": "anna", "password": PASSWORD}
    assert anna.refused("POST", "/login", credentials) == (401, "wrong_credentials")
    admin.ok("PATCH", path, {"disabled": False})
    assert anna.log_in("anna").session["user"] is not None
    assert secret.startswith("cw-")


def test_roles_change_and_the_last_admin_stays(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    root, other = (f"/admin/users/{browser.session['user']['id']}" for browser in (admin, anna))
    for lost in ({"role": "user"}, {"disabled": True}):
        assert admin.refused("PATCH", root, lost) == (409, "last_admin")
    assert admin.refused("DELETE", root) == (409, "last_admin")
    assert admin.refused("POST", "/account/delete", {"password": PASSWORD}) == (409, "last_admin")
    assert anna.refused("GET", "/admin/users") == (404, "not_found")
    admin.ok("PATCH", other, {"role": "admin"})
    assert anna.ok("GET", "/admin/users")["total"] == 2
    anna.ok("PATCH", root, {"role": "user"})
    assert admin.refresh()["user"] is None  # who loses a role logs in anew
    assert admin.log_in("root").refused("GET", "/admin/users") == (404, "not_found")


def test_a_password_is_reset_and_shown_once(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    password = admin.ok("POST", f"/admin/users/{anna.session['user']['id']}/password", {})["password"]
    assert anna.refresh()["user"] is None
    anna.log_in("anna", password)
    [line] = admin.ok("GET", "/admin/audit", params={"action": "password_reset"})["items"]
    assert line["actor_name"] == "root"
    assert password not in str(line)


def test_a_person_is_deleted(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    id = anna.conversation()
    admin.ok("DELETE", f"/admin/users/{anna.session['user']['id']}")
    assert anna.refresh()["user"] is None
    assert admin.refused("GET", f"/admin/conversations/{id}") == (404, "not_found")


def test_ratings_are_filtered_and_counted(service: Service):
    admin, anna, ben = service.admin(), service.browser("anna"), service.browser("ben")
    for browser, vote, tags, text in (
        (anna, "up", ["clear"], "Well <b>said</b>"),
        (anna, "down", ["wrong", "too_long"], ""),
        (ben, "down", ["wrong"], "100% wrong"),
    ):
        answer = browser.ask(browser.conversation(consent=browser is ben), "Capital?")
        path = f"/conversations/{answer['conversation_id']}/messages/{answer['id']}/feedback"
        browser.ok("PUT", path, {"vote": vote, "tags": tags, "text": text})

    def found(**filters: object) -> list[tuple[str, str]]:
        page = admin.ok("GET", "/admin/feedback", params=filters)
        assert page["total"] == len(page["items"]) == sum(page["counts"].values())
        return [(row["user_name"], row["vote"]) for row in page["items"]]

    everything = [("ben", "down"), ("anna", "down"), ("anna", "up")]
    assert found() == found(model="atlas") == found(since=1.0) == everything
    assert found(vote="up") == found(tag="clear") == found(search="<b>") == [("anna", "up")]
    assert found(tag="wrong") == [("ben", "down"), ("anna", "down")]
    assert found(user="BEN") == found(consent=True) == found(search="100%") == [("ben", "down")]
    assert found(user=ben.session["user"]["id"]) == [("ben", "down")]
    assert found(consent=False) == everything[1:]
    assert found(model="other") == found(until=1.0) == found(vote="up", tag="wrong") == []
    row = admin.ok("GET", "/admin/feedback", params={"vote": "up"})["items"][0]
    assert (row["question"], row["answer"]) == ("Capital?", "The capital of Japan is Tokyo.")
    assert (row["tags"], row["text"], row["model_hash"]) == (["clear"], "Well <b>said</b>", "fp_test")
    page = admin.ok("GET", "/admin/feedback", params={"page": 2, "limit": 2})
    assert (page["total"], len(page["items"]), page["counts"]) == (3, 1, {"up": 1, "down": 2})


def test_looking_at_a_conversation_and_exporting_are_remembered(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    id = anna.conversation()
    anna.ask(id, "Hello")
    seen = admin.ok("GET", f"/admin/conversations/{id}")
    assert (seen["user"]["name"], len(seen["messages"])) == ("anna", 2)
    admin.call("GET", "/admin/export/feedback", params={"model": "atlas"})
    log = admin.ok("GET", "/admin/audit")["items"]
    assert [line["action"] for line in log[:2]] == ["exported", "conversation_viewed"]
    assert log[0]["details"]["model"] == "atlas"
    assert (log[1]["target"], log[1]["actor_name"], log[1]["source"]) == (id, "root", "127.0.0.1")
    assert "Hello" not in str(log)
    assert admin.ok("GET", "/admin/audit", params={"actor": "nobody"})["items"] == []


def test_failed_log_ins_are_remembered_without_what_was_typed(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    for name in ("anna", "my-secret-password"):
        service.browser().refused("POST", "/login", {"name": name, "password": "my-secret-password"})
    lines = admin.ok("GET", "/admin/audit", params={"action": "login_failed"})["items"]
    assert [line["target"] for line in lines] == ["", anna.session["user"]["id"]]
    assert "my-secret-password" not in str(lines)


def test_comparisons_are_listed(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("One."))
    service.set(comparisons=True)
    admin, anna = service.admin(), service.browser("anna")
    turn = anna.send(anna.conversation(), "Which?", compare=True)
    for answer in turn["answers"]:
        anna.end_of(answer)
    assert admin.ok("GET", "/admin/comparisons")["items"] == []
    path = f"/conversations/{turn['conversation']['id']}/comparisons/{turn['comparison']['id']}"
    anna.ok("PUT", path, {"choice": "tie", "text": "Same"})
    [row] = admin.ok("GET", "/admin/comparisons", params={"choice": "tie"})["items"]
    assert (row["choice"], row["question"], row["user_name"]) == ("tie", "Which?", "anna")
    assert [answer["content"] for answer in row["answers"]] == ["One.", "One."]
    assert admin.ok("GET", "/admin/comparisons", params={"choice": "a"})["total"] == 0


def test_the_load_is_shown(service: Service):
    admin, anna = service.admin(), service.browser("anna")
    empty = admin.ok("GET", "/admin/load")
    assert empty["ttft_seconds"] == {"p50": None, "p95": None}
    anna.ask(anna.conversation(), "Hello")
    load = admin.ok("GET", "/admin/load")
    assert load["tokens_per_second"] > 0
    assert 0 < load["ttft_seconds"]["p50"] <= load["answer_seconds"]["p95"]
    assert load["signed_in"] == 2
    assert load["database"]["kind"] in ("sqlite", "postgresql")
    assert load["database"]["size_bytes"] > 1000
    [model] = admin.ok("GET", "/admin/models")["items"]
    assert (model["id"], model["context"], model["fingerprint"]) == ("atlas", 256, "fp_test")


def test_settings_change_hold_and_outlive_the_process(product: Callable[..., Service], scripted: Callable):
    limiter = Full("none")
    service = product(scripted("Hi."), limiter=limiter)
    admin = service.admin()
    changed = admin.ok("PATCH", "/admin/settings", {"signup": False, "rates": {"key_requests": "5/minute"}})
    assert changed["signup"] is False
    assert limiter.rates["key_requests"] == "5/minute"
    assert limiter.rates["signup_source"] == "10/hour"
    assert admin.refresh()["config"]["signup"] is False
    for wrong in ({"signup": "no"}, {"comparison_share": 2}, {"unknown": 1}, {"rates": {"x": "1/day"}}, {"rates": 5}):
        assert admin.refused("PATCH", "/admin/settings", wrong) == (400, "invalid_value")
    again = product(scripted("Hi."))
    assert again.parts.settings.current.signup is False
    assert again.parts.settings.current.rates["key_requests"] == "5/minute"


def test_a_rate_that_the_limiter_cannot_read_changes_nothing(product: Callable[..., Service], scripted: Callable):
    class Strict(Full):
        def configure(self, rates) -> None:
            if "sometimes" in rates.values():
                raise UserError("'sometimes' is no rate.")

    service = product(scripted("Hi."), limiter=Strict("none"))
    admin = service.admin()
    body = {"signup": False, "rates": {"key_tokens": "sometimes"}}
    assert admin.refused("PATCH", "/admin/settings", body) == (400, "invalid_value")
    assert service.parts.settings.current.signup is True


# ---- keys ----


def test_a_key_is_shown_once_and_found_by_its_hash_until_revoked(service: Service):
    import hashlib

    admin, anna = service.admin(), service.browser("anna")
    user = anna.session["user"]["id"]
    made = admin.ok("POST", "/admin/keys", {"name": "script", "scopes": ["models", "chat"], "user_id": user})
    secret, key = made["secret"], made["key"]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert (key["prefix"], key["scopes"], key["user_name"]) == (secret[:11], ["chat", "models"], "anna")
    assert secret not in str(admin.ok("GET", "/admin/keys"))
    found = service.parts.keys.find(digest)
    assert found is not None
    assert (found.account, found.scopes) == (user, {"chat", "models"})
    service.parts.keys.used(key["id"], 5e9)
    assert admin.ok("GET", "/admin/keys")["items"][0]["last_used_at"] == 5e9
    assert service.parts.keys.find(hashlib.sha256(b"cw-other").hexdigest()) is None
    assert admin.ok("DELETE", f"/admin/keys/{key['id']}")["revoked_at"] is not None
    assert service.parts.keys.find(digest) is None
    actions = [line["action"] for line in admin.ok("GET", "/admin/audit")["items"]]
    assert actions[:2] == ["key_revoked", "key_created"]


def test_a_key_ends_with_its_time_and_with_its_owner(service: Service):
    import hashlib
    import time

    keys, anna = service.parts.keys, service.browser("anna")
    user = anna.session["user"]["id"]
    _, short = keys.create(user, "short", ["chat"], time.time() + 1.5)
    _, long = keys.create(user, "long", ["chat"])
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in (short, long)]
    assert all(keys.find(digest) for digest in digests)
    time.sleep(1.6)
    assert [keys.find(digest) is not None for digest in digests] == [False, True]
    anna.ok("POST", "/account/delete", {"password": PASSWORD})
    assert keys.find(digests[1]) is None


def test_people_make_their_own_keys_only_where_the_operator_lets_them(service: Service):
    anna = service.browser("anna")
    body = {"name": "mine", "scopes": ["chat"]}
    assert anna.refused("POST", "/keys", body) == (403, "not_allowed")
    service.set(user_keys=True)
    key = anna.ok("POST", "/keys", body)["key"]
    assert [item["id"] for item in anna.ok("GET", "/keys")["items"]] == [key["id"]]
    assert anna.refused("POST", "/keys", {"name": "m", "scopes": ["metrics"]}) == (403, "not_allowed")
    for wrong in ({"scopes": []}, {"scopes": ["all"]}, {"expires_at": 1.0}, {"name": " "}):
        assert anna.refused("POST", "/keys", {**body, **wrong})[0] == 400
    assert anna.ok("DELETE", f"/keys/{key['id']}")["revoked_at"] is not None


@pytest.mark.parametrize("path", ["/admin/users", "/admin/load", "/admin/settings", "/admin/audit", "/admin/keys"])
@on_sqlite
def test_the_operators_routes_are_for_admins_alone(path: str, service: Service):
    assert service.browser("anna").refused("GET", path) == (404, "not_found")
    assert service.browser().refused("GET", path) == (401, "not_signed_in")
