"""The list of conversations: titles, search, names, the archive; and links that others read."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.service.product.browser import wait_until
from tests.service.product.page.conftest import ModelOf, Visit, everywhere

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"


@everywhere
def test_a_title_is_made_by_the_model_after_the_first_answer(product, saying: ModelOf, visit: Visit):
    service = product(saying(lambda prompt: "Capitals of Asia" if "title" in prompt else ANSWER), model_titles=True)
    browser = service.browser("ada")
    ada = visit(service, browser)
    titled = ada.listed.get_by_role("link", name="Capitals of Asia")
    ada.asked(QUESTION, ANSWER)
    expect(titled).to_be_visible()
    expect(ada.page.get_by_role("heading", level=1)).to_have_text("Capitals of Asia")
    expect(ada.page).to_have_title(re.compile("Capitals of Asia"))

    def late(route: Route) -> None:
        """The server tells of the question when its answer is done."""
        route.fetch()
        wait_until(lambda: not any(one["running"] for one in browser.ok("GET", "/conversations")["items"]))
        route.continue_()  # under the same key: asked once

    ada.page.route("**/messages", late)
    ada.press(ada.words.newChat)
    ada.asked(QUESTION, ANSWER)
    expect(titled).to_have_count(2)


@everywhere
def test_conversations_are_searched_renamed_archived_and_deleted(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER))
    browser = service.browser("ada")
    for text in ("About apples", "About pears"):
        browser.ask(browser.conversation(), text)
    ada = visit(service, browser)
    page, words = ada.page, ada.words
    search = page.get_by_role("searchbox", name=words.search)
    expect(ada.listed).to_have_count(2)
    search.fill("nothing of it")
    expect(page.get_by_text(words.nothingFound)).to_be_visible()
    search.fill("apples")
    expect(ada.listed).to_have_count(1)
    page.get_by_role("button", name=words.optionsFor("About apples")).click()
    expect(page.get_by_role("menuitem", name=words.rename)).to_be_focused()
    page.keyboard.press("Enter")
    ada.field(words.newTitle).fill("Orchard")
    page.keyboard.press("Enter")
    search.fill("orch")
    expect(ada.listed).to_contain_text("Orchard")
    page.keyboard.press("Enter")  # opens the first that was found
    expect(ada.questions).to_have_text("About apples")
    search.fill("")
    ada.choose(words.optionsFor("Orchard"), words.archive)
    expect(ada.listed).to_have_text([re.compile("About pears")])
    ada.press(words.archived)
    ada.choose(words.optionsFor("Orchard"), words.unarchive)
    expect(page.get_by_text(words.nothingArchived)).to_be_visible()
    ada.press(words.backToList)
    ada.choose(words.optionsFor("Orchard"), words.remove)
    dialog = page.get_by_role("dialog", name=words.deleteTitle)
    expect(dialog).to_contain_text(words.deleteText("Orchard"))
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    ada.choose(words.optionsFor("Orchard"), words.remove)
    ada.dialog.press(words.remove)
    expect(page.get_by_role("heading", level=1)).to_have_text(words.greetingNamed("ada"))
    assert [one["title"] for one in browser.ok("GET", "/conversations")["items"]] == ["About pears"]


@everywhere
def test_an_answer_that_comes_elsewhere_is_seen_in_the_list_until_its_end(product, saying: ModelOf, visit: Visit):
    model = saying(ANSWER, delay=0.2)
    ada = visit(product(model), "ada")
    words = ada.words
    ada.ask(QUESTION)
    expect(ada.answers).to_contain_text("The")
    ada.press(words.newChat)
    live = ada.listed.get_by_role("img", name=words.answering)
    expect(live).to_be_visible()
    assert not model.engine.finished.is_set()
    model.engine.delay = 0
    expect(live).to_have_count(0)
    assert model.engine.finished.is_set()
    ada.listed.get_by_role("link", name=QUESTION).click()
    expect(ada.answers).to_have_text(ANSWER)


@everywhere
def test_what_was_done_in_another_tab_is_there_when_one_comes_back(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER, delay=0.03))
    browser = service.browser("ada")
    one, other = visit(service, browser), visit(service, browser, quiet=False)
    words = one.words
    expect(other.page.get_by_text(words.noConversations)).to_be_visible()
    one.asked(QUESTION, ANSWER)
    other.come_back()
    other.listed.get_by_role("link", name=QUESTION).click()
    expect(other.answers).to_have_text(ANSWER)
    one.ask("And that of France?")
    expect(one.answers.nth(1)).to_contain_text("The")
    other.come_back()  # while the answer comes
    expect(other.questions).to_have_text([QUESTION, "And that of France?"])
    expect(other.answers).to_have_text([ANSWER, ANSWER])
    one.choose(words.optionsFor(QUESTION), words.remove)
    one.dialog.press(words.remove)
    expect(one.listed).to_have_count(0)
    other.come_back()
    expect(other.page.get_by_text(words.error_not_found)).to_be_visible()
    expect(other.listed).to_have_count(0)


@everywhere
def test_a_shared_link_is_read_by_anyone_until_it_is_removed(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER))
    ada = visit(service, "ada")
    words = ada.words
    ada.asked(QUESTION, ANSWER)
    ada.press(words.share)
    ada.press(words.makeLink)
    link = ada.field(words.link).input_value()
    assert link.startswith(f"{service.address}/share/")
    reader = visit(service, None, link.removeprefix(service.address), quiet=False)
    expect(reader.answers).to_have_text(ANSWER)
    expect(reader.page.get_by_text("ada")).to_have_count(0)
    expect(reader.box).to_have_count(0)
    expect(reader.button(words.regenerate)).to_have_count(0)
    ada.dialog.press(words.removeLink)
    expect(ada.button(words.makeLink)).to_be_visible()
    reader.page.reload()
    expect(reader.page.get_by_text(words.sharedMissing)).to_be_visible()


@everywhere
def test_the_list_is_folded_away_and_stays_so(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying(ANSWER)), "ada")
    page, words = ada.page, ada.words
    ada.press(words.closeList)
    expect(ada.button(words.newChat)).to_have_count(0)
    page.reload()
    expect(ada.box).to_be_visible()
    expect(ada.button(words.newChat)).to_have_count(0)
    ada.press(words.openList)
    expect(ada.button(words.newChat)).to_be_visible()
