"""The chat page in a real browser, against a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from chatwright.service.models import LoadedModel

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000  # milliseconds: a busy machine is not a broken page
expect.set_options(timeout=PATIENCE)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium (apt-get install chromium)"),
]
ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, serving: Callable[..., str]) -> Iterator[Callable[..., Page]]:
    """Open the page of models. At the end: nothing went wrong in the browser, and it asked nobody but our server."""
    troubles: list[str] = []
    contexts = []

    def open_one(*models: LoadedModel, quiet: bool = True, **options: object) -> Page:
        url = serving(*models)
        context = browser.new_context(locale=options.pop("locale", "en-GB"), **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: None if request.url.startswith(url) else troubles.append(request.url))
        if quiet:
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert troubles == []


ModelOf = Callable[..., LoadedModel]
Open = Callable[..., Page]


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answers(page: Page):
    return page.get_by_role("article", name="Assistant").locator(".text")


def questions(page: Page):
    return page.get_by_role("article", name="You")


def test_an_answer_streams_in_while_the_model_speaks(scripted: ModelOf, open_page: Open):
    model = scripted("one two three " * 12, delay=0.1)
    page = open_page(model)
    expect(page.get_by_role("banner")).to_contain_text("atlas")
    ask(page, "Count.")
    expect(answers(page)).to_contain_text("two")
    assert not model.engine.finished.is_set()
    model.engine.delay = 0
    expect(page.get_by_role("status")).to_have_text("The answer is complete.")
    expect(answers(page)).to_have_text(re.compile(r"^(one two three ?){12}$"))
    expect(page.get_by_label("Your message")).to_be_focused()


def test_a_second_question_is_asked_with_the_first(scripted: ModelOf, open_page: Open):
    model = scripted(lambda prompt: "The yen." if "currency" in prompt else ANSWER)
    page = open_page(model)
    page.get_by_role("button", name=QUESTION).click()
    expect(answers(page)).to_have_text([ANSWER])
    page.get_by_role("button", name="And its currency?").click()
    expect(answers(page)).to_have_text([ANSWER, "The yen."])
    assert model.engine.prompts[1].startswith(f"user\n{QUESTION}\nassistant\n{ANSWER}\nuser\nAnd its currency?")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_ends_the_answer_and_keeps_what_came(way: str, scripted: ModelOf, open_page: Open):
    model = scripted("word " * 240, delay=0.1)
    page = open_page(model)
    ask(page, "Go on.")
    expect(answers(page)).to_contain_text("word")
    if way == "button":
        page.get_by_role("button", name="Stop the answer").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped").first).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert model.engine.finished.wait(20)
    assert model.engine.generated < 256
    expect(answers(page)).to_contain_text("word")


def test_a_reload_keeps_the_conversation_and_new_chat_ends_it(scripted: ModelOf, open_page: Open):
    page = open_page(scripted(ANSWER))
    ask(page, QUESTION)
    expect(answers(page)).to_have_text(ANSWER)
    expect(page.get_by_role("button", name="Another answer")).to_be_visible()
    page.reload()
    expect(questions(page)).to_have_text(QUESTION)
    expect(answers(page)).to_have_text(ANSWER)
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()


def test_a_reload_in_the_middle_of_an_answer_keeps_what_came(scripted: ModelOf, open_page: Open):
    model = scripted("word " * 240, delay=0.1)
    page = open_page(model)
    ask(page, "Go on.")
    expect(answers(page)).to_contain_text("word word")
    page.reload()
    expect(answers(page)).to_contain_text("word word")
    expect(page.get_by_text("Stopped")).to_be_visible()
    assert model.engine.finished.wait(20)


def test_another_answer_takes_the_place_of_the_last(scripted: ModelOf, open_page: Open):
    said = iter(["First.", "Second."])
    model = scripted(lambda _: next(said))
    page = open_page(model)
    ask(page, "Hello.")
    expect(answers(page)).to_have_text(["First."])
    page.get_by_role("button", name="Another answer").click()
    expect(answers(page)).to_have_text(["Second."])
    assert model.engine.prompts[0] == model.engine.prompts[1]


def test_copy_takes_the_whole_answer(scripted: ModelOf, open_page: Open):
    page = open_page(scripted("**Tokyo** is\nthe capital."))
    ask(page, QUESTION)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "**Tokyo** is\nthe capital."


def test_the_temperature_is_sent_and_kept(scripted: ModelOf, open_page: Open):
    model = scripted(ANSWER)
    page = open_page(model)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("slider", name="Temperature").fill("1.2")
    page.keyboard.press("Escape")
    page.reload()
    ask(page, QUESTION)
    expect(answers(page)).to_have_text(ANSWER)
    assert model.engine.samplings[0].temperature == 1.2


def test_text_of_model_and_user_is_text_and_never_markup(scripted: ModelOf, open_page: Open):
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    page = open_page(scripted(f"{attack}\n\n```html\n{attack}\n```\n\n- one **bold** `<b>`"))
    ask(page, attack)
    expect(page.get_by_role("button", name="Another answer")).to_be_visible()
    expect(questions(page)).to_have_text(attack)
    expect(answers(page).locator("p")).to_have_text(attack)
    expect(answers(page).locator("pre")).to_have_text(attack)
    expect(answers(page).locator("li strong")).to_have_text("bold")
    expect(answers(page).locator("li code")).to_have_text("<b>")
    assert page.title() == "chatwright"
    assert page.locator("#log img, #log script").count() == 0


def test_enter_while_an_input_method_composes_does_not_send(scripted: ModelOf, open_page: Open):
    model = scripted("你好！")
    page = open_page(model)
    box = page.get_by_label("Your message")
    box.focus()
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    page.keyboard.press("Enter")
    keyboard.send("Input.insertText", {"text": "你好"})
    box.dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    time.sleep(0.2)
    assert model.engine.prompts == []
    box.fill("你好")
    page.keyboard.press("Shift+Enter")
    assert box.input_value() == "你好\n"
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("你好！")
    expect(questions(page)).to_have_text("你好")


def test_troubles_are_said_kindly_and_can_be_tried_again(scripted: ModelOf, open_page: Open):
    page = open_page(scripted(ANSWER), quiet=False)
    path = "**/v1/chat/completions"
    busy = {"error": {"message": "busy", "type": "server_error", "param": None, "code": "overloaded"}}

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json=busy)

    page.route(path, refuse)
    ask(page, QUESTION)
    expect(page.get_by_role("alert")).to_contain_text("busy with other questions")
    page.unroute(path, refuse)
    page.route(path, lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("Is chatwright still running?")
    page.unroute(path)
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text([ANSWER])
    expect(questions(page)).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    ask(page, "word " * 500)
    expect(page.get_by_role("alert")).to_contain_text("too long")
    expect(page.get_by_label("Your message")).to_have_value("word " * 499 + "word")  # given back to be shortened
    ask(page, QUESTION)
    expect(answers(page)).to_have_text([ANSWER, ANSWER])


def test_turns_that_the_model_no_longer_reads_are_marked(scripted: ModelOf, open_page: Open):
    page = open_page(scripted("word " * 15))
    for i in range(4):
        ask(page, f"Question {i}: " + "word " * 10)
        expect(answers(page)).to_have_count(i + 1)
        expect(page.get_by_role("button", name="Another answer")).to_be_visible()
    expect(page.get_by_text("the model no longer reads what is above")).to_be_visible()


def test_a_chinese_browser_gets_a_chinese_page(scripted: ModelOf, open_page: Open):
    page = open_page(scripted("你好！"), locale="zh-CN")
    expect(page.get_by_text("你想知道什么？")).to_be_visible()
    page.get_by_role("button", name="你好").click()
    expect(page.get_by_role("article", name="助手").locator(".text")).to_have_text("你好！")
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_the_page_fits_a_phone(scripted: ModelOf, open_page: Open):
    page = open_page(scripted("long" * 40), viewport={"width": 360, "height": 640})
    ask(page, "wide" * 40)
    expect(page.get_by_role("button", name="Another answer")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.querySelector('main').scrollWidth <= 360")
    expect(page.get_by_label("Your message")).to_be_in_viewport()


def test_several_models_can_be_chosen(scripted: ModelOf, open_page: Open):
    one, other = scripted("One.", name="one"), scripted("Other.", name="other")
    page = open_page(one, other)
    page.get_by_role("combobox", name="Model").select_option("other")
    ask(page, "Who are you?")
    expect(answers(page)).to_have_text("Other.")
    page.reload()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("other")


def test_a_question_asked_before_the_models_are_known_waits_for_them(scripted: ModelOf, open_page: Open):
    page = open_page(scripted(ANSWER), quiet=False)
    held: list[Route] = []
    page.route("**/v1/models", lambda route: route.continue_() if held else held.append(route))
    page.reload()
    ask(page, QUESTION)
    expect(page.get_by_role("button", name="Stop the answer")).to_be_visible()
    held[0].abort()  # and the first try fails
    expect(answers(page)).to_have_text(ANSWER)
    expect(page.get_by_role("alert")).to_have_count(0)
