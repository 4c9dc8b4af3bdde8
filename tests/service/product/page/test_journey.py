"""One person's whole way through the page, from signing up to deleting the account."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from tests.service.product.browser import PASSWORD
from tests.service.product.page.conftest import ModelOf, Visit, everywhere


@everywhere
def test_from_signing_up_to_deleting_the_account(product, saying: ModelOf, visit: Visit):
    said = iter(["Hello.", "word " * 400, "Second answer.", "Third answer."])
    model = saying(lambda _: next(said), delay=0.02)
    service = product(model)
    ada = visit(service, quiet=False)
    page, words = ada.page, ada.words
    ada.press(words.signUp)
    ada.enter("李雷.ada", PASSWORD, words.signUp)
    expect(page.get_by_role("heading", level=1)).to_have_text(words.greetingNamed("李雷.ada"))
    assert page.locator("html").get_attribute("lang") == {"en": "en", "zh": "zh-CN"}[words.language]
    ada.asked("Kept", "Hello.")

    ada.press(words.newChat)
    ada.ask("Question")  # and while its answer streams
    expect(ada.answers).to_contain_text("word word")
    ada.press(words.stop)
    expect(page.get_by_text(words.stopped)).to_be_visible()
    assert model.engine.finished.wait(20)
    ada.press(words.regenerate)
    expect(ada.answers).to_have_text("Second answer.")
    expect(page.get_by_role("group", name=words.version(2, 2))).to_be_visible()
    ada.press(words.edit)
    ada.field(words.editMessage).fill("Another question")
    page.keyboard.press("Enter")
    expect(ada.answers).to_have_text("Third answer.")
    ada.finished()

    ada.press(words.bad)
    form = ada.within(page.get_by_role("form", name=words.rating))
    form.press(words.tag_too_short)
    form.field(words.comment).fill("Say it in a sentence.")
    form.press(words.sendRating)
    expect(page.get_by_role("form", name=words.rating)).to_have_count(0)  # thanks are said of the thumb, too
    ada.told(words.thanks)
    root = service.admin()
    [rated] = root.ok("GET", "/admin/feedback")["items"]
    assert (rated["vote"], rated["tags"], rated["text"]) == ("down", ["too_short"], "Say it in a sentence.")

    ada.choose(words.optionsFor("Question"), words.rename)
    ada.field(words.newTitle).fill("Orchard")
    page.keyboard.press("Enter")
    expect(ada.listed.filter(has_text="Orchard")).to_have_count(1)
    page.get_by_role("searchbox", name=words.search).fill("another quest")
    expect(ada.listed).to_have_count(1)
    expect(ada.listed).to_contain_text("Orchard")
    page.get_by_role("searchbox", name=words.search).fill("")
    expect(ada.listed).to_have_count(2)
    ada.choose(words.optionsFor("Orchard"), words.archive)
    expect(ada.listed).to_have_count(1)
    ada.press(words.archived)
    expect(ada.listed).to_contain_text("Orchard")
    ada.choose(words.optionsFor("Orchard"), words.remove)
    ada.dialog.press(words.remove)
    expect(page.get_by_text(words.nothingArchived)).to_be_visible()

    ada.of_account(words.settings)
    with page.expect_download() as download:
        page.get_by_role("link", name=words.exportData).click()
    own = download.value.path().read_text(encoding="utf-8")
    assert json.loads(own)
    assert "Kept" in own
    assert "Orchard" not in own
    ada.press(words.deleteAccount)
    ada.dialog.field(words.password).fill(PASSWORD)
    ada.dialog.press(words.deleteAccount)
    expect(page.get_by_role("heading", name=words.logInTitle)).to_be_visible()
    ada.enter("李雷.ada", PASSWORD, words.logIn)
    ada.alerted(words.error_wrong_credentials)
    assert [user["name"] for user in root.ok("GET", "/admin/users")["items"]] == ["root"]
