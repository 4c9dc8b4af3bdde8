"""Accounts: coming in and going out, guests, settings, keys, and one's own data."""

from __future__ import annotations

import dataclasses
import re

from playwright.sync_api import expect

from tests.service.product.browser import PASSWORD, Service
from tests.service.product.page.conftest import ModelOf, Visit, a_key_works_until_it_is_revoked, everywhere
from tests.service.product.page.words import Words

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"
OTHER = "another long password"


@everywhere
def test_logging_out_and_in_again_finds_everything(service: Service, visit: Visit):
    ada = visit(service, "ada", quiet=False)
    page, words = ada.page, ada.words
    ada.asked(QUESTION, ANSWER)
    expect(page).to_have_url(re.compile("/c/"))
    page.reload()
    expect(ada.answers).to_have_text(ANSWER)
    ada.of_account(words.logOut)
    ada.enter("ada", "not that one", words.logIn)
    ada.alerted(words.error_wrong_credentials)
    ada.field(words.password).fill(PASSWORD)
    page.keyboard.press("Enter")
    ada.listed.get_by_role("link", name=QUESTION).click()
    expect(ada.answers).to_have_text(ANSWER)


@everywhere
def test_signing_up_with_a_taken_name_tells_the_same_to_everyone(service: Service, visit: Visit):
    service.browser("ada")
    stranger = visit(service, path="/signup", quiet=False)
    words = stranger.words
    stranger.enter("ada", OTHER, words.signUp)
    stranger.alerted(words.signUpFailed)
    stranger.field(words.name).fill("bob")
    stranger.press(words.signUp)
    expect(stranger.page.get_by_role("heading", level=1)).to_have_text(words.greetingNamed("bob"))
    weak = visit(service, path="/signup", quiet=False)
    weak.enter("carol", "password", words.signUp)
    weak.alerted(words.error_weak_password)


@everywhere
def test_a_session_that_ends_elsewhere_leads_to_the_log_in_and_back(service: Service, visit: Visit):
    browser = service.browser("ada")
    ada = visit(service, browser, quiet=False)
    page, words = ada.page, ada.words
    ada.asked(QUESTION, ANSWER)
    browser.ok("POST", "/logout", {"everywhere": True})
    ada.ask("And of France?")
    expect(page.get_by_role("status").filter(has_text=words.sessionEnded)).to_be_visible()
    ada.enter("ada", PASSWORD, words.logIn)
    expect(ada.questions).to_have_text([QUESTION])
    expect(ada.box).to_have_value("And of France?")


@everywhere
def test_a_guest_tries_where_it_is_allowed_and_keeps_the_conversation_by_signing_up(service: Service, visit: Visit):
    nobody = visit(service)
    words = nobody.words
    expect(nobody.page.get_by_role("heading", name=words.logInTitle)).to_be_visible()
    expect(nobody.button(words.asGuest)).to_have_count(0)  # as it comes
    service.set(guests=True)
    guest = visit(service)
    guest.press(words.asGuest)
    guest.asked(QUESTION, ANSWER)
    expect(guest.page.get_by_text(words.guestText)).to_be_visible()
    guest.press(words.signUp)
    guest.enter("ada", PASSWORD, words.signUp)
    guest.listed.get_by_role("link", name=QUESTION).click()
    expect(guest.answers).to_have_text(ANSWER)


@everywhere
def test_the_password_is_changed_and_other_devices_are_logged_out(service: Service, visit: Visit):
    browser = service.browser("ada")
    ada = visit(service, browser, "/settings", quiet=False)
    page, words = ada.page, ada.words
    page.get_by_text(words.changePassword).first.click()
    ada.field(words.currentPassword).fill("not that one")
    ada.field(words.newPassword).fill(OTHER)
    ada.press(words.changePassword)
    ada.alerted(words.error_wrong_password)
    ada.field(words.currentPassword).fill(PASSWORD)
    ada.press(words.changePassword)
    expect(page.get_by_text(words.passwordChanged)).to_be_visible()
    assert browser.refresh()["user"] is None
    browser.log_in("ada", OTHER)
    ada.press(words.logOutEverywhere)
    expect(page.get_by_role("heading", name=words.logInTitle)).to_be_visible()
    assert browser.refresh()["user"] is None


@everywhere
def test_all_conversations_are_deleted_at_once(service: Service, visit: Visit):
    browser = service.browser("ada")
    for text in ("One", "Two"):
        browser.ask(browser.conversation(), text)
    ada = visit(service, browser, "/settings")
    expect(ada.listed).to_have_count(2)
    ada.press(ada.words.deleteAll)
    ada.dialog.press(ada.words.remove)
    expect(ada.listed).to_have_count(0)
    assert browser.ok("GET", "/conversations")["items"] == []


@everywhere
def test_settings_reach_the_model_and_the_page(product, saying: ModelOf, visit: Visit):
    model = saying(ANSWER)
    ada = visit(product(model), "ada", "/settings")
    page, words = ada.page, ada.words
    ada.field(words.instructions).fill("Answer like a pirate.")
    page.get_by_text(words.advanced, exact=True).click()
    page.get_by_role("slider", name=words.temperature).fill("1.2")
    page.get_by_role("slider", name=words.topP).fill("0.9")
    ada.field(words.length).fill("77")
    ada.press(words.save)
    ada.told(words.saved)
    page.reload()
    expect(ada.field(words.instructions)).to_have_value("Answer like a pirate.")
    ada.press(words.newChat)
    ada.asked(QUESTION, ANSWER)
    assert "Answer like a pirate." in model.engine.prompts[-1]
    drawn = model.engine.samplings[-1]
    assert (drawn.temperature, drawn.top_p, drawn.max_tokens) == (1.2, 0.9, 77)


@everywhere
def test_the_language_is_chosen_in_the_settings(service: Service, visit: Visit):
    browser = service.browser("ada")
    ada = visit(service, browser, "/settings")
    other = {"en": "zh", "zh": "en"}[ada.words.language]
    ada.field(ada.words.interfaceLanguage).select_option(other)
    changed = dataclasses.replace(ada, words=Words(other))
    expect(ada.page.get_by_role("heading", name=changed.words.settings)).to_be_visible()
    ada.page.reload()
    changed.press(changed.words.newChat)
    changed.asked(QUESTION, ANSWER)
    assert browser.refresh()["user"]["settings"]["language"] == other


@everywhere
def test_an_own_key_is_shown_once_works_and_is_revoked(service: Service, visit: Visit):
    browser = service.browser("ada")
    closed = visit(service, browser, "/settings")
    words = closed.words
    expect(closed.button(words.deleteAccount)).to_be_visible()
    expect(closed.button(words.newKey)).to_have_count(0)  # as it comes
    service.set(user_keys=True)
    ada = visit(service, browser, "/settings")
    a_key_works_until_it_is_revoked(ada)
