"""Answers under way: numbered events, coming back, stopping, going on, and what a killed process leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from chatwright.service import generation
from chatwright.service.api import conversations as routes
from chatwright.service.database import Database
from chatwright.service.models import LoadedModel
from chatwright.service.tables import EventRow, MessageRow
from tests.service.product.browser import Browser, Event, Service, on_sqlite, wait_until
from tests.service.product.parts import Forbidding, Full

LONG = " ".join(f"word{i}" for i in range(20))


def text_of(events: list[Event]) -> str:
    return "".join(event.data["text"] for event in events if event.kind == "text")


def test_events_are_numbered_without_gaps_and_end_with_the_whole_answer(
    product: Callable[..., Service], scripted: Callable
):
    anna = product(scripted("The capital of Japan is Tokyo.", delay=0.05)).browser("anna")
    turn = anna.send(anna.conversation(), "What is the capital of Japan?")
    [answer] = turn["answers"]
    assert answer["status"] == "running"
    *pieces, end = anna.events(answer, after=0)
    assert [event.number for event in [*pieces, end]] == list(range(1, len(pieces) + 2))
    assert text_of(pieces) == end.data["message"]["content"] == "The capital of Japan is Tokyo."
    assert (end.kind, end.data["message"]["status"]) == ("end", "done")
    assert end.data["conversation"]["title"] == "What is the capital of Japan?"
    assert end.data["message"]["last_event"] == end.number


def test_a_reader_comes_back_where_it_was(product: Callable[..., Service], scripted: Callable):
    anna = product(scripted(LONG, delay=0.03)).browser("anna")
    [answer] = anna.send(anna.conversation(), "Talk")["answers"]
    with contextlib.closing(anna.events(answer)) as stream:
        seen = list(itertools.islice(stream, 5))
    path = f"/api/conversations/{answer['conversation_id']}/messages/{answer['id']}/events"
    *rest, end = anna.events(answer, after=seen[-1].number)
    assert rest[0].number == 6
    assert text_of([*seen, *rest]) == end.data["message"]["content"] == LONG
    response = anna.http.get(path, headers={"Last-Event-ID": "5"})  # when it is done, its end is all there is to say
    assert response.text.count("event: ") == 1
    [end] = anna.events(answer, after=10**6)
    assert end.data["message"]["content"] == LONG


@on_sqlite
def test_many_readers_see_the_same(product: Callable[..., Service], scripted: Callable):
    service = product(scripted(LONG, delay=0.005))
    anna = service.browser("anna")
    [answer] = anna.send(anna.conversation(), "Talk")["answers"]
    readers = [service.browser().log_in("anna") for _ in range(3)]
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda r=r: texts.append(text_of(list(r.events(answer, after=0))))) for r in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [LONG] * 3


def test_after_a_refresh_the_text_so_far_and_the_next_events_join(product: Callable[..., Service], scripted: Callable):
    anna = product(scripted(LONG, delay=0.04)).browser("anna")
    id = anna.conversation()
    [answer] = anna.send(id, "Talk")["answers"]
    wait_until(lambda: len(anna.read(id)["messages"][1]["content"]) > 20)
    conversation = anna.read(id)
    so_far = conversation["messages"][1]
    assert conversation["running"] is True
    assert so_far["status"] == "running"
    *rest, end = anna.events(so_far)
    assert so_far["content"] + text_of(rest) == end.data["message"]["content"] == LONG
    assert anna.read(id)["running"] is False
    assert answer["id"] == so_far["id"]


@on_sqlite
def test_streams_of_one_person_are_bounded_and_a_reader_who_leaves_makes_room(
    product: Callable[..., Service], scripted: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(routes, "STREAMS", 1)
    service = product(scripted("word " * 100, delay=0.05))
    anna, elsewhere = service.browser("anna"), service.browser().log_in("anna")
    [answer] = anna.send(anna.conversation(), "Talk")["answers"]
    path = f"/conversations/{answer['conversation_id']}/messages/{answer['id']}"
    with contextlib.closing(anna.events(answer)) as stream:
        next(stream)
        response = elsewhere.call("GET", f"{path}/events")
        assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
        assert int(response.headers["retry-after"]) > 0
    wait_until(lambda: not service.parts.streams)
    with contextlib.closing(elsewhere.events(answer)) as stream:
        assert next(stream).number == 1
    elsewhere.ok("POST", f"{path}/stop")


@on_sqlite
def test_an_answer_goes_on_when_nobody_reads(product: Callable[..., Service], scripted: Callable):
    anna = product(scripted(LONG, delay=0.01)).browser("anna")
    id = anna.conversation()
    [answer] = anna.send(id, "Talk")["answers"]
    with contextlib.closing(anna.events(answer)) as stream:
        next(stream)
    wait_until(lambda: anna.read(id)["messages"][1]["status"] == "done")
    assert anna.read(id)["messages"][1]["content"] == LONG


def test_events_are_in_the_database_while_the_answer_is_made(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("word " * 200, delay=0.05))
    anna = service.browser("anna")
    [answer] = anna.send(anna.conversation(), "Talk")["answers"]

    def stored() -> list[EventRow]:
        with service.parts.database.read() as session:
            return list(session.scalars(sa.select(EventRow).order_by(EventRow.first)))

    wait_until(lambda: len(stored()) >= 3)
    rows = stored()
    lengths = (len(row.pieces) for row in rows[:-1])
    assert [row.first for row in rows] == list(itertools.accumulate(lengths, initial=1))
    assert "word" in "".join(piece for row in rows for piece in row.pieces)
    anna.ok("POST", f"/conversations/{answer['conversation_id']}/messages/{answer['id']}/stop")


def test_stopping_keeps_what_was_said_and_frees_the_engine(product: Callable[..., Service], scripted: Callable):
    model = scripted("word " * 240, delay=0.05)
    service = product(model)
    anna = service.browser("anna")
    id = anna.conversation()
    [answer] = anna.send(id, "Talk")["answers"]
    next(anna.events(answer))
    stopped = anna.ok("POST", f"/conversations/{id}/messages/{answer['id']}/stop")
    assert stopped["status"] == "stopped"
    assert stopped["content"]
    assert ("word " * 240).startswith(stopped["content"])
    assert stopped["can_continue"] is True
    assert model.engine.finished.wait(10)
    wait_until(lambda: service.parts.line.length == 0)
    assert model.engine.generated < 240
    assert anna.ok("POST", f"/conversations/{id}/messages/{answer['id']}/stop")["content"] == stopped["content"]
    assert anna.ask(id, "And?", answer["id"], settings={"max_tokens": 3})["status"] == "done"


@on_sqlite
def test_the_engine_begins_while_the_question_is_written_and_nobody_hears_of_it_before(
    product: Callable[..., Service], scripted: Callable, monkeypatch: pytest.MonkeyPatch
):
    model = scripted("Tokyo.")
    service = product(model)
    anna, other = service.browser("anna"), service.browser().log_in("anna")
    id = anna.conversation()
    written, write = threading.Event(), service.parts.turns._write

    def slow(*args: Any) -> Any:
        assert written.wait(30)
        return write(*args)

    monkeypatch.setattr(service.parts.turns, "_write", slow)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(other.send, id, "Capital of Japan?")
        wait_until(model.engine.finished.is_set)
        assert anna.read(id)["messages"] == []
        assert not sent.done()
        written.set()
        [answer] = sent.result(30)["answers"]
    assert anna.end_of(answer)["content"] == "Tokyo."
    assert len(model.engine.prompts) == 1


def test_what_the_engine_began_is_dropped_when_the_question_cannot_be_written(
    product: Callable[..., Service], scripted: Callable, monkeypatch: pytest.MonkeyPatch
):
    model = scripted(LONG, delay=0.01)
    service = product(model)
    anna = service.browser("anna")
    id = anna.conversation()

    def failing(*_: Any) -> Any:
        wait_until(lambda: model.engine.generated > 0)
        raise sa.exc.OperationalError("planted", None, Exception("disk full"))

    with monkeypatch.context() as patch:
        patch.setattr(service.parts.turns, "_write", failing)
        refused = anna.refused("POST", f"/conversations/{id}/messages", {"content": "Talk"})
    assert refused == (500, "server_error")
    wait_until(model.engine.finished.is_set)
    assert model.engine.generated < len(model.tokenizer.encode(LONG))
    wait_until(lambda: service.parts.line.length == 0)
    assert anna.read(id)["messages"] == []
    assert anna.ask(id, "Talk")["content"] == LONG


def test_the_end_is_told_only_when_it_is_on_disk(
    product: Callable[..., Service], tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    service = product(tiny)
    anna = service.browser("anna")
    store, ending, free = service.parts.answers._store, threading.Event(), threading.Event()

    def slow(batch: list[generation.Part]) -> None:
        if any(part.outcome is not None for part in batch):
            ending.set()
            assert free.wait(30)
        store(batch)

    monkeypatch.setattr(service.parts.answers, "_store", slow)
    [answer] = anna.send(anna.conversation(), "Hello", settings={"max_tokens": 6})["answers"]
    assert ending.wait(30)
    seen: list[Event] = []
    reader = threading.Thread(target=lambda: seen.extend(anna.events(answer, after=0)))
    reader.start()
    live = service.parts.answers.live(answer["id"])
    assert live is not None
    time.sleep(0.2)
    assert "end" not in [event.kind for event in seen]
    free.set()
    reader.join(30)
    *pieces, end = seen
    assert text_of(pieces) == end.data["message"]["content"] == live.text
    assert [event.number for event in seen] == list(range(1, len(seen) + 1))


def test_an_answer_in_line_can_be_stopped(product: Callable[..., Service], scripted: Callable):
    model = scripted("word " * 240, delay=0.05)
    service = product(model, at_once=1, waiting_places=4)
    anna = service.browser("anna")
    one, two = anna.conversation(), anna.conversation()
    [first], [second] = anna.send(one, "Talk")["answers"], anna.send(two, "Talk")["answers"]
    stopped = anna.ok("POST", f"/conversations/{two}/messages/{second['id']}/stop")
    assert (stopped["status"], stopped["content"]) == ("stopped", "")
    anna.ok("POST", f"/conversations/{one}/messages/{first['id']}/stop")
    wait_until(lambda: service.parts.line.length == 0)
    assert len(model.engine.prompts) == 1


@on_sqlite
def test_too_many_answers_are_refused_with_the_time_to_wait(product: Callable[..., Service], scripted: Callable):
    service = product(scripted("word " * 240, delay=0.05), at_once=1, waiting_places=5)
    anna, ben = service.browser("anna"), service.browser("ben")
    ids = [anna.conversation() for _ in range(5)]
    for id in ids[: generation.MOST_RUNNING]:
        anna.send(id, "Talk")
    response = anna.call("POST", f"/conversations/{ids[-1]}/messages", {"content": "Talk", "parent_id": None})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_answers")
    assert int(response.headers["retry-after"]) > 0
    for _ in range(2):
        ben.send(ben.conversation(), "Talk")
    id = ben.conversation()
    response = ben.call("POST", f"/conversations/{id}/messages", {"content": "Talk", "parent_id": None})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    assert ben.read(id)["messages"] == []


# ---- going on ----


def counting_on(prompt: str) -> str:
    """Counts from where the answer in the prompt ends."""
    return " ".join(map(str, range(12)))[len(prompt.rpartition("assistant\n")[2]) :]


@pytest.mark.parametrize("way", ["button", "继续。", "Continue"])
def test_a_cut_answer_goes_on_in_place(way: str, product: Callable[..., Service], scripted: Callable):
    anna = product(scripted(counting_on, delay=0.02)).browser("anna")
    id = anna.conversation()
    cut = anna.ask(id, "Count", settings={"max_tokens": 6})
    assert (cut["finish_reason"], cut["can_continue"]) == ("length", True)
    if way == "button":
        turn = anna.ok("POST", f"/conversations/{id}/messages/{cut['id']}/continue", {})
    else:
        turn = anna.send(id, way, cut["id"])
    assert turn["continued"] is True
    assert turn["question"] is None
    [going] = turn["answers"]
    assert going["id"] == cut["id"]
    assert going["content"].startswith(cut["content"])
    *pieces, end = anna.events(going, after=cut["last_event"])
    assert pieces[0].number == cut["last_event"] + 1
    assert cut["content"] + text_of(pieces) == end.data["message"]["content"] == " ".join(map(str, range(12)))
    assert len(anna.read(id)["messages"]) == 2
    assert end.data["message"]["can_continue"] is False
    assert anna.refused("POST", f"/conversations/{id}/messages/{cut['id']}/continue") == (409, "cannot_continue")


@on_sqlite
def test_a_reader_from_before_gets_the_whole_text_when_an_answer_goes_on(
    product: Callable[..., Service], scripted: Callable
):
    anna = product(scripted(counting_on, delay=0.05)).browser("anna")
    id = anna.conversation()
    cut = anna.ask(id, "Count", settings={"max_tokens": 6})
    anna.ok("POST", f"/conversations/{id}/messages/{cut['id']}/continue", {})
    reset, *pieces, end = anna.events(cut, after=2)
    assert (reset.kind, reset.number) == ("reset", cut["last_event"])
    assert reset.data["text"] + text_of(pieces) == end.data["message"]["content"]


def test_continue_is_a_question_like_any_other_where_nothing_was_cut(service: Service):
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "What is the capital of Japan?")
    turn = anna.send(id, "继续", answer["id"])
    assert turn["continued"] is False
    assert turn["question"]["content"] == "继续"
    anna.end_of(turn["answers"][0])


# ---- what goes wrong ----


@on_sqlite
def test_a_model_that_fails_leaves_a_kind_notice_and_no_secret(product: Callable[..., Service], scripted: Callable):
    def fail(_: str) -> str:
        raise ZeroDivisionError("planted secret")

    anna = product(scripted(fail)).browser("anna")
    id = anna.conversation()
    failed = anna.ask(id, "Hello")
    assert (failed["status"], failed["notice"]) == ("failed", generation.FAILED)
    assert "secret" not in str(anna.read(id))


def test_nul_in_an_answer_can_be_stored(product: Callable[..., Service], scripted: Callable):
    anna = product(scripted("a\0b")).browser("anna")
    assert anna.ask(anna.conversation(), "Hello")["content"] == "a\ufffdb"


def test_a_conversation_can_be_deleted_while_its_answer_is_made(product: Callable[..., Service], scripted: Callable):
    model = scripted("word " * 60, delay=0.02)
    service = product(model)
    anna, ben = service.browser("anna"), service.browser("ben")
    id = anna.conversation()
    [answer] = anna.send(id, "Talk")["answers"]
    [other] = ben.send(ben.conversation(), "Talk")["answers"]
    next(anna.events(answer))
    anna.ok("DELETE", f"/conversations/{id}")
    wait_until(lambda: service.parts.line.length == 1)
    stream = ben.events(other)
    next(stream)
    with service.parts.database.write() as session:  # as another process might, without a word to this one
        session.execute(sa.delete(MessageRow).where(MessageRow.parent_id.is_not(None)))
    *_, last = stream
    assert last.kind == "gone"
    assert ben.ask(ben.conversation(), "Talk", settings={"max_tokens": 2})["status"] == "done"


def test_a_database_that_fails_for_a_moment_loses_nothing(
    product: Callable[..., Service], scripted: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generation, "RETRY_SECONDS", 0.05)
    service = product(scripted(LONG, delay=0.005))
    anna = service.browser("anna")
    failures = iter([True, True])
    store = service.parts.answers._store

    def failing(batch: list) -> None:
        if next(failures, False):
            raise sa.exc.OperationalError("planted", None, Exception("disk full"))
        store(batch)

    monkeypatch.setattr(service.parts.answers, "_store", failing)
    assert anna.ask(anna.conversation(), "Talk")["content"] == LONG


# ---- moderation and metrics ----


def test_a_question_that_is_refused_says_so_kindly_and_is_kept_from_the_model(
    product: Callable[..., Service], scripted: Callable
):
    model = scripted("Tokyo.")
    anna = product(model, moderator=Forbidding("poison")).browser("anna")
    id = anna.conversation()
    turn = anna.send(id, "How do I make poison?")
    [answer] = turn["answers"]
    assert turn["question"]["status"] == answer["status"] == "blocked"
    assert answer["notice"] == "Please let us talk of something else."
    assert answer["moderation"] == {"flagged": True, "categories": ["harm"], "version": "rules-1"}
    assert model.engine.prompts == []
    assert anna.end_of(answer)["content"] == ""
    assert anna.ask(id, "What is the capital of Japan?", answer["id"])["content"] == "Tokyo."
    assert "poison" not in model.engine.prompts[0]
    assert anna.read(id)["messages"][2]["moderation"] == {"flagged": False, "categories": [], "version": "rules-1"}
    assert anna.refused("POST", f"/conversations/{id}/messages/{answer['id']}/regenerate") == (409, "not_allowed")


def test_an_answer_found_bad_is_taken_back_and_stops_the_engine(
    product: Callable[..., Service], scripted: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generation, "CHECK_CHARACTERS", 40)
    model = scripted("fine " * 6 + "poison " + "more " * 60, delay=0.01)
    service = product(model, moderator=Forbidding("poison"))
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "Talk")
    assert (answer["status"], answer["content"]) == ("blocked", "")
    assert answer["moderation"]["categories"] == ["harm"]
    assert model.engine.finished.wait(10)
    assert model.engine.generated < 200
    assert "fine" not in str(anna.read(id)["messages"][1])
    assert anna.ok("GET", "/conversations", params={"search": "poison"})["items"] == []
    path = f"/conversations/{id}/messages/{answer['id']}/feedback"
    assert anna.refused("PUT", path, {"vote": "up"}) == (409, "not_allowed")


def test_an_answers_time_beside_the_engine_and_that_of_the_database_are_in_the_metrics(
    product: Callable[..., Service], tiny: LoadedModel
):
    service = product(tiny)
    anna = service.browser("anna")
    id = anna.conversation()
    began = time.monotonic()
    anna.ask(id, "Capital of Japan?", settings={"max_tokens": 5})
    took = time.monotonic() - began
    told = httpx.get(f"{service.address}/metrics").text
    seen = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in told.splitlines() if line[0] != "#")}
    assert seen["chatwright:service_overhead_seconds_count"] == 1
    [(model, engine)] = [
        (name, value) for name, value in seen.items() if name.startswith("vllm:e2e_request_latency_seconds_sum")
    ]
    assert "tiny" in model
    assert 0 < seen["chatwright:service_overhead_seconds_sum"] < took - engine
    for kind in ("read", "write"):
        for what in ("wait", "transaction"):
            name = f"chatwright:database_{what}_seconds"
            assert seen[f'{name}_count{{kind="{kind}"}}'] > 3
            assert 0 < seen[f'{name}_sum{{kind="{kind}"}}'] < 60


@on_sqlite
def test_the_limiter_is_asked_before_the_engine(product: Callable[..., Service], scripted: Callable):
    limiter = Full("messages_account")
    service = product(scripted("Tokyo."), limiter=limiter)
    anna = service.browser("anna")
    limiter.closed = True
    response = anna.call("POST", "/conversations", {})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
    assert response.headers["retry-after"] == "7"


def test_tokens_are_counted_when_they_are_known_and_asked_for_before(
    product: Callable[..., Service], scripted: Callable
):
    limiter = Full("tokens_account")
    service = product(scripted("Tokyo."), limiter=limiter)
    anna = service.browser("anna")
    id = anna.conversation()
    answer = anna.ask(id, "What is the capital of Japan?")
    costs = [(key, cost) for bucket, key, cost in limiter.hits if bucket == "tokens_account"]
    person = anna.session["user"]["id"]
    assert costs[0] == (person, 0)
    assert costs[1][0] == person
    assert costs[1][1] > answer["tokens"]["prompt"]
    limiter.closed = True
    refused = anna.refused("POST", f"/conversations/{id}/messages", {"content": "And?", "parent_id": answer["id"]})
    assert refused == (429, "rate_limited")
    assert len(anna.read(id)["messages"]) == 2


# ---- kill -9 ----

SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
from tests.service.conftest import CONTEXT, TEXTS, ScriptedEngine
from tests.service.product.browser import CHEAP
from chatwright.service.app import serve
from chatwright.service.models import LoadedModel
from chatwright.service.passwords import Passwords
from chatwright.service.product import Neighbours
from chatwright.tokenizer.bpe import train_bpe
tokenizer = train_bpe(TEXTS, 300)
engine = ScriptedEngine(tokenizer, lambda _: "word " * 12, 0.03)
model = LoadedModel("atlas", engine, tokenizer, CONTEXT, "fp", 1)
serve({"atlas": model}, port=int(sys.argv[3]), database=sys.argv[4], neighbours=Neighbours(passwords=Passwords(CHEAP)))
"""


