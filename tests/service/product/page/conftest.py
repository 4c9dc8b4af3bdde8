"""The page in Debian's Chromium against a real server: browsers for people, and models that say what a test wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from chatwright.service import pages
from chatwright.service.models import LoadedModel
from tests.service.product.browser import Browser, Service
from tests.service.product.conftest import new_database

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000  # milliseconds: a busy machine is not a broken page
CONTEXT = 4096
expect.set_options(timeout=PATIENCE)

ModelOf = Callable[..., LoadedModel]
Open = Callable[..., Page]


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


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, where a test does not ask for another kind."""
    return new_database(request, getattr(request, "param", "sqlite"), tmp_path)


@pytest.fixture
def saying(scripted: ModelOf) -> ModelOf:
    """Like `scripted`, with room for long conversations."""
    return lambda *args, **options: dataclasses.replace(scripted(*args, **options), context=CONTEXT)


@pytest.fixture
def open_page(chromium: Chromium) -> Iterator[Open]:
    """Open the page of a service, as a person who is signed in or as nobody.

    At the end nothing went wrong in the browser and it asked nobody but our server. quiet=False where a test makes
    requests fail, which browsers report.
    """
    troubles: list[str] = []
    contexts: list[BrowserContext] = []

    def open_one(
        service: Service, who: Browser | None = None, path: str = "/", *, quiet: bool = True, **options: Any
    ) -> Page:
        context = chromium.new_context(locale=options.pop("locale", "en-GB"), base_url=service.address, **options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.address)
        if who is not None:
            for name, value in who.http.cookies.items():
                context.add_cookies([{"name": name, "value": value, "url": service.address}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        watch(page, service.address, troubles, quiet)
        page.goto(path)
        return page

    yield open_one
    for context in contexts:
        context.close()
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


def ask(page: Page, text: str, box: str = "Your message") -> None:
    page.get_by_label(box).fill(text)
    page.keyboard.press("Enter")


def answers(page: Page, name: str = "Assistant") -> Any:
    return page.get_by_role("article", name=name, exact=True).locator(".said")


def questions(page: Page, name: str = "You") -> Any:
    return page.get_by_role("article", name=name, exact=True).locator(".said")


def finished(page: Page) -> None:
    """Wait until no answer is under way."""
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
