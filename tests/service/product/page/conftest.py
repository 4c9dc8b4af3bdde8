"""The page in Debian's Chromium against a real server: visitors, and models that say what a test wants.

A story is written once; `everywhere` runs it in each language on each database.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from chatwright.service import pages
from chatwright.service.models import LoadedModel
from tests.service.product.browser import Browser, Service
from tests.service.product.conftest import new_database
from tests.service.product.page.words import Words

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000  # milliseconds: a busy machine is not a broken page
CONTEXT = 4096
PLACES = {
    f"{language}, {database}": (code, database.lower())
    for language, code in (("English", "en"), ("Chinese", "zh"))
    for database in ("SQLite", "PostgreSQL")
}
expect.set_options(timeout=PATIENCE)

ModelOf = Callable[..., LoadedModel]
Visit = Callable[..., "Visitor"]


everywhere = pytest.mark.parametrize(("words", "database_url"), PLACES.values(), indirect=True, ids=PLACES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests are slow, and need a browser and the built page."""
    missing = None
    if not CHROMIUM.exists():
        missing = "needs Debian's chromium (apt-get install chromium)"
    elif not (pages.PAGE / "index.html").is_file():
        missing = "needs the built page (make page)"
    for item in items:
        if Path(__file__).parent not in item.path.parents or "chromium" not in getattr(item, "fixturenames", ()):
            continue
        item.add_marker(pytest.mark.slow)
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="module")  # while it is there, its event loop runs in this thread, and others cannot have one
def chromium() -> Iterator[Chromium]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
        )
        yield browser
        browser.close()


class Contexts:
    """Contexts of a browser, for one visitor at a time: a new one costs half a second, one that was used does not."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._idle: dict[str, list[BrowserContext]] = {}
        self._kinds: dict[BrowserContext, str] = {}

    def take(self, **options: Any) -> BrowserContext:
        """One that nobody uses, made with these options."""
        kind = repr(sorted(options.items()))
        if idle := self._idle.get(kind):
            return idle.pop()
        context = self._chromium.new_context(**options)
        context.new_page()  # stays, and keeps the process
        self._kinds[context] = kind
        return context

    def give_back(self, context: BrowserContext) -> None:
        """Nobody uses it any more, and nothing of who did is left."""
        for page in context.pages[1:]:
            page.evaluate("origin !== 'null' && localStorage.clear()")
            page.close()
        context.clear_cookies()
        context.clear_permissions()
        context.set_offline(False)
        self._idle.setdefault(self._kinds[context], []).append(context)


@pytest.fixture(scope="module")
def contexts(chromium: Chromium) -> Contexts:
    return Contexts(chromium)


@pytest.fixture
def words(request: pytest.FixtureRequest) -> Words:
    """English, where a test does not ask for another language."""
    return Words(getattr(request, "param", "en"))


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, where a test does not ask for another kind."""
    return new_database(request, getattr(request, "param", "sqlite"), tmp_path)


@pytest.fixture
def saying(scripted: ModelOf) -> ModelOf:
    """Like `scripted`, with room for long conversations."""
    return lambda *args, **options: dataclasses.replace(scripted(*args, **options), context=CONTEXT)