@contextlib.contextmanager
def process(database_url: str):
    """The service in a process of its own: its address, and the process."""
    root = Path(__file__).parents[3]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(root), str(root / "src"), str(port), database_url]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert started.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{address}/api/session").is_success
        return False

    try:
        wait_until(up)
        yield address, started
    finally:
        started.kill()
        started.wait()


def test_a_killed_process_loses_no_acknowledged_message(database_url: str):
    acknowledged: dict[str, tuple[str, str]] = {}  # by question: its conversation and its answer
    seen: dict[str, str] = {}
    lock = threading.Lock()
    with process(database_url) as (address, started):
        Browser(address).sign_up("anna")

        def talk(number: int) -> None:
            browser = Browser(address).log_in("anna")
            with contextlib.suppress(httpx.TransportError, KeyError, AssertionError):
                for turn in itertools.count():
                    id = browser.conversation()
                    sent = browser.send(id, f"question {number}.{turn}")
                    [answer] = sent["answers"]
                    with lock:
                        acknowledged[sent["question"]["content"]] = id, answer["id"]
                    for event in browser.events(answer):
                        with lock:
                            if event.kind == "end":
                                seen[answer["id"]] = event.data["message"]["content"]
                                break

        threads = [threading.Thread(target=talk, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) >= 5 and len(seen) >= 1)
        time.sleep(0.4)
        os.kill(started.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    with process(database_url) as (address, _):
        anna = Browser(address).log_in("anna")
        statuses = []
        for question, (id, answer_id) in acknowledged.items():
            conversation = anna.read(id)
            asked, answer = conversation["messages"]
            assert (asked["content"], answer["id"]) == (question, answer_id)
            statuses.append(answer["status"])
            if answer_id in seen:
                assert (answer["status"], answer["content"]) == ("done", seen[answer_id])
            else:
                assert answer["status"] in ("done", "interrupted")
                [end] = anna.events(answer, after=10**6)
                assert end.data["message"]["content"] == answer["content"]
        assert "interrupted" in statuses
        cut = next(
            message
            for id, _ in acknowledged.values()
            for message in anna.read(id)["messages"]
            if message["status"] == "interrupted" and message["content"]
        )
        assert cut["can_continue"] is True
        going = anna.ok("POST", f"/conversations/{cut['conversation_id']}/messages/{cut['id']}/continue", {})
        assert anna.end_of(going["answers"][0])["content"].startswith(cut["content"])


def test_what_a_killed_process_left_is_joined_from_its_events(database: Database):
    from chatwright.service.tables import ConversationRow, User

    with database.write() as session:
        session.add(User(id="u", name="anna", name_key="anna", role="user", consent=False))
        session.flush()
        session.add(ConversationRow(id="c", user_id="u"))
        session.flush()
        row = MessageRow(id="m", conversation_id="c", position=1, role="assistant", content="One", status="running")
        row.base_event = 4
        session.add(row)
        session.flush()
        session.add(EventRow(message_id="m", first=7, pieces=[" four"]))
        session.add(EventRow(message_id="m", first=5, pieces=[" two", " three"]))
    assert generation.mark_interrupted(database) == 1
    assert generation.mark_interrupted(database) == 0
    with database.read() as session:
        row = session.get_one(MessageRow, "m")
        assert (row.content, row.status, row.last_event) == ("One two three four", "interrupted", 8)
    generation.forget_events(database, time.time() + 1)
    with database.read() as session:
        assert session.scalars(sa.select(EventRow)).all() == []


@on_sqlite
def test_json_of_events_is_one_line_whatever_is_said(product: Callable[..., Service], scripted: Callable):
    evil = "</script><img src=x onerror=alert(1)>\r\n\ndata: x\u2028"
    anna = product(scripted(evil)).browser("anna")
    [answer] = anna.send(anna.conversation(), "Talk")["answers"]
    path = f"/api/conversations/{answer['conversation_id']}/messages/{answer['id']}/events"
    response = anna.http.get(path)
    assert response.headers["x-content-type-options"] == "nosniff"
    data = [line for line in response.text.split("\n") if line.startswith("data: ")]
    assert json.loads(data[-1].removeprefix("data: "))["message"]["content"] == evil
