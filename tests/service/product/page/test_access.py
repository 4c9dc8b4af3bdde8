"""The page for people who see, hear or move differently: axe finds nothing serious, and the keyboard does it all."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.service.product.page.conftest import ModelOf, Open, answers, ask, finished
from tests.service.product.page.test_stories import MARKDOWN

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, product, saying: ModelOf, open_page: Open):
    service = product(saying(MARKDOWN), saying("Other.", name="other"))
    service.set(guests=True, comparisons=True, user_keys=True)
    flawless(open_page(service, None, "/signup", color_scheme=scheme))
    ada, root = service.browser("ada"), service.admin()
    page = open_page(service, ada, color_scheme=scheme)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    flawless(page)
    ask(page, "Show me.")
    finished(page)
    expect(answers(page).locator(".katex-html")).to_have_count(2)
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("form", name="Your rating")).to_be_visible()
    flawless(page)
    page.get_by_role("button", name="Conversation settings").click()
    page.get_by_text("Advanced").click()
    flawless(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Options for “Show me.”").click()
    flawless(page)
    page.goto("/settings")
    page.get_by_text("Change password").first.click()
    flawless(page)
    desk = open_page(service, root, "/admin", color_scheme=scheme)
    expect(desk.get_by_text("Tokens per second")).to_be_visible()
    flawless(desk)
    for place in ("users", "feedback", "exports", "audit", "settings", "keys"):
        desk.goto(f"/admin/{place}")
        expect(desk.get_by_text("Loading")).to_have_count(0)
        flawless(desk)


def test_the_keyboard_alone_is_enough(product, saying: ModelOf, open_page: Open):
    service = product(saying("Yes."))
    page = open_page(service, service.browser("ada"))
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("Hello?")
    page.keyboard.press("Enter")
    finished(page)
    page.get_by_role("link", name="Skip to the message box").press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_role("button", name="Conversation settings").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Conversation settings")).to_be_focused()
    menu = page.get_by_role("button", name="Account")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()


def test_an_answer_is_announced_when_it_is_complete(product, saying: ModelOf, open_page: Open):
    service = product(saying("The capital is Tokyo."))
    page = open_page(service, service.browser("ada"))
    ask(page, "What is the capital?")
    said = page.get_by_role("status").filter(has_text="The answer is complete.")
    expect(said).to_have_text("The answer is complete. The capital is Tokyo.")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
