"""The page for people who see, hear or move differently: axe finds nothing serious, and the keyboard does it all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.service.product.browser import PASSWORD
from tests.service.product.page.conftest import ModelOf, Visit, everywhere
from tests.service.product.page.test_reading import MARKDOWN
from tests.service.product.page.words import Words

AXE = Path(__file__).parents[4] / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core (cd web && npm ci)")


def flawless(page: Page) -> None:
    """axe has nothing serious or critical to say of what is shown."""
    page.evaluate(AXE.read_text(encoding="utf-8") + ";undefined")
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [
        (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == []


@everywhere
def test_axe_finds_nothing_serious(product, saying: ModelOf, visit: Visit, words: Words):
    scheme = {"en": "light", "zh": "dark"}[words.language]
    service = product(saying(MARKDOWN), saying("Other.", name="other"))
    service.set(guests=True, comparisons=True, user_keys=True)
    flawless(visit(service, None, "/signup", color_scheme=scheme).page)
    browser, root = service.browser("ada"), service.admin()
    ada = visit(service, browser, color_scheme=scheme)
    page = ada.page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    flawless(page)
    ada.press(words.compareTwo)
    ada.ask("Compare them.")
    expect(page.get_by_text(words.which)).to_be_visible()
    flawless(page)
    ada.press(words.newChat)
    ada.press(words.compareTwo)
    ada.ask("Show me.")
    ada.finished()
    expect(ada.answers.locator(".katex-html")).to_have_count(2)
    ada.press(words.bad)
    expect(page.get_by_role("form", name=words.rating)).to_be_visible()
    flawless(page)
    ada.press(words.conversationSettings)
    page.get_by_text(words.advanced, exact=True).click()
    flawless(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name=words.optionsFor("Show me.")).click()
    flawless(page)
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog")).to_be_visible()
    flawless(page)
    link = browser.ok("POST", f"/conversations/{page.url.rsplit('/', 1)[1]}/share", {})["path"]
    flawless(visit(service, None, link, color_scheme=scheme).page)
    ada.go("/settings")
    page.get_by_text(words.changePassword).first.click()
    flawless(page)
    desk = visit(service, root, "/admin", color_scheme=scheme)
    expect(desk.page.get_by_text(words.tokensPerSecond)).to_be_visible()
    flawless(desk.page)
    for place in ("users", "feedback", "comparisons", "exports", "audit", "settings", "keys"):
        desk.go(f"/admin/{place}")
        expect(desk.page.get_by_role("navigation", name=words.admin)).to_be_visible()
        expect(desk.page.get_by_text(words.loading)).to_have_count(0)
        flawless(desk.page)


@everywhere
def test_the_keyboard_alone_is_enough(product, saying: ModelOf, visit: Visit):
    service = product(saying("Yes."))
    root = service.admin()
    ada = visit(service)
    page, words = ada.page, ada.words
    keys = page.keyboard

    def tab_to(target: Locator, most: int = 40) -> None:
        """Press Tab until it has the focus."""
        for _ in range(most):
            if target.evaluate("e => e === document.activeElement"):
                return
            keys.press("Tab")
        raise AssertionError(f"Tab does not come to {target}")

    tab_to(ada.button(words.signUp))
    keys.press("Enter")
    tab_to(ada.field(words.name))
    keys.type("ada")
    tab_to(ada.field(words.password))
    keys.type(PASSWORD)
    keys.press("Enter")
    expect(ada.box).to_be_focused()
    keys.type("Hello?")
    keys.press("Enter")
    ada.finished()
    expect(ada.answers).to_have_text("Yes.")
    keys.press("Shift+Tab")
    tab_to(page.get_by_role("link", name=words.skip))
    keys.press("Enter")
    expect(ada.box).to_be_focused()
    for _ in range(40):  # back from the box to the thumb
        keys.press("Shift+Tab")
        if ada.button(words.good).evaluate("e => e === document.activeElement"):
            break
    keys.press("Enter")
    form = ada.within(page.get_by_role("form", name=words.rating))
    tab_to(form.button(words.tag_clear))
    keys.press("Space")
    tab_to(form.button(words.sendRating))
    keys.press("Enter")
    expect(form.button(words.sendRating)).to_have_count(0)
    [rated] = root.ok("GET", "/admin/feedback")["items"]
    assert (rated["vote"], rated["tags"]) == ("up", ["clear"])
    ada.button(words.conversationSettings).focus()
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(ada.button(words.conversationSettings)).to_be_focused()
    menu = page.get_by_role("button", name=re.compile(f"{words.accountMenu}$"))
    menu.focus()
    keys.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    keys.press("ArrowDown")
    expect(page.get_by_role("menuitem").nth(1)).to_be_focused()
    keys.press("Escape")
    expect(menu).to_be_focused()


@everywhere
def test_shortcuts_do_what_their_list_says(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying("Yes.")), "ada")
    page, words = ada.page, ada.words
    ada.asked("Hello?", "Yes.")
    ada.of_account(words.shortcuts)
    dialog = page.get_by_role("dialog", name=words.shortcuts)
    expect(dialog.get_by_role("definition")).to_have_count(8)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_role("heading", level=1)).to_have_text(words.greetingNamed("ada"))
    page.keyboard.press("Control+Shift+S")
    expect(ada.button(words.newChat)).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("searchbox", name=words.search)).to_be_focused()
    page.keyboard.press("Shift+Escape")
    expect(ada.box).to_be_focused()
    page.keyboard.press("Control+/")
    expect(dialog).to_be_visible()


@everywhere
def test_landmarks_lead_through_the_page_and_an_answer_is_announced(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying("The capital is Tokyo.")), "ada")
    page, words = ada.page, ada.words
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("navigation", name=words.conversations)).to_have_count(1)
    expect(page.get_by_role("search")).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    ada.ask("What is the capital?")
    said = page.get_by_role("status").filter(has_text=words.finished)
    expect(said).to_have_text(f"{words.finished} The capital is Tokyo.")
    thread = page.get_by_role("log", name=words.conversation)
    expect(thread).to_have_attribute("aria-live", "off")  # word by word would be noise
    expect(thread.get_by_role("article")).to_have_count(2)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
