"""Text that wants to be more than text, wherever the page shows text: nothing of it runs, and nobody else is asked."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.service.product.page.conftest import ModelOf, Visit

MARK = "window.owned=1"
FOREIGN = "https://evil.example"
CORPUS = [
    f"<script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f"<img src='{FOREIGN}/a.png'>",
    f"<svg onload={MARK}><animate onbegin={MARK} attributeName=x dur=1s></svg>",
    f"<svg><a xlink:href='javascript:{MARK}'><text y=20>x</text></a></svg>",
    f"<iframe srcdoc='<script>parent.owned=1</script>'></iframe><iframe src={FOREIGN}></iframe>",
    f"<math><mtext><table><mglyph><style><img src onerror={MARK}></style></mglyph></table></mtext></math>",
    f"<link rel=stylesheet href={FOREIGN}/a.css><style>@import '{FOREIGN}/b.css';</style>",
    f"<form action={FOREIGN}><input autofocus onfocus={MARK}><button>x</button></form>",
    f"<meta http-equiv=refresh content='0;url={FOREIGN}'><base href={FOREIGN}/>",
    f"<details open ontoggle={MARK}>x</details><object data=javascript:{MARK}></object>",
    f"[link](javascript:{MARK})",
    f"[link](JaVaScRiPt&colon;{MARK})",
    f"[link](\x01javascript:{MARK})",
    f"[link](data:text/html,<script>{MARK}</script>)",
    f"[link](vbscript:{MARK})",
    f"[link][r]\n\n[r]: javascript:{MARK}",
    f"<javascript:{MARK}>",
    f"![picture]({FOREIGN}/pixel.png)",
    f"![picture](javascript:{MARK})",
    f"![x]({FOREIGN}/p.png){{onerror={MARK}}}",
    f"[![picture]({FOREIGN}/pixel.png)](javascript:{MARK})",
    f'[x](https://ok.example "onmouseover={MARK}")',
    f"$\\href{{javascript:{MARK}}}{{x}}$",
    f"$\\url{{javascript:{MARK}}}$",
    f"$\\includegraphics{{{FOREIGN}/tex.png}}$",
    f"$\\htmlData{{x=y}}{{z}} \\htmlClass{{menu}}{{z}} \\htmlStyle{{background:url({FOREIGN}/s)}}{{z}}$",
    f"$$\n\\text{{<img src=x onerror={MARK}>}}\n$$",
    "$\\def\\a{\\a\\a}\\a$",
    "$\\rule{9999em}{9999em}$",
    f"```html\n````\n</code></pre><script>{MARK}</script>\n```\n```\n<img src=x onerror={MARK}>",
    f'```"><img src=x onerror={MARK}>\ncode\n```',
    f"```mermaid\ngraph TD; A[<img src=x onerror={MARK}>]\n```",
    f"| <img src=x onerror={MARK}> | b |\n|---|---|\n| <script>{MARK}</script> | [x](javascript:{MARK}) |",
    f"~~<b onclick={MARK}>~~ `<script>{MARK}</script>` text[^1]\n\n[^1]: <img src=x onerror={MARK}>",
    "\u202e\u2066reversed\u2069 \x00\x1b[31m \ufeff",
    f"http://ok.example/\"onmouseover={MARK}// www.ok.example'onclick={MARK}",
    "{{constructor.constructor('window.owned=1')()}} ${window.owned=1}",
]


def unharmed(page: Page) -> None:
    """Nothing has run, and nothing is there that could, also after every link was touched."""
    assert page.evaluate("window.owned") is None
    strays = page.evaluate(
        """() => [...document.querySelectorAll('#root *')].filter((element) =>
            ['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'LINK', 'STYLE', 'META', 'BASE'].includes(element.tagName) ||
            [...element.attributes].some((a) => a.name.startsWith('on') && a.name !== 'on') ||
            /^(?!https?:|mailto:|#|\\/)/i.test(element.getAttribute('href') ?? '/') ||
            (element.tagName === 'IMG' && element.getAttribute('src') !== '/icon.svg'),
        ).map((element) => element.outerHTML.slice(0, 200))"""
    )
    assert strays == []


@pytest.mark.parametrize("piece", [1, 3], ids=["a token at a time", "three tokens at a time"])
def test_what_a_model_says_is_never_markup(piece: int, product, saying: ModelOf, visit: Visit):
    model = saying("\n\n".join(CORPUS), delay=0.0002 * piece)
    ada = visit(product(model), "ada")
    ada.ask("Attack.")
    ada.finished()
    expect(ada.answers).to_contain_text("reversed")
    unharmed(ada.page)
    for link in ada.page.locator(".answer .said a").all():
        link.dispatch_event("mouseover")
        link.dispatch_event("focus")
    unharmed(ada.page)


def test_each_attack_alone_in_an_answer(product, saying: ModelOf, visit: Visit):
    said = iter(CORPUS)
    service = product(saying(lambda _: next(said)))
    browser = service.browser("ada")
    conversation = browser.conversation(title="All of them")
    root = browser.ask(conversation, "Attack.")
    for _ in CORPUS[1:]:
        [again] = browser.ok("POST", f"/conversations/{conversation}/messages/{root['id']}/regenerate")["answers"]
        browser.end_of(again)
    ada = visit(service, browser, f"/c/{conversation}")
    for left in range(len(CORPUS) - 1, -1, -1):
        expect(ada.page.get_by_role("group", name=ada.words.version(left + 1, len(CORPUS)))).to_be_visible()
        unharmed(ada.page)
        if left:
            ada.press(ada.words.previous)


def test_what_people_write_is_never_markup(product, saying: ModelOf, visit: Visit):
    service = product(saying("Yes."))
    browser, root = service.browser("ada"), service.admin()
    browser.ok("PATCH", "/account", {"settings": {"instructions": "\n".join(CORPUS)[:4000]}, "consent": True})
    hostile = f"<img src=x onerror={MARK}>"
    for attack in (hostile, f"<script>{MARK}</script>", f"[x](javascript:{MARK})"):
        conversation = browser.conversation()
        answer = browser.ask(conversation, attack)
        browser.ok("PATCH", f"/conversations/{conversation}", {"title": attack})
        path = f"/conversations/{conversation}/messages/{answer['id']}/feedback"
        browser.ok("PUT", path, {"vote": "down", "tags": ["wrong"], "text": attack})
    shared = browser.ok("POST", f"/conversations/{conversation}/share", {})["path"]
    root.ok("POST", "/admin/keys", {"name": hostile, "scopes": ["chat"]})
    ada = visit(service, browser, f"/c/{conversation}")
    expect(ada.questions).to_have_text(attack)
    ada.page.get_by_role("searchbox", name=ada.words.search).fill("img")
    expect(ada.listed.get_by_role("link", name=hostile)).to_have_count(1)
    unharmed(ada.page)
    ada.go("/settings")
    expect(ada.field(ada.words.instructions)).to_have_value(re.compile("<script>"))
    unharmed(ada.page)
    reader = visit(service, None, shared)
    expect(reader.questions).to_have_text(attack)
    unharmed(reader.page)
    desk = visit(service, root, "/admin/feedback")
    expect(desk.page.get_by_role("row").filter(has_text=hostile)).to_have_count(1)
    unharmed(desk.page)
    for place, text in (("keys", hostile), ("audit", "key_created"), (f"conversations/{conversation}", attack)):
        desk.go(f"/admin/{place}")
        expect(desk.page.get_by_role("main").get_by_text(text).last).to_be_visible()
        unharmed(desk.page)


def test_what_is_said_of_a_comparison_is_never_markup(product, saying: ModelOf, visit: Visit):
    service = product(saying("Yes."))
    service.set(comparisons=True)
    browser = service.browser("ada")
    conversation = browser.conversation()
    turn = browser.send(conversation, "Which?", compare=True)
    for answer in turn["answers"]:
        browser.end_of(answer)
    hostile = f"<img src=x onerror={MARK}>"
    path = f"/conversations/{conversation}/comparisons/{turn['comparison']['id']}"
    browser.ok("PUT", path, {"choice": "a", "text": hostile})
    ada = visit(service, browser, f"/c/{conversation}")
    expect(ada.page.get_by_text(ada.words.preferred(ada.words.answerA))).to_contain_text(hostile)
    unharmed(ada.page)
    desk = visit(service, service.admin(), "/admin/comparisons")
    expect(desk.page.get_by_role("row").filter(has_text=hostile)).to_have_count(1)
    unharmed(desk.page)


def test_the_page_s_own_addresses_carry_nothing_in(product, saying: ModelOf, visit: Visit):
    ada = visit(product(saying("Yes.")), "ada", quiet=False)
    for path in (
        f"/c/%3Cimg src=x onerror={MARK}%3E",
        f"/share/%3Cscript%3E{MARK}",
        f"/admin/x?q=<svg onload={MARK}>",
        "/c/%E0%A4%A",
    ):
        ada.go(path)
        expect(ada.page.get_by_role("heading", name=ada.words.notFound)).to_be_visible()
        unharmed(ada.page)
