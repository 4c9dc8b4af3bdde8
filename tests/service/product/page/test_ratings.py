"""What people say of answers: thumbs, comparisons, and whether any of it may be used."""

from __future__ import annotations

import json
import threading

from playwright.sync_api import expect

from tests.service.product.page.conftest import ModelOf, Visit, Visitor, everywhere

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"


def rate(ada: Visitor, thumb: str, tag: str, text: str) -> None:
    """Press a thumb, a tag, say more, and send."""
    ada.press(thumb)
    form = ada.within(ada.page.get_by_role("form", name=ada.words.rating))
    form.press(tag)
    form.field(ada.words.comment).fill(text)
    form.press(ada.words.sendRating)
    expect(ada.page.get_by_role("form", name=ada.words.rating)).to_have_count(0)


@everywhere
def test_each_version_is_rated_once_and_the_rating_can_be_changed(product, saying: ModelOf, visit: Visit):
    said = iter(["First.", "Second."])
    service = product(saying(lambda _: next(said)))
    root = service.admin()
    ada = visit(service, "ada")
    page, words = ada.page, ada.words

    def ratings() -> list[tuple[str, str, list[str], str]]:
        items = root.ok("GET", "/admin/feedback")["items"]
        return sorted((one["answer"], one["vote"], one["tags"], one["text"]) for one in items)

    ada.asked("Hello.", "First.")
    rate(ada, words.bad, words.tag_too_short, "Say more.")
    expect(page.get_by_text(words.thanks)).to_be_visible()
    ada.press(words.regenerate)
    expect(ada.answers).to_have_text("Second.")
    ada.finished()
    expect(ada.button(words.bad)).to_have_attribute("aria-pressed", "false")  # this version has no rating yet
    rate(ada, words.good, words.tag_clear, "")
    assert ratings() == [("First.", "down", ["too_short"], "Say more."), ("Second.", "up", ["clear"], "")]
    with page.expect_response("**/conversations/*"):
        ada.press(words.previous)
    expect(ada.button(words.bad)).to_have_attribute("aria-pressed", "true")
    page.reload()
    rate(ada, words.good, words.tag_helpful, "After all.")  # changed: still one rating of this version
    expect(ada.button(words.bad)).to_have_attribute("aria-pressed", "false")
    assert ratings() == [("First.", "up", ["helpful"], "After all."), ("Second.", "up", ["clear"], "")]
    ada.press(words.good)
    ada.press(words.withdraw)
    expect(ada.button(words.good)).to_have_attribute("aria-pressed", "false")
    assert ratings() == [("Second.", "up", ["clear"], "")]


@everywhere
def test_two_answers_are_compared_with_a_reason_and_the_choice_can_be_changed(product, saying: ModelOf, visit: Visit):
    said = iter(["Alpha.", "Beta."])
    lock = threading.Lock()

    def script(_: str) -> str:
        with lock:
            return next(said)

    service = product(saying(script))
    root = service.admin()
    words = visit(service, "bob").words
    expect(visit(service, "carol").button(words.compareTwo)).to_have_count(0)  # as it comes
    service.set(comparisons=True)
    ada = visit(service, "ada")
    page = ada.page
    ada.press(words.compareTwo)
    ada.ask("Which?")
    expect(page.get_by_text(words.which)).to_be_visible()
    expect(page.get_by_text("atlas")).to_have_count(1)  # the header's: whose an answer is, is not told
    second = page.get_by_role("article", name=words.answerB).locator(".said").inner_text()
    ada.field(words.whyPrefer).fill("It is shorter.")
    ada.press(words.preferB)
    expect(page.get_by_text(words.preferred(words.answerB))).to_contain_text("It is shorter.")
    expect(ada.answers).to_have_text(second)
    ada.press(words.changeChoice)
    for choice, told, kept in (
        (words.tie, words.tie, "tie"),
        (words.bothBad, words.bothBad, "both_bad"),
        (words.preferA, words.answerA, "a"),
    ):
        ada.press(choice)
        expect(page.get_by_text(words.preferred(told))).to_contain_text("It is shorter.")
        [one] = root.ok("GET", "/admin/comparisons")["items"]
        assert (one["choice"], one["text"]) == (kept, "It is shorter.")
    expect(ada.answers.first).to_have_text({"Alpha.": "Beta.", "Beta.": "Alpha."}[second])
    page.reload()
    expect(page.get_by_text(words.preferred(words.answerA))).to_be_visible()
    assert root.ok("GET", "/admin/feedback")["counts"] == {"up": 0, "down": 0}  # no thumb comes of a comparison


@everywhere
def test_consent_is_seen_switched_and_obeyed(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER))
    browser, root = service.browser("ada"), service.admin()
    ada = visit(service, browser, "/settings")
    words = ada.words
    account = ada.switch(words.consentAccount)
    here = ada.switch(words.consentConversation)

    def exported() -> list[str]:
        lines = root.call("GET", "/admin/export/conversations").text.splitlines()
        return [json.loads(line)["messages"][0]["content"] for line in lines]

    expect(account).not_to_be_checked()
    account.click()
    expect(account).to_be_checked()
    ada.press(words.newChat)
    expect(here).to_be_checked()
    ada.asked("May be used.", ANSWER)
    ada.press(words.newChat)
    here.click()
    ada.asked("May not be used.", ANSWER)
    expect(here).not_to_be_checked()
    assert exported() == ["May be used."]
    ada.listed.get_by_role("link", name="May be used.").click()
    expect(here).to_be_checked()
    here.click()
    expect(here).not_to_be_checked()
    assert exported() == []
    assert browser.refresh()["user"]["consent"] is True
