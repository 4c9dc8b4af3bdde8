"""Ratings, choices, consent, and what of them leaves the house."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chatwright.records import Comparison, Conversation, Feedback
from chatwright.service import operator
from chatwright.service.exports import pseudonym
from chatwright.service.feedback import LONGEST_TEXT
from chatwright.service.scrub import scrub
from chatwright.storage import read_jsonl
from tests.service.product.browser import Browser, Service, on_sqlite
from tests.service.product.parts import Forbidding


def exported(admin: Browser, kind: str, **params: object) -> list[dict]:
    response = admin.call("GET", f"/admin/export/{kind}", params=params)
    assert response.is_success, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def rate(browser: Browser, answer: dict, **body: object) -> dict:
    return browser.ok("PUT", f"/conversations/{answer['conversation_id']}/messages/{answer['id']}/feedback", body)


def test_a_rating_can_be_changed_and_taken_back_once_a_version(service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "What is the capital of Japan?")
    rated = rate(anna, answer, vote="up", tags=["clear", "correct"], text="Yes")
    assert (rated["feedback"]["vote"], rated["feedback"]["tags"]) == ("up", ["clear", "correct"])
    changed = rate(anna, answer, vote="down", tags=["wrong"])
    assert (changed["feedback"]["vote"], changed["feedback"]["tags"], changed["feedback"]["text"]) == (
        "down",
        ["wrong"],
        "",
    )
    other = anna.end_of(anna.ok("POST", f"/conversations/{id}/messages/{answer['id']}/regenerate")["answers"][0])
    rate(anna, other, vote="up")
    votes = [message["feedback"]["vote"] for message in anna.read(id)["messages"][1:]]
    assert votes == ["down", "up"]
    path = f"/conversations/{id}/messages/{answer['id']}/feedback"
    assert anna.ok("DELETE", path)["feedback"] is None
    assert anna.ok("DELETE", path)["feedback"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"vote": "maybe"},
        {"vote": "up", "tags": ["wrong"]},
        {"vote": "up", "tags": ["<script>"]},
        {"vote": "up", "text": "x" * 4001},
        {"vote": "up", "text": "\0"},
        {"vote": "up", "stars": 5},
        {},
    ],
)
@on_sqlite
def test_a_rating_that_makes_no_sense_is_refused(body: dict, service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "Hello")
    path = f"/conversations/{id}/messages/{answer['id']}/feedback"
    assert anna.refused("PUT", path, body) == (400, "invalid_value")
    question = path.replace(answer["id"], answer["parent_id"])
    assert anna.refused("PUT", question, {"vote": "up"}) == (404, "not_found")


@pytest.fixture
def two_answers(product: Callable[..., Service], scripted: Callable) -> Service:
    """A service whose model says A, then B, and so on."""
    said = iter("ABCDEFGH")
    service = product(scripted(lambda _: f"This is answer {next(said)}."))
    service.set(comparisons=True)
    return service


def compare(browser: Browser) -> tuple[dict, list[dict]]:
    """A turn with two answers, and these when they are there."""
    turn = browser.send(browser.conversation(consent=True), "Which?", compare=True)
    return turn, [browser.end_of(answer) for answer in turn["answers"]]


def test_two_answers_are_compared_and_the_choice_can_change(two_answers: Service):
    anna = two_answers.browser("anna")
    turn, [a, b] = compare(anna)
    pair, id = turn["comparison"], turn["conversation"]["id"]
    assert pair["answers"] == [a["id"], b["id"]] == a["versions"]
    assert a["comparison_id"] == b["comparison_id"] == pair["id"]
    assert a["content"] != b["content"]
    assert a["sampling"]["seed"] != b["sampling"]["seed"]
    path = f"/conversations/{id}/comparisons/{pair['id']}"
    assert anna.ok("PUT", path, {"choice": "b", "text": "Shorter"})["choice"] == "b"
    assert anna.read(id)["current_id"] == b["id"]
    assert anna.ok("PUT", path, {"choice": "a"})["choice"] == "a"
    assert anna.read(id)["current_id"] == a["id"]
    assert anna.read(id)["comparisons"][0]["choice"] == "a"
    assert anna.refused("PUT", path, {"choice": "c"}) == (400, "invalid_value")
    for text in ("x" * (LONGEST_TEXT + 1), "a\0b", 5, None):
        assert anna.refused("PUT", path, {"choice": "a", "text": text}) == (400, "invalid_value")


def test_answers_are_compared_only_where_the_operator_wants(two_answers: Service):
    anna = two_answers.browser("anna")
    two_answers.set(comparisons=False, comparison_share=1.0)
    assert anna.send(anna.conversation(), "Which?", compare=True)["comparison"] is None
    two_answers.set(comparisons=True)
    assert anna.send(anna.conversation(), "Which?")["comparison"] is not None
    two_answers.set(comparison_share=0.0)
    assert anna.send(anna.conversation(), "Which?")["comparison"] is None


@pytest.mark.parametrize(
    ("choice", "tiers", "source"),
    [
        ("a", [[0], [1]], "chat"),
        ("b", [[1], [0]], "chat"),
        ("tie", [[0, 1]], "chat"),
        ("both_bad", [[0, 1]], "chat/both_bad"),
    ],
)
def test_a_choice_leaves_as_a_comparison(choice: str, tiers: list, source: str, two_answers: Service, tmp_path: Path):
    anna, admin = two_answers.browser("anna"), two_answers.admin()
    turn, answers = compare(anna)
    unchosen, _ = compare(anna)
    path = f"/conversations/{turn['conversation']['id']}/comparisons/{turn['comparison']['id']}"
    anna.ok("PUT", path, {"choice": choice})
    assert exported(admin, "comparisons")[0]["meta"] == {}
    anna.ok("PUT", path, {"choice": choice, "text": "B knows that anna@example.org is mine"})
    [line] = exported(admin, "comparisons")
    record = Comparison.model_validate(line)
    assert (record.tiers, record.source) == (tiers, source)
    assert [message.text for message in record.prompt] == ["Which?"]
    assert record.answers == [answer["content"] for answer in answers]
    assert record.labeler == pseudonym(anna.session["user"]["id"])
    assert record.id != unchosen["comparison"]["id"]
    assert record.meta == {"text": scrub("B knows that anna@example.org is mine")}
    assert "example.org" not in json.dumps(line)
    [shown] = admin.ok("GET", "/admin/comparisons")["items"]
    assert (shown["choice"], shown["text"]) == (choice, "B knows that anna@example.org is mine")
    assert exported(admin, "feedback") == []  # thumbs and choices are apart


def test_a_rating_leaves_with_its_models_hash_and_sampling(service: Service):
    anna, admin = service.browser("anna"), service.admin()
    id = anna.conversation(consent=True, settings={"instructions": "Be brief.", "temperature": 0.5})
    first = anna.ask(id, "Mail anna@example.org what the capital of Japan is.")
    answer = anna.ask(id, "And now?", first["id"])
    rate(anna, answer, vote="down", tags=["wrong", "other"], text="Call 13800138000")
    [line] = exported(admin, "feedback")
    record = Feedback.model_validate(line)
    assert [(message.role, message.text) for message in record.prompt] == [
        ("system", "Be brief."),
        ("user", "Mail [email] what the capital of Japan is."),
        ("assistant", "The capital of Japan is Tokyo."),
        ("user", "And now?"),
    ]
    assert (record.answer, record.vote, record.tags) == ("The capital of Japan is Tokyo.", "down", ["other", "wrong"])
    assert record.text == "Call [phone]"
    assert (record.model, record.model_hash) == ("atlas", "fp_test")
    assert record.sampling == answer["sampling"]
    assert record.user == pseudonym(anna.session["user"]["id"])
    assert "anna" not in json.dumps(line)
    assert exported(admin, "comparisons") == []


def test_people_leave_without_their_names_and_models_with_theirs(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("My name is Atlas."))
    anna, admin = service.browser("anna"), service.admin()
    answer = anna.ask(anna.conversation(consent=True), "My name is Anna, of 12 Baker Street. Who are you?")
    rate(anna, answer, vote="up", text="Call me Anna")
    [rated], [talk] = exported(admin, "feedback"), exported(admin, "conversations")
    asked = "My name is [name], of [address]. Who are you?"
    assert [message["content"] for message in talk["messages"]] == [asked, "My name is Atlas."]
    assert [message["content"] for message in rated["prompt"]] == [asked]
    assert (rated["answer"], rated["text"]) == ("My name is Atlas.", "Call me [name]")


def test_a_rating_is_of_the_text_that_was_there(product: Callable[..., Service], scripted: Callable):
    service = product(scripted(lambda prompt: " two" if prompt.endswith("one") else "one"))
    anna, admin = service.browser("anna"), service.admin()
    id = anna.conversation(consent=True)
    cut = anna.ask(id, "Count", settings={"max_tokens": len(service.parts.models["atlas"].tokenizer.encode("one"))})
    assert cut["finish_reason"] == "length"
    rate(anna, cut, vote="up")
    anna.end_of(anna.ok("POST", f"/conversations/{id}/messages/{cut['id']}/continue")["answers"][0])
    assert anna.read(id)["messages"][1]["content"] == "one two"
    [line] = exported(admin, "feedback")
    assert line["answer"] == "one"


# ---- consent ----


@pytest.mark.parametrize(
    ("account", "conversation", "agreed"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_only_what_is_consented_leaves(account: bool, conversation: bool | None, agreed: bool, two_answers: Service):
    anna, admin = two_answers.browser("anna"), two_answers.admin()
    anna.ok("PATCH", "/account", {"consent": account})
    id = anna.conversation(consent=conversation)
    assert anna.read(id)["consent_effective"] is agreed
    turn = anna.send(id, "Which?", compare=True)
    answers = [anna.end_of(answer) for answer in turn["answers"]]
    anna.ok("PUT", f"/conversations/{id}/comparisons/{turn['comparison']['id']}", {"choice": "a"})
    rate(anna, answers[0], vote="up")
    for kind in ("conversations", "feedback", "comparisons"):
        assert len(exported(admin, kind)) == agreed
    assert [row["consent"] for row in admin.ok("GET", "/admin/feedback")["items"]] == [agreed]
    anna.ok("PATCH", f"/conversations/{id}", {"consent": not agreed})
    for kind in ("conversations", "feedback", "comparisons"):
        assert len(exported(admin, kind)) == (not agreed)


def test_new_accounts_consent_as_the_operator_sets(service: Service):
    service.set(consent_default=True)
    anna = service.browser("anna")
    service.set(consent_default=False)
    assert anna.refresh()["user"]["consent"] is True
    assert service.browser("ben").session["user"]["consent"] is False


def test_a_conversation_leaves_as_the_branch_last_looked_at(service: Service):
    anna, admin = service.browser("anna"), service.admin()
    id = anna.conversation(consent=True)
    first = anna.ask(id, "one")
    anna.ask(id, "two", first["id"])
    anna.ask(id, "three", first["id"])
    [line] = exported(admin, "conversations")
    record = Conversation.model_validate(line)
    assert [message.text for message in record.messages][::2] == ["one", "three"]
    assert record.meta["model_hash"] == "fp_test"
    assert exported(admin, "conversations", model="other") == []
    assert exported(admin, "conversations", until=1.0) == []


def test_what_was_blocked_never_leaves(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("Fine."), moderator=Forbidding("poison"))
    anna, admin = service.browser("anna"), service.admin()
    id = anna.conversation(consent=True)
    blocked = anna.end_of(anna.send(id, "poison")["answers"][0])
    assert exported(admin, "conversations") == []
    anna.ask(id, "Hello", blocked["id"])
    [line] = exported(admin, "conversations")
    assert "poison" not in json.dumps(line)


def test_no_person_fills_an_export_and_the_choice_of_records_does_not_change(service: Service):
    anna, ben, admin = service.browser("anna"), service.browser("ben"), service.admin()
    for browser, count in ((anna, 5), (ben, 1)):
        for _ in range(count):
            browser.ask(browser.conversation(consent=True), "Hello")
    some = exported(admin, "conversations", per_user=2)
    users = [line["meta"]["user"] for line in some]
    assert (len(users), len(set(users))) == (3, 2)
    assert exported(admin, "conversations", per_user=2) == some
    assert len(exported(admin, "conversations")) == 6


def test_the_command_line_exports_the_same(service: Service, database_url: str, tmp_path: Path):
    anna, admin = service.browser("anna"), service.admin()
    rate(anna, anna.ask(anna.conversation(consent=True), "Hello"), vote="up")
    count = operator.export_records(database_url, "feedback", tmp_path / "feedback.jsonl", None, None)
    [record] = read_jsonl(tmp_path / "feedback.jsonl", Feedback)
    assert count == 1
    assert record.model_dump(mode="json") == exported(admin, "feedback")[0]
