"""Conversations as their owner sees them: the list, the tree with its versions, and public links."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from chatwright.service import turns
from chatwright.service.conversations import title_of
from chatwright.service.tables import MessageRow
from chatwright.service.tree import Tree, spoken
from tests.service.product.browser import Browser, Service, wait_until


def contents(conversation: dict) -> list[str]:
    return [message["content"] for message in conversation["messages"]]


def branch(conversation: dict) -> list[str]:
    """What the page shows: from the current message up."""
    by_id = {message["id"]: message for message in conversation["messages"]}
    shown, at = [], conversation["current_id"]
    while at is not None:
        shown.append(by_id[at]["content"])
        at = by_id[at]["parent_id"]
    return shown[::-1]


@pytest.fixture
def echo(scripted: Callable):
    """A model that says the last line it was asked, and how often it was called."""
    calls = []

    def script(prompt: str) -> str:
        calls.append(prompt)
        return f"{len(calls)}: {prompt.splitlines()[-2]}"

    return scripted(script)


@pytest.fixture
def anna(product: Callable[..., Service], echo) -> Browser:
    return product(echo).browser("anna")


def test_a_conversation_goes_on_and_keeps_its_history(anna: Browser, echo):
    id = anna.conversation()
    first = anna.ask(id, "one")
    second = anna.ask(id, "two", first["id"])
    conversation = anna.read(id)
    assert contents(conversation) == ["one", "1: one", "two", "2: two"]
    assert [message["parent_id"] for message in conversation["messages"]] == [
        None,
        *[message["id"] for message in conversation["messages"][:3]],
    ]
    assert conversation["current_id"] == second["id"]
    assert "user\none\nassistant\n1: one\nuser\ntwo\nassistant" in echo.engine.prompts[-1]
    assert (second["model"], second["model_hash"], second["finish_reason"]) == ("atlas", "fp_test", "stop")
    assert second["tokens"]["answer"] > 0
    assert second["sampling"]["temperature"] == turns.TEMPERATURE


def test_editing_a_message_opens_a_branch_and_loses_nothing(anna: Browser, echo):
    id = anna.conversation()
    first = anna.ask(id, "one")
    anna.ask(id, "two", first["id"])
    edited = anna.ask(id, "zwei", first["id"])
    conversation = anna.read(id)
    assert branch(conversation) == ["one", "1: one", "zwei", "3: zwei"]
    assert "two" not in echo.engine.prompts[-1]
    by_content = {message["content"]: message for message in conversation["messages"]}
    versions = [by_content["two"]["id"], by_content["zwei"]["id"]]
    assert (
        by_content["two"]["versions"] == by_content["zwei"]["versions"] == versions == by_content["1: one"]["children"]
    )
    picked = anna.ok("PATCH", f"/conversations/{id}", {"current_id": by_content["two"]["id"]})
    assert branch(picked) == ["one", "1: one", "two", "2: two"]
    root = anna.ask(id, "eins")
    conversation = anna.read(id)
    assert branch(conversation) == ["eins", "4: eins"]
    assert conversation["messages"][-2]["versions"] == [conversation["messages"][0]["id"], root["parent_id"]]
    assert edited["id"] in {message["id"] for message in conversation["messages"]}


def test_regenerating_makes_another_version_with_another_seed(anna: Browser):
    id = anna.conversation()
    first = anna.ask(id, "one")
    turn = anna.ok("POST", f"/conversations/{id}/messages/{first['id']}/regenerate", {})
    assert turn["question"] is None
    second = anna.end_of(turn["answers"][0])
    assert second["versions"] == [first["id"], second["id"]]
    assert second["content"] == "2: one"
    assert second["sampling"]["seed"] != first["sampling"]["seed"]
    below = anna.ok("POST", f"/conversations/{id}/messages/{first['parent_id']}/regenerate", {})
    assert anna.end_of(below["answers"][0])["parent_id"] == first["parent_id"]


@pytest.mark.parametrize("parent", ["question", "nowhere", "elsewhere"])
def test_a_question_stands_below_an_answer_of_its_conversation(parent: str, anna: Browser):
    id, other = anna.conversation(), anna.conversation()
    answer, foreign = anna.ask(id, "one"), anna.ask(other, "one")
    wrong = {"question": answer["parent_id"], "nowhere": "0" * 24, "elsewhere": foreign["id"]}[parent]
    refused = anna.refused("POST", f"/conversations/{id}/messages", {"content": "two", "parent_id": wrong})
    assert refused == (400, "wrong_parent")
    assert len(anna.read(id)["messages"]) == 2


def test_a_send_repeated_after_a_lost_connection_asks_once(anna: Browser, echo):
    id = anna.conversation()
    first = anna.send(id, "one", key="k1")
    again = anna.call("POST", f"/conversations/{id}/messages", {"content": "one", "parent_id": None, "key": "k1"})
    assert again.status_code == 200
    assert again.json()["answers"][0]["id"] == first["answers"][0]["id"]
    assert again.json()["question"]["id"] == first["question"]["id"]
    anna.end_of(first["answers"][0])
    assert len(anna.read(id)["messages"]) == 2
    assert len(echo.engine.prompts) == 1


def test_of_two_questions_at_once_one_is_taken(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("word " * 60, delay=0.05))
    anna = service.browser("anna")
    id = anna.conversation()
    others = [service.browser().log_in("anna") for _ in range(4)]
    codes: list[int] = []

    def send(browser: Browser) -> None:
        body = {"content": "Hello", "parent_id": None}
        codes.append(browser.call("POST", f"/conversations/{id}/messages", body).status_code)

    threads = [threading.Thread(target=send, args=[browser]) for browser in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [201, 409, 409, 409]
    assert len(anna.read(id)["messages"]) == 2


def test_settings_of_account_conversation_and_turn(anna: Browser, echo):
    anna.ok("PATCH", "/account", {"settings": {"temperature": 0.5, "instructions": "Be brief.", "max_tokens": 100}})
    id = anna.conversation(settings={"temperature": 1.5})
    anna.ask(id, "one")
    sampling = echo.engine.samplings[-1]
    assert (sampling.temperature, sampling.max_tokens) == (1.5, 100)
    assert "system\nBe brief." in echo.engine.prompts[-1]
    anna.ask(id, "two", settings={"temperature": 0, "instructions": "In Chinese."})
    assert echo.engine.samplings[-1].temperature == 0
    assert "system\nIn Chinese." in echo.engine.prompts[-1]
    anna.ok("PATCH", f"/conversations/{id}", {"settings": {"temperature": None}})
    anna.ask(id, "three")
    assert echo.engine.samplings[-1].temperature == 0.5
    body = {"content": "x", "parent_id": None, "settings": {"model": "../../etc/passwd"}}
    assert anna.refused("POST", f"/conversations/{id}/messages", body) == (404, "model_not_found")


def test_models_are_picked_by_name(product: Callable[..., Service], scripted: Callable):
    anna = product(scripted("I am one."), scripted("I am two.", name="other")).browser("anna")
    assert [model["id"] for model in anna.session["config"]["models"]] == ["atlas", "other"]
    id = anna.conversation(settings={"model": "other"})
    answer = anna.ask(id, "Who are you?")
    assert (answer["content"], answer["model"]) == ("I am two.", "other")


def test_what_is_too_long_is_refused_before_anything_is_kept(anna: Browser):
    id = anna.conversation()
    path = f"/conversations/{id}/messages"
    too_long = {"content": "x" * (turns.LONGEST_MESSAGE + 1), "parent_id": None}
    assert anna.refused("POST", path, too_long) == (413, "message_too_long")
    beyond = {"content": "word " * 400, "parent_id": None}
    assert anna.refused("POST", path, beyond) == (400, "context_length_exceeded")
    for empty in ("", "  \n", "a\0b"):
        assert anna.refused("POST", path, {"content": empty, "parent_id": None}) == (400, "invalid_value")
    assert anna.read(id)["messages"] == []


def test_a_conversation_that_is_full_says_so(anna: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "MOST_MESSAGES", 3)
    id = anna.conversation()
    anna.ask(id, "one")
    body = {"content": "two", "parent_id": None}
    assert anna.refused("POST", f"/conversations/{id}/messages", body) == (409, "conversation_full")


# ---- the list ----


def test_the_list_is_searched_in_titles_and_messages_in_any_language(anna: Browser):
    capitals, weather, chinese = anna.conversation(title="Capitals"), anna.conversation(), anna.conversation()
    anna.ask(weather, "How is the WEATHER in Zürich, 100% sure?")
    anna.ask(chinese, "你好，世界")

    def found(text: str) -> list[str]:
        return [item["id"] for item in anna.ok("GET", "/conversations", params={"search": text})["items"]]

    assert found("") == [chinese, weather, capitals]
    assert found("capital") == [capitals]
    assert found("weather in ZÜRICH") == [weather]
    assert found("世界") == [chinese]
    assert found("100%") == [weather]
    assert found("10_%") == found("nothing") == []
    [item] = anna.ok("GET", "/conversations", params={"search": "zürich"})["items"]
    assert "Zürich" in item["snippet"]


def test_the_list_comes_in_pages_newest_use_first(anna: Browser):
    ids = [anna.conversation(title=str(i)) for i in range(5)]
    anna.ask(ids[1], "used again")
    seen, cursor = [], ""
    while True:
        page = anna.ok("GET", "/conversations", params={"limit": 2, "cursor": cursor})
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert seen == [ids[1], ids[4], ids[3], ids[2], ids[0]]
    assert anna.refused("GET", "/conversations", params={"cursor": "x"}) == (400, "invalid_value")


def test_renaming_archiving_and_deleting(anna: Browser):
    id, other = anna.conversation(), anna.conversation()
    anna.ask(id, "What is the capital of Japan, and of France, and of Spain?")
    assert anna.read(id)["title"] == "What is the capital of Japan, and of…"
    assert anna.ok("PATCH", f"/conversations/{id}", {"title": " Capitals "})["title"] == "Capitals"
    anna.ok("PATCH", f"/conversations/{id}", {"archived": True})
    assert [item["id"] for item in anna.ok("GET", "/conversations")["items"]] == [other]
    archived = anna.ok("GET", "/conversations", params={"archived": True})["items"]
    assert [(item["id"], item["title"]) for item in archived] == [(id, "Capitals")]
    for wrong in ({"title": ""}, {"title": None}, {"title": "x" * 201}, {"archived": "yes"}, {"owner": "ben"}):
        assert anna.refused("PATCH", f"/conversations/{id}", wrong)[0] == 400
    anna.ok("DELETE", f"/conversations/{id}")
    assert anna.refused("GET", f"/conversations/{id}") == (404, "not_found")
    anna.ok("DELETE", "/conversations")
    assert anna.ok("GET", "/conversations")["items"] == []


def test_a_title_is_made_by_the_model_unless_a_person_gave_one(product: Callable[..., Service], scripted: Callable):
    def script(prompt: str) -> str:
        return '"Capitals of Asia."\nand more' if "Write a title" in prompt else "Tokyo."

    anna = product(scripted(script), model_titles=True).browser("anna")
    id, named = anna.conversation(), anna.conversation(title="Mine")
    anna.ask(id, "What is the capital of Japan?")
    wait_until(lambda: anna.read(id)["title"] == "Capitals of Asia")
    anna.ask(named, "What is the capital of Japan?")
    anna.ask(id, "And of China?")
    assert anna.read(named)["title"] == "Mine"
    anna.ok("PATCH", f"/conversations/{id}", {"title": "Other"})
    anna.ask(id, "And of Korea?")
    assert anna.read(id)["title"] == "Other"


def test_a_model_that_makes_no_title_leaves_the_first_words(product: Callable[..., Service], scripted: Callable):
    model = scripted(lambda prompt: "\n" if "Write a title" in prompt else "Tokyo.")
    anna = product(model, model_titles=True).browser("anna")
    id = anna.conversation()
    anna.ask(id, "What is the capital of Japan?")
    wait_until(lambda: any("Write a title" in prompt for prompt in model.engine.prompts))
    assert anna.read(id)["title"] == "What is the capital of Japan?"
    assert title_of("好" * 100) == "好" * 48 + "…"


# ---- public links ----


def test_a_public_link_shows_one_branch_and_ends_when_its_owner_says(anna: Browser):
    id = anna.conversation(title="Capitals")
    first = anna.ask(id, "one")
    anna.ask(id, "two", first["id"])
    anna.ask(id, "private", first["id"])
    link = anna.ok("POST", f"/conversations/{id}/share", {"message_id": anna.read(id)["messages"][3]["id"]})
    assert anna.read(id)["share"] == link
    assert link["path"] == f"/share/{link['token']}"
    stranger = Browser(anna.address)
    shown = stranger.ok("GET", f"/shared/{link['token']}")
    assert (shown["title"], contents(shown)) == ("Capitals", ["one", "1: one", "two", "2: two"])
    assert "anna" not in str(shown)
    moved = anna.ok("POST", f"/conversations/{id}/share", {})
    assert contents(stranger.ok("GET", f"/shared/{moved['token']}"))[-2] == "private"
    assert stranger.refused("GET", f"/shared/{link['token']}") == (404, "not_found")
    anna.ok("DELETE", f"/conversations/{id}/share")
    assert stranger.refused("GET", f"/shared/{moved['token']}") == (404, "not_found")


# ---- the tree by itself ----


def row(position: int, parent: int | None, content: str, status: str = "done", **more: object) -> MessageRow:
    role = "user" if content.islower() else "assistant"
    parent_id = None if parent is None else str(parent)
    values = {"id": str(position), "parent_id": parent_id, "position": position, "role": role}
    return MessageRow(content=content, status=status, **values, **more)


def test_what_was_blocked_or_failed_is_not_read_by_the_model():
    rows = [row(1, None, "a"), row(2, 1, "A"), row(3, 2, "b", "blocked"), row(4, 3, "", "blocked")]
    rows[3].role = "assistant"
    rows += [row(5, 4, "c"), row(6, 5, "C", "failed"), row(7, 6, "d"), row(8, 7, "D", "stopped"), row(9, 8, "e")]
    said = spoken(Tree(rows).path("9"), "Be kind.")
    assert [message.text for message in said] == ["Be kind.", "a", "A", "d", "D", "e"]


def test_a_thousand_messages_deep_can_be_read_and_deleted(service: Service):
    """SQLite's cascades end at a thousand: nothing here may depend on them."""
    anna = service.browser("anna")
    id = anna.conversation()
    with service.parts.database.write() as session:
        session.execute(
            sa.insert(MessageRow),
            [
                {
                    "id": f"m{i}",
                    "conversation_id": id,
                    "parent_id": f"m{i - 1}" if i else None,
                    "position": i + 1,
                    "role": "assistant" if i % 2 else "user",
                    "content": "word",
                }
                for i in range(1500)
            ],
        )
    anna.ok("PATCH", f"/conversations/{id}", {"current_id": "m3"})
    assert anna.read(id)["current_id"] == "m1499"
    anna.ok("DELETE", f"/conversations/{id}")
    with service.parts.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(MessageRow)) == 0
