"""Reading: Markdown, code, tables and formulas; copying; light and dark; a phone."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.service.product.page.conftest import ModelOf, Visit, everywhere

ANSWER = "The capital of Japan is Tokyo."
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
CODE = "def reverse(text):\n    return text[::-1]  # backwards"
PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True}


@everywhere
def test_markdown_code_tables_and_formulas_are_drawn(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying(MARKDOWN)), "ada")
    ada.ask("Show me.")
    ada.finished()
    text = ada.answers
    expect(text.locator("strong")).to_have_text("bold")
    expect(text.locator("td")).to_have_text(["1", "2"])
    expect(text.locator(".hljs-keyword").first).to_have_text("def")
    expect(text.locator(".katex-html")).to_have_count(2)
    assert text.locator(".mfrac .frac-line").first.evaluate("e => e.getBoundingClientRect().width") > 2
    expect(text.get_by_text("it costs $5 and not $10")).to_be_visible()
    expect(text.locator("img")).to_have_count(0)
    picture = text.get_by_role("link", name=f"{ada.words.image}: a picture")
    expect(picture).to_have_attribute("rel", re.compile("noopener"))
    expect(text.get_by_role("link", name="a link")).to_have_attribute("target", "_blank")
    expect(text.get_by_role("link", name="bad")).to_have_count(0)
    ada.press(ada.words.copyCode)
    ada.told(ada.words.copied)
    assert ada.page.evaluate("navigator.clipboard.readText()") == CODE


@everywhere
def test_copying_needs_no_clipboard_of_the_browser(product, saying: ModelOf, visit: Visit):
    """A page on plain http from another machine has none."""
    ada = visit(product(saying(MARKDOWN)), "ada")
    page, words = ada.page, ada.words
    page.evaluate(
        """() => {
            window.clipboardBefore = navigator.clipboard;
            Object.defineProperty(navigator, 'clipboard', { value: undefined });
        }"""
    )
    ada.ask("Show me.")
    ada.finished()
    ada.press(words.copyCode)
    ada.told(words.copied)
    assert page.evaluate("clipboardBefore.readText()") == CODE
    ada.press(words.share)
    ada.dialog.press(words.makeLink)
    link = ada.field(words.link).input_value()
    ada.dialog.press(words.copyLink)  # in a dialog nothing outside of it can be marked
    expect(ada.dialog.button(words.copied)).to_be_focused()
    assert page.evaluate("clipboardBefore.readText()") == link
    page.keyboard.press("Escape")
    page.evaluate("document.execCommand = () => false")
    ada.press(words.copyCode)
    expect(page.get_by_text(words.copyFailed)).to_be_visible()
    expect(page.locator("textarea")).to_have_count(1)  # nothing is left behind


@everywhere
def test_light_and_dark_follow_the_browser_until_one_is_chosen(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER))
    browser = service.browser("ada")
    ada = visit(service, browser)
    page, words = ada.page, ada.words
    papers = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert papers["light"] != papers["dark"]
    ada.of_account(words.settings)
    ada.field(words.theme).select_option("light")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(ada.field(words.theme)).to_have_value("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers["light"]  # the browser is dark
    assert browser.refresh()["user"]["settings"]["theme"] == "light"


@everywhere
def test_the_page_fits_a_phone(product, saying: ModelOf, visit: Visit):
    wide = "long" * 40 + "\n\n```\n" + "wide" * 60 + "\n```\n\n|" + "cell|" * 12 + "\n|" + "-|" * 12
    ada = visit(product(saying(wide)), "ada", **PHONE)
    page, words = ada.page, ada.words
    ada.ask("wide" * 40)
    ada.finished()
    expect(ada.answers.locator("th")).to_have_count(12)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.querySelector('main').scrollWidth <= 360")
    expect(ada.box).to_be_in_viewport()
    expect(ada.button(words.newChat)).to_have_count(0)
    ada.press(words.openList)
    ada.press(words.newChat)
    expect(page.get_by_role("heading", level=1)).to_be_in_viewport()
    ada.press(words.conversationSettings)
    expect(ada.dialog.button(words.save)).to_be_in_viewport()
    ada.dialog.press(words.cancel)
    for place in ("/settings", "/login"):
        ada.go(place)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


@everywhere
def test_long_answers_are_followed_until_one_scrolls_up(product, saying: ModelOf, visit: Visit):
    model = saying("\n\n".join(f"Paragraph {i}." for i in range(40)), delay=0.02)
    ada = visit(product(model), "ada", viewport={"width": 900, "height": 500})
    page, words = ada.page, ada.words
    ada.ask("Much.")
    expect(ada.answers).to_contain_text("Paragraph 9.")  # longer than the window
    expect(ada.questions).not_to_be_in_viewport()
    page.locator("main").hover()
    page.mouse.wheel(0, -2000)
    expect(ada.questions).to_be_in_viewport()
    assert not model.engine.finished.is_set()
    model.engine.delay = 0
    ada.finished()
    expect(ada.questions).to_be_in_viewport()
    ada.press(words.toEnd)
    expect(ada.answers.get_by_text("Paragraph 39.")).to_be_in_viewport()
    expect(ada.button(words.toEnd)).to_have_count(0)
