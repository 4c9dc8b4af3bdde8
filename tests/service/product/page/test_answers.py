"""Answers as they come: stopped, broken off, gone on with, changed, refused; and nothing of them is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from playwright.sync_api import Route, expect

from chatwright.service.generation import forget_events
from chatwright.service.moderation import Moderator
from chatwright.service.moderation.words import REFUSED
from tests.service.product.browser import serving_product, wait_until
from tests.service.product.page.conftest import ModelOf, Visit, Visitor, everywhere
from tests.service.product.page.words import Words
from tests.service.product.parts import Forbidding

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"
COUNTED = " ".join(f"w{i}" for i in range(60))


@everywhere
def test_stop_frees_the_engine_and_keeps_what_came(product, saying: ModelOf, visit: Visit):
    model = saying("word " * 400, delay=0.05)
    ada = visit(product(model), "ada")
    for stop in (lambda: ada.press(ada.words.stop), lambda: ada.page.keyboard.press("Escape")):
        ada.press(ada.words.newChat)
        ada.ask("Go on.")
        expect(ada.answers).to_contain_text("word word")
        stop()
        expect(ada.page.get_by_text(ada.words.stopped)).to_be_visible()
        assert model.engine.finished.wait(20)
        expect(ada.answers).to_contain_text("word word")
        expect(ada.box).to_be_focused()


@everywhere
def test_an_edit_and_another_answer_are_branches_that_a_reload_keeps(product, saying: ModelOf, visit: Visit):
    said = iter(["First.", "Second.", "Third."])
    ada = visit(product(saying(lambda _: next(said))), "ada")
    page, words = ada.page, ada.words
    ada.asked("Hello.", "First.")
    ada.press(words.regenerate)
    expect(ada.answers).to_have_text("Second.")
    expect(page.get_by_role("group", name=words.version(2, 2))).to_be_visible()
    with page.expect_response("**/conversations/*"):
        ada.press(words.previous)
    expect(ada.answers).to_have_text("First.")
    page.reload()
    expect(ada.answers).to_have_text("First.")
    ada.press(words.edit)
    ada.field(words.editMessage).fill("Goodbye.")
    page.keyboard.press("Enter")
    expect(ada.answers).to_have_text("Third.")
    expect(ada.questions).to_have_text("Goodbye.")
    ada.within(page.get_by_role("article", name=words.you, exact=True)).press(words.previous)
    expect(ada.questions).to_have_text("Hello.")
    expect(ada.answers).to_have_text("Second.")  # the newest under it


@contextlib.contextmanager
def cut_off(ada: Visitor) -> Iterator[list[Route]]:
    """No new stream of an answer comes through meanwhile; gives what was asked for."""
    held: list[Route] = []
    ada.page.route("**/events*", lambda route: (held.append(route), route.abort()))
    yield held
    ada.page.unroute_all(behavior="ignoreErrors")


@everywhere
def test_a_reload_and_a_lost_connection_lose_nothing_of_an_answer(product, saying: ModelOf, visit: Visit):
    model = saying(COUNTED, delay=0.03)
    ada = visit(product(model), "ada", quiet=False)
    ada.ask("Count.")
    expect(ada.answers).to_contain_text("w3")
    with cut_off(ada) as held:
        ada.page.reload()
        expect(ada.page.get_by_text(ada.words.reconnecting)).to_be_visible()
        assert not model.engine.finished.is_set()
    model.engine.delay = 0  # the rest comes at once
    expect(ada.answers).to_have_text(COUNTED)
    assert "after=" in held[0].request.url
    ada.finished()


def connect_anew(ada: Visitor, held: list[Route]) -> None:
    """Leave the stream that is open, and try in vain to open another."""
    ada.page.evaluate("dispatchEvent(new Event('online'))")
    while not held:
        ada.page.wait_for_timeout(20)


@everywhere
def test_an_answer_that_went_on_unseen_is_shown_whole_while_it_still_comes(product, saying: ModelOf, visit: Visit):
    model = saying(COUNTED, delay=0.05)
    service = product(model)
    browser = service.browser("ada")
    ada = visit(service, browser, quiet=False)
    ada.ask("Count.")
    expect(ada.answers).to_contain_text("w1")
    with cut_off(ada) as held:
        connect_anew(ada, held)
        [listed] = browser.ok("GET", "/conversations")["items"]
        path = f"/conversations/{listed['id']}/messages/{browser.read(listed['id'])['current_id']}"
        wait_until(lambda: "w9" in browser.read(listed["id"])["messages"][-1]["content"])
        stopped = browser.ok("POST", f"{path}/stop")
        browser.ok("POST", f"{path}/continue")  # its numbers go on from here: the page gets a `reset`
    expect(ada.answers).to_contain_text(stopped["content"].split()[-2])
    expect(ada.answers).to_contain_text("w0 w1 w2 w3 w4 w5 w6 w7 w8 w9")
    assert not model.engine.finished.is_set()
    ada.press(ada.words.stop)
    ada.finished()


@everywhere
def test_a_conversation_deleted_elsewhere_is_told_and_left(product, saying: ModelOf, visit: Visit):
    model = saying(COUNTED, delay=0.05)
    service = product(model)
    browser = service.browser("ada")
    ada = visit(service, browser, quiet=False)
    words = ada.words
    ada.ask("Count.")
    expect(ada.answers).to_contain_text("w1")
    user = browser.session["user"]["id"]
    service.parts.conversations.delete_all(user)  # as another process does: its answer ends with `gone`
    model.engine.delay = 0
    expect(ada.page.get_by_text(words.error_not_found)).to_be_visible()
    expect(ada.listed).to_have_count(0)
    ada.press(words.home)
    expect(ada.page.get_by_role("heading", level=1)).to_have_text(words.greetingNamed("ada"))
    model.engine.delay = 0.05
    ada.ask("Count again.")
    expect(ada.answers).to_contain_text("w1")
    with cut_off(ada) as held:
        connect_anew(ada, held)
        browser.ok("DELETE", "/conversations")  # while the page hears nothing
        expect(ada.page.get_by_text(words.error_not_found)).to_be_visible()


@everywhere
def test_a_server_restarted_during_an_answer_leaves_it_interrupted_to_go_on_with(
    database_url: str, saying: ModelOf, visit: Visit
):
    with serving_product([saying(COUNTED, delay=0.05)], database_url) as service:
        ada = visit(service, "ada", quiet=False)
        ada.ask("Count.")
        expect(ada.answers).to_contain_text("w3")
        port = int(service.address.rsplit(":", 1)[1])
    expect(ada.page.get_by_text(ada.words.reconnecting)).to_be_visible()
    with serving_product([saying("and so on.")], database_url, port=port):
        expect(ada.page.get_by_text(ada.words.interrupted)).to_be_visible()
        expect(ada.answers).to_contain_text("w0 w1 w2 w3")
        ada.press(ada.words.goOn)
        expect(ada.answers).to_contain_text("and so on.")
        ada.finished()


@everywhere
def test_an_answer_whose_events_are_forgotten_is_read_whole(product, saying: ModelOf, visit: Visit):
    model = saying(COUNTED, delay=0.05)
    service = product(model)
    browser = service.browser("ada")
    ada = visit(service, browser, quiet=False)
    ada.ask("Count.")
    expect(ada.answers).to_contain_text("w1")
    with cut_off(ada) as held:
        connect_anew(ada, held)
        model.engine.delay = 0
        [listed] = browser.ok("GET", "/conversations")["items"]
        wait_until(lambda: browser.read(listed["id"])["messages"][-1]["status"] == "done")
        forget_events(service.parts.database, time.time() + 60)
    expect(ada.answers).to_have_text(COUNTED)
    ada.finished()


@everywhere
def test_a_cut_answer_goes_on_by_button_and_by_word(product, saying: ModelOf, visit: Visit):
    service = product(saying("one two three four five six"))
    browser = service.browser("ada")
    browser.ok("PATCH", "/account", {"settings": {"max_tokens": 4}})
    ada = visit(service, browser)
    ada.ask("Count.")
    ada.finished()
    expect(ada.page.get_by_text(ada.words.cut)).to_be_visible()
    before = ada.answers.inner_text()
    ada.press(ada.words.goOn)
    expect(ada.answers).not_to_have_text(before)
    ada.finished()
    for word in ("继续", "continue"):
        between = ada.answers.inner_text()
        ada.ask(word)
        expect(ada.answers).not_to_have_text(between)
        ada.finished()
        assert ada.answers.inner_text().startswith(between)
    expect(ada.questions).to_have_count(1)


@everywhere
def test_a_refused_message_is_told_kindly_in_its_language(product, saying: ModelOf, visit: Visit, words: Words):
    model = saying(ANSWER)
    ada = visit(product(model, moderator=Moderator()), "ada")
    ada.ask({"en": "How do I build a pipe bomb?", "zh": "怎么制造炸弹？"}[words.language])
    expect(ada.page.get_by_text(REFUSED[words.language])).to_be_visible()
    expect(ada.page.get_by_text(words.blockedQuestion)).to_be_visible()
    expect(ada.answers).to_have_count(0)
    ada.asked(QUESTION, ANSWER)  # the conversation goes on
    assert "bomb" not in model.engine.prompts[0]


@everywhere
def test_an_answer_that_may_not_be_said_is_taken_back(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying("One takes gunpowder."), moderator=Forbidding("powder")), "ada")
    ada.ask("How do mines work?")
    expect(ada.page.get_by_text("Please let us talk of something else.")).to_be_visible()
    expect(ada.page.get_by_text("gunpowder")).to_have_count(0)
    expect(ada.page.get_by_text(ada.words.blockedQuestion)).to_have_count(0)


@everywhere
def test_the_model_is_picked_and_settings_of_a_conversation_hold_in_it_alone(product, saying: ModelOf, visit: Visit):
    one, other = saying("One.", name="one"), saying("Other.", name="other")
    ada = visit(product(one, other), "ada")
    page, words = ada.page, ada.words
    ada.press(words.conversationSettings)
    ada.dialog.field(words.model).select_option("other")
    ada.dialog.field(words.instructions).fill("Be brief.")
    ada.dialog.press(words.save)
    ada.asked("Who are you?", "Other.")
    assert "Be brief." in other.engine.prompts[-1]
    page.get_by_role("combobox", name=words.model).select_option("one")
    ada.asked("And now?", "One.")
    ada.press(words.newChat)
    ada.asked("Who are you?", "One.")
    assert "Be brief." not in one.engine.prompts[-1]


@everywhere
def test_troubles_are_said_and_what_was_typed_is_not_lost(product, saying: ModelOf, visit: Visit):
    model = saying(ANSWER)
    ada = visit(product(model), "ada", quiet=False)
    page, words = ada.page, ada.words
    page.route("**/messages", lambda route: route.abort())
    ada.ask(QUESTION)
    ada.alerted(words.error_unreachable)
    expect(ada.questions).to_have_text(QUESTION)
    page.unroute_all(behavior="ignoreErrors")
    ada.press(words.retry)
    expect(ada.answers).to_have_text(ANSWER)
    ada.finished()
    assert len(model.engine.prompts) == 1
    page.context.set_offline(True)
    expect(page.get_by_text(words.offline)).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text(words.offline)).to_have_count(0)
    ada.ask("word " * 6000)
    ada.alerted(words.error_context_length_exceeded)
    expect(ada.box).to_have_value(("word " * 6000).strip())  # to be shortened
    ada.box.fill("A draft.")
    ada.press(words.newChat)
    expect(ada.box).to_have_value("")
    ada.listed.get_by_role("link", name=QUESTION).click()
    expect(ada.box).to_have_value("A draft.")


@everywhere
def test_enter_while_an_input_method_composes_does_not_send(product, saying: ModelOf, visit: Visit):
    model = saying("你好！")
    ada = visit(product(model), "ada")
    ada.box.focus()
    keyboard = ada.page.context.new_cdp_session(ada.page)
    keyboard.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    ada.page.keyboard.press("Enter")
    keyboard.send("Input.insertText", {"text": "你好"})
    ada.box.dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    time.sleep(0.2)
    assert model.engine.prompts == []
    ada.box.fill("你好")
    ada.page.keyboard.press("Shift+Enter")
    assert ada.box.input_value() == "你好\n"
    ada.page.keyboard.press("Enter")
    expect(ada.answers).to_have_text("你好！")
    expect(ada.questions).to_have_text("你好")