@dataclass(frozen=True)
class Visitor:
    """Somebody at the page, who reads its language. Things are found by the names that a screen reader says."""

    page: Page
    words: Words
    address: str
    inside: Locator | None = None  # the one part of the page that is looked at

    def go(self, path: str) -> None:
        """Open an address of the same server."""
        self.page.goto(self.address + path)

    def within(self, part: Locator) -> Visitor:
        """Somebody who looks at a part of the page alone."""
        return dataclasses.replace(self, inside=part)

    @property
    def dialog(self) -> Visitor:
        """Somebody who looks at the open dialog."""
        return self.within(self.page.get_by_role("dialog"))

    @property
    def sight(self) -> Page | Locator:
        """What is looked at."""
        return self.page if self.inside is None else self.inside

    def button(self, name: str) -> Locator:
        """The buttons of a name."""
        return self.sight.get_by_role("button", name=name, exact=True)

    def press(self, name: str) -> None:
        """Press the one button of a name."""
        self.button(name).click()

    def field(self, label: str) -> Locator:
        """The field with a label."""
        return self.sight.get_by_label(label, exact=True)

    def come_back(self) -> None:
        """Leave this tab for another and come back, which a browser without a screen does not tell its pages."""
        self.page.evaluate("['blur', 'focus'].forEach((name) => dispatchEvent(new Event(name)))")

    def choose(self, menu: str | re.Pattern[str], item: str) -> None:
        """Choose from a menu."""
        self.sight.get_by_role("button", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def of_account(self, item: str) -> None:
        """Choose from the account's menu, whose button also shows the name."""
        self.choose(re.compile(rf"{self.words.accountMenu}$"), item)

    def switch(self, label: str) -> Locator:
        """The switch of a label, whatever its hint says."""
        return self.sight.get_by_role("switch", name=label)

    @property
    def box(self) -> Locator:
        """Where one writes."""
        return self.field(self.words.question)

    def ask(self, text: str) -> None:
        """Write and send."""
        self.box.fill(text)
        self.page.keyboard.press("Enter")

    def asked(self, text: str, answer: str) -> None:
        """Ask, and wait for that whole answer."""
        self.ask(text)
        expect(self.answers.last).to_have_text(answer)
        self.finished()

    @property
    def answers(self) -> Locator:
        """The answers that are shown."""
        return self.page.get_by_role("article", name=self.words.assistant, exact=True).locator(".said")

    @property
    def questions(self) -> Locator:
        """The questions that are shown."""
        return self.page.get_by_role("article", name=self.words.you, exact=True).locator(".said")

    @property
    def listed(self) -> Locator:
        """The conversations in the list."""
        return self.page.get_by_role("navigation", name=self.words.conversations).get_by_role("listitem")

    def finished(self) -> None:
        """Wait until no answer is under way."""
        expect(self.button(self.words.send)).to_be_visible()
        expect(self.page.get_by_role("log")).to_have_attribute("aria-busy", "false")

    def told(self, text: str) -> None:
        """Wait until the page says so, to screen readers at least."""
        expect(self.page.get_by_role("status").filter(has_text=text)).to_be_attached()

    def alerted(self, text: str) -> None:
        """Wait until the page says what went wrong."""
        expect(self.sight.get_by_role("alert")).to_contain_text(text)

    def enter(self, name: str, password: str, way: str) -> None:
        """Fill in name and password, and press log in or sign up."""
        self.field(self.words.name).fill(name)
        self.field(self.words.password).fill(password)
        self.page.locator("button[type=submit]").filter(has_text=way).click()


@pytest.fixture
def visit(contexts: Contexts, words: Words) -> Iterator[Visit]:
    """Open the page of a service, as somebody who signs up, as a browser that is signed in, or as nobody.

    At the end nothing went wrong in the browser and it asked nobody but our server. quiet=False where a test makes
    requests fail, which browsers report.
    """
    troubles: list[str] = []
    used: list[BrowserContext] = []

    def visit_one(
        service: Service, who: Browser | str | None = None, path: str = "/", *, quiet: bool = True, **options: Any
    ) -> Visitor:
        context = contexts.take(**{"locale": words.locale, **options})
        used.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.address)
        browser = service.browser(who) if isinstance(who, str) else who
        if browser is not None:
            for name, value in browser.http.cookies.items():
                context.add_cookies([{"name": name, "value": value, "url": service.address}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        watch(page, service.address, troubles, quiet)
        visitor = Visitor(page, words, service.address)
        visitor.go(path)
        return visitor

    yield visit_one
    for context in used:
        contexts.give_back(context)
    assert troubles == []


def watch(page: Page, address: str, troubles: list[str], quiet: bool = True) -> None:
    """Note requests to others than our server, exceptions, and what the Content-Security-Policy stopped."""
    page.on("request", lambda request: None if request.url.startswith(address) else troubles.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def on_console(message: Any) -> None:
        if message.type == "error" and (quiet or "Content Security Policy" in message.text):
            troubles.append(message.text)

    page.on("console", on_console)


def a_key_works_until_it_is_revoked(who: Visitor) -> None:
    """Somebody who is where keys are makes one, which is shown once, uses it, and takes it back."""
    words = who.words
    who.press(words.newKey)
    who.field(words.keyName).fill("laptop")
    who.press(words.createKey)
    secret = who.field(words.secret)
    expect(secret).to_have_value(re.compile("^cw-"))
    asked = {
        "url": f"{who.address}/v1/chat/completions",
        "json": {"model": "atlas", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]},
        "headers": {"Authorization": f"Bearer {secret.input_value()}"},
    }
    assert httpx.post(**asked).is_success
    who.page.reload()
    expect(who.page.get_by_text("laptop")).to_be_visible()
    expect(secret).to_have_count(0)
    who.press(words.revoke)
    who.dialog.press(words.revoke)
    expect(who.page.get_by_text(words.revoked, exact=True)).to_be_visible()
    assert httpx.post(**asked).status_code == 401
