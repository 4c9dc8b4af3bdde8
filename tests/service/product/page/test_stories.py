"""What people do on the page, step by step, in a real browser."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest
from playwright.sync_api import Route, expect

from tests.service.product.browser import PASSWORD, Service
from tests.service.product.page.conftest import ModelOf, Open, answers, ask, finished, questions
from tests.service.product.parts import Forbidding

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"
ENGLISH = {
    "locale": "en-GB",
    "name": "Name",
    "password": "Password",
    "sign up": "Sign up",
    "log in": "Log in",
    "box": "Your message",
    "assistant": "Assistant",
    "account": "Account",
    "log out": "Log out",
    "wrong": "do not go together",
}
CHINESE = {
    "locale": "zh-CN",
    "name": "用户名",
    "password": "密码",
    "sign up": "注册",
    "log in": "登录",
    "box": "你的消息",
    "assistant": "助手",
    "account": "账号",
    "log out": "退出登录",
    "wrong": "用户名或密码不正确",
}


@pytest.mark.parametrize(
    ("database_url", "words"),
    [("sqlite", ENGLISH), ("postgresql", CHINESE)],
    indirect=["database_url"],
    ids=["English, SQLite", "Chinese, PostgreSQL"],
)
def test_sign_up_ask_reload_log_out_and_in(product, saying: ModelOf, open_page: Open, words: dict[str, str]):
    page = open_page(product(saying(ANSWER)), locale=words["locale"], quiet=False)
    page.get_by_role("button", name=words["sign up"]).click()
    page.get_by_label(words["name"], exact=True).fill("李雷.ada")
    page.get_by_label(words["password"], exact=True).fill(PASSWORD)
    page.get_by_role("button", name=words["sign up"]).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("李雷.ada")
    assert page.locator("html").get_attribute("lang") == {"en-GB": "en", "zh-CN": "zh-CN"}[words["locale"]]
    ask(page, QUESTION, words["box"])
    expect(answers(page, words["assistant"])).to_have_text(ANSWER)
    expect(page).to_have_url(re.compile("/c/"))
    page.reload()
    expect(answers(page, words["assistant"])).to_have_text(ANSWER)
    page.get_by_role("button", name=words["account"]).click()
    page.get_by_role("menuitem", name=words["log out"]).click()
    page.get_by_label(words["name"], exact=True).fill("李雷.ada")
    page.get_by_label(words["password"], exact=True).fill("not that one")
    page.get_by_role("button", name=words["log in"]).click()
    expect(page.get_by_role("alert")).to_contain_text(words["wrong"])
    page.get_by_label(words["password"], exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("navigation").get_by_role("link", name=QUESTION).click()
    expect(answers(page, words["assistant"])).to_have_text(ANSWER)


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_frees_the_engine_and_keeps_what_came(way: str, product, saying: ModelOf, open_page: Open):
    model = saying("word " * 400, delay=0.05)
    service = product(model)
    page = open_page(service, service.browser("ada"))
    ask(page, "Go on.")
    expect(answers(page)).to_contain_text("word word")
    if way == "button":
        page.get_by_role("button", name="Stop the answer").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped")).to_be_visible()
    assert model.engine.finished.wait(20)
    expect(answers(page)).to_contain_text("word word")
    expect(page.get_by_label("Your message")).to_be_focused()


def test_an_edit_and_another_answer_are_branches_that_a_reload_keeps(product, saying: ModelOf, open_page: Open):
    said = iter(["First.", "Second.", "Third."])
    service = product(saying(lambda _: next(said)))
    page = open_page(service, service.browser("ada"))
    ask(page, "Hello.")
    expect(answers(page)).to_have_text("First.")
    page.get_by_role("button", name="Another answer").click()
    expect(answers(page)).to_have_text("Second.")
    expect(page.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_have_text("First.")
    page.reload()
    expect(answers(page)).to_have_text("First.")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("Goodbye.")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("Third.")
    expect(questions(page)).to_have_text("Goodbye.")
    page.get_by_role("article", name="You").get_by_role("button", name="Previous version").click()
    expect(questions(page)).to_have_text("Hello.")
    expect(answers(page)).to_have_text("Second.")  # the newest under it


def test_a_reload_and_a_lost_connection_lose_nothing_of_an_answer(product, saying: ModelOf, open_page: Open):
    words = " ".join(f"w{i}" for i in range(50))
    model = saying(words, delay=0.03)
    service = product(model)
    page = open_page(service, service.browser("ada"), quiet=False)
    ask(page, "Count.")
    expect(answers(page)).to_contain_text("w3")
    held: list[Route] = []
    page.route("**/events*", lambda route: (held.append(route), route.abort()))
    page.reload()
    expect(page.get_by_text("Connecting again")).to_be_visible()
    assert not model.engine.finished.is_set()
    page.unroute_all(behavior="ignoreErrors")
    expect(answers(page)).to_have_text(words)
    assert "after=" in held[0].request.url
    finished(page)


def test_a_cut_answer_goes_on_by_button_and_by_word(product, saying: ModelOf, open_page: Open):
    service = product(saying(lambda prompt: "one two three four five six"))
    ada = service.browser("ada")
    ada.ok("PATCH", "/account", {"settings": {"max_tokens": 4}})
    page = open_page(service, ada)
    ask(page, "Count.")
    finished(page)
    expect(page.get_by_text("Cut off")).to_be_visible()
    before = answers(page).inner_text()
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).not_to_have_text(before)
    finished(page)
    between = answers(page).inner_text()
    ask(page, "继续")
    expect(answers(page)).not_to_have_text(between)
    finished(page)
    assert answers(page).inner_text().startswith(between)
    expect(questions(page)).to_have_count(1)


MARKDOWN = """Here is **bold** and $E = mc^2$; it costs $5 and not $10.

| a | b |
|---|---|
| 1 | 2 |

```python
def reverse(text):
    return text[::-1]  # backwards
```

$$
\\int_0^1 x^2 \\, dx = \\frac{1}{3}
$$

![a picture](https://example.org/x.png) [a link](https://example.org/) [bad](javascript:alert(1))
"""


def test_markdown_code_tables_and_formulas_are_drawn(product, saying: ModelOf, open_page: Open):
    service = product(saying(MARKDOWN))
    page = open_page(service, service.browser("ada"))
    ask(page, "Show me.")
    finished(page)
    text = answers(page)
    expect(text.locator("strong")).to_have_text("bold")
    expect(text.locator("td")).to_have_text(["1", "2"])
    expect(text.locator(".hljs-keyword").first).to_have_text("def")
    expect(text.locator(".katex-html")).to_have_count(2)
    assert text.locator(".mfrac .frac-line").first.evaluate("e => e.getBoundingClientRect().width") > 2
    expect(text.get_by_text("it costs $5 and not $10")).to_be_visible()
    expect(text.locator("img")).to_have_count(0)
    expect(text.get_by_role("link", name="Image: a picture")).to_have_attribute("rel", re.compile("noopener"))
    expect(text.get_by_role("link", name="a link")).to_have_attribute("target", "_blank")
    expect(text.get_by_role("link", name="bad")).to_have_count(0)
    page.get_by_role("button", name="Copy the code").click()
    expect(page.get_by_role("status").filter(has_text="Copied")).to_be_attached()
    code = "def reverse(text):\n    return text[::-1]  # backwards"
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_a_rating_says_why_can_be_changed_and_reaches_the_operator(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    page = open_page(service, service.browser("ada"))
    ask(page, QUESTION)
    finished(page)
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_role("button", name="Too short").click()
    page.get_by_label("Tell us more").fill("Say it in a sentence.")
    page.get_by_role("form", name="Your rating").get_by_role("button", name="Send").click()
    expect(page.get_by_role("form", name="Your rating")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    root = service.admin()
    desk = open_page(service, root, "/admin/feedback")
    row = desk.get_by_role("row").filter(has_text="Say it in a sentence.")
    expect(row).to_contain_text("Too short")
    desk.get_by_label("Rating").select_option("up")
    expect(desk.get_by_text("Nothing yet.")).to_be_visible()
    desk.get_by_label("Rating").select_option("down")
    row.get_by_role("link", name="Open the conversation").click()
    expect(desk.locator(".marked")).to_contain_text(ANSWER)
    expect(desk.get_by_role("button", name="Another answer")).to_have_count(0)
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "false")
    assert root.ok("GET", "/admin/feedback")["counts"] == {"up": 1, "down": 0}


def test_two_answers_are_compared_and_the_choice_can_be_changed(product, saying: ModelOf, open_page: Open):
    said = iter(["Alpha.", "Beta.", "Next."])
    lock = threading.Lock()

    def script(_: str) -> str:
        with lock:
            return next(said)

    service = product(saying(script))
    service.set(comparisons=True)
    page = open_page(service, service.browser("ada"))
    page.get_by_role("button", name="Compare two answers").click()
    ask(page, "Which?")
    expect(page.get_by_text("Which do you prefer?")).to_be_visible()
    second = page.get_by_role("article", name="Answer B").locator(".said").inner_text()
    page.get_by_role("button", name="B is better").click()
    expect(page.get_by_text("Your choice: Answer B")).to_be_visible()
    expect(answers(page)).to_have_text(second)
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_role("button", name="Both are bad").click()
    expect(page.get_by_text("Your choice: Both are bad")).to_be_visible()
    root = service.admin()
    assert [one["choice"] for one in root.ok("GET", "/admin/comparisons")["items"]] == ["both_bad"]
    expect(open_page(service, root, "/admin/comparisons").get_by_role("row").nth(1)).to_contain_text("Both are bad")


def test_consent_is_seen_and_switched_for_account_and_conversation(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    ada = service.browser("ada")
    page = open_page(service, ada, "/settings")
    account = page.get_by_role("switch", name="My conversations may be used")
    expect(account).not_to_be_checked()
    account.click()
    expect(account).to_be_checked()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("switch", name="This conversation may")).to_be_checked()
    ask(page, QUESTION)
    finished(page)
    page.get_by_role("switch", name="This conversation may").click()
    expect(page.get_by_role("switch", name="This conversation may")).not_to_be_checked()
    [kept] = ada.ok("GET", "/conversations")["items"]
    assert ada.read(kept["id"])["consent"] is False
    assert ada.refresh()["user"]["consent"] is True


def test_conversations_are_searched_renamed_archived_and_deleted(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    ada = service.browser("ada")
    for text in ("About apples", "About pears"):
        ada.ask(ada.conversation(), text)
    page = open_page(service, ada)
    rows = page.get_by_role("navigation").get_by_role("listitem")
    expect(rows).to_have_count(2)
    page.get_by_role("searchbox", name="Search conversations").fill("apples")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Options for “About apples”").click()
    expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_label("New title").fill("Orchard")
    page.keyboard.press("Enter")
    page.get_by_role("searchbox", name="Search conversations").fill("")
    expect(rows.filter(has_text="Orchard")).to_have_count(1)
    page.get_by_role("button", name="Options for “Orchard”").click()
    page.get_by_role("menuitem", name="Archive").click()
    expect(rows).to_have_text([re.compile("About pears")])
    page.get_by_role("button", name="Archived").click()
    expect(rows).to_have_text([re.compile("Orchard")])
    page.get_by_role("link", name="Orchard").click()
    expect(answers(page)).to_have_text(ANSWER)
    page.get_by_role("button", name="Options for “Orchard”").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this conversation?")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Options for “Orchard”").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="What would you like to know, ada?")).to_be_visible()
    assert [one["title"] for one in ada.ok("GET", "/conversations")["items"]] == ["About pears"]


def test_a_shared_link_is_read_by_anyone_until_it_is_removed(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    page = open_page(service, service.browser("ada"))
    ask(page, QUESTION)
    finished(page)
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_label("Link", exact=True).input_value()
    other = open_page(service, None, link, quiet=False)
    expect(answers(other)).to_have_text(ANSWER)
    expect(other.get_by_text("ada")).to_have_count(0)
    page.get_by_role("button", name="Remove the link").click()
    expect(page.get_by_role("button", name="Make a link")).to_be_visible()
    other.reload()
    expect(other.get_by_text("This link does not work")).to_be_visible()


def test_settings_reach_the_model_and_the_page(product, saying: ModelOf, open_page: Open):
    model = saying(ANSWER)
    service = product(model)
    page = open_page(service, service.browser("ada"), "/settings")
    page.get_by_label("Custom instructions").fill("Answer like a pirate.")
    page.get_by_text("Advanced").click()
    page.get_by_role("slider", name="Temperature").fill("1.2")
    page.get_by_label("Longest answer").fill("77")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_label("Appearance").select_option("dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", name="设置")).to_be_visible()
    page.reload()
    expect(page.get_by_label("外观")).to_have_value("dark")
    page.get_by_role("button", name="新对话").click()
    ask(page, QUESTION, "你的消息")
    expect(answers(page, "助手")).to_have_text(ANSWER)
    assert "Answer like a pirate." in model.engine.prompts[-1]
    assert (model.engine.samplings[-1].temperature, model.engine.samplings[-1].max_tokens) == (1.2, 77)


def test_settings_of_a_conversation_hold_in_it_alone(product, saying: ModelOf, open_page: Open):
    one, other = saying("One.", name="one"), saying("Other.", name="other")
    service = product(one, other)
    page = open_page(service, service.browser("ada"))
    page.get_by_role("button", name="Conversation settings").click()
    page.get_by_role("dialog").get_by_label("Model", exact=True).select_option("other")
    page.get_by_label("Custom instructions").fill("Be brief.")
    page.get_by_role("button", name="Save").click()
    ask(page, "Who are you?")
    expect(answers(page)).to_have_text("Other.")
    assert "Be brief." in other.engine.prompts[-1]
    finished(page)
    page.get_by_role("combobox", name="Model").select_option("one")
    ask(page, "And now?")
    expect(answers(page)).to_have_text(["Other.", "One."])
    finished(page)
    page.get_by_role("button", name="New chat").click()
    ask(page, "Who are you?")
    expect(answers(page)).to_have_text("One.")
    assert "Be brief." not in one.engine.prompts[-1]


def test_the_password_is_changed_data_taken_out_and_the_account_deleted(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    ada = service.browser("ada")
    ada.ask(ada.conversation(), QUESTION)
    page = open_page(service, ada, "/settings", quiet=False)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download my data").click()
    assert QUESTION in download.value.path().read_text(encoding="utf-8")
    page.get_by_text("Change password").first.click()
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password").fill("another long password")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_text("The password is changed.")).to_be_visible()
    assert ada.refresh()["user"] is None
    page.get_by_role("button", name="Delete account").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Password", exact=True).fill(PASSWORD)
    dialog.get_by_role("button", name="Delete account").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not right")
    dialog.get_by_label("Password", exact=True).fill("another long password")
    dialog.get_by_role("button", name="Delete account").click()
    expect(page.get_by_role("heading", name="Welcome back")).to_be_visible()
    assert ada.refused("POST", "/login", {"name": "ada", "password": "another long password"})[0] == 401


def test_a_guest_tries_and_keeps_the_conversation_by_signing_up(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    assert open_page(service).get_by_role("button", name="Try it without").count() == 0
    service.set(guests=True)
    page = open_page(service)
    page.get_by_role("button", name="Try it without an account").click()
    ask(page, QUESTION)
    finished(page)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_label("Name", exact=True).fill("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_role("navigation").get_by_role("link", name=QUESTION).click()
    expect(answers(page)).to_have_text(ANSWER)


def test_enter_while_an_input_method_composes_does_not_send(product, saying: ModelOf, open_page: Open):
    model = saying("你好！")
    service = product(model)
    page = open_page(service, service.browser("ada"))
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


def test_the_page_fits_a_phone(product, saying: ModelOf, open_page: Open):
    service = product(saying("long" * 40 + "\n\n```\n" + "wide" * 60 + "\n```"))
    page = open_page(service, service.browser("ada"), viewport={"width": 360, "height": 640}, has_touch=True)
    ask(page, "wide" * 40)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.querySelector('main').scrollWidth <= 360")
    expect(page.get_by_label("Your message")).to_be_in_viewport()
    expect(page.get_by_role("button", name="New chat")).not_to_be_in_viewport()
    page.get_by_role("button", name="Open the list of conversations").click()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", level=1)).to_be_in_viewport()


def test_a_refused_message_is_told_kindly(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER), moderator=Forbidding("bomb"))
    page = open_page(service, service.browser("ada"))
    ask(page, "Tell me of a bomb.")
    expect(page.get_by_text("Please let us talk of something else.")).to_be_visible()
    expect(page.get_by_text("This message was not answered.")).to_be_visible()


def test_troubles_are_said_and_what_was_typed_is_not_lost(product, saying: ModelOf, open_page: Open):
    model = saying(ANSWER)
    service = product(model)
    page = open_page(service, service.browser("ada"), quiet=False)
    page.route("**/messages", lambda route: route.abort())
    ask(page, QUESTION)
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(questions(page)).to_have_text(QUESTION)
    page.unroute_all(behavior="ignoreErrors")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text(ANSWER)
    finished(page)
    assert len(model.engine.prompts) == 1
    page.context.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text("You are offline.")).to_have_count(0)
    ask(page, "word " * 6000)
    expect(page.get_by_role("alert")).to_contain_text("too long")
    expect(page.get_by_label("Your message")).to_have_value(("word " * 6000).strip())  # to be shortened


def test_an_operator_sees_the_load_and_governs_users_settings_and_keys(product, saying: ModelOf, open_page: Open):
    service = product(saying(ANSWER))
    ada, root = service.browser("ada"), service.admin()
    ada.ask(ada.conversation(), QUESTION)
    page = open_page(service, root, quiet=False)
    page.get_by_role("button", name="Account").click()
    page.get_by_role("menuitem", name="Administration").click()
    expect(page.get_by_text("Tokens per second")).to_be_visible()
    expect(page.get_by_role("region", name="Model atlas")).to_contain_text("4096")
    tabs = page.get_by_role("navigation", name="Administration")
    tabs.get_by_role("link", name="Users").click()
    page.get_by_role("row").filter(has_text="ada").get_by_role("button").click()
    page.get_by_role("menuitem", name="Disable").click()
    expect(page.get_by_role("row").filter(has_text="ada")).to_contain_text("Disabled")
    assert ada.refresh()["user"] is None
    tabs.get_by_role("link", name="Server settings").click()
    page.get_by_role("switch", name="Guests may chat").click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_be_attached()
    assert root.ok("GET", "/admin/settings")["guests"] is True
    tabs.get_by_role("link", name="API keys").click()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name of the key").fill("laptop")
    page.get_by_role("button", name="Create").click()
    secret = page.get_by_label("Key", exact=True)
    expect(secret).to_have_value(re.compile("^cw-"))
    page.reload()
    expect(page.get_by_text("laptop")).to_be_visible()
    expect(secret).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("Revoked")).to_be_visible()
    tabs.get_by_role("link", name="Exports").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download JSONL: Conversations").click()
    assert [json.loads(line) for line in download.value.path().read_text().splitlines()] == []  # ada did not consent
    tabs.get_by_role("link", name="Audit log").click()
    for action in ("user_changed", "settings_changed", "key_created", "key_revoked", "exported"):
        expect(page.get_by_role("cell", name=action).first).to_be_visible()


def test_who_is_no_operator_sees_no_administration(service: Service, open_page: Open):
    page = open_page(service, service.browser("ada"), "/admin/users")
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
