"""What the operator sees and does."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from tests.service.product.browser import PASSWORD, Browser, Service
from tests.service.product.page.conftest import ModelOf, Visit, Visitor, a_key_works_until_it_is_revoked, everywhere

ANSWER = "The capital of Japan is Tokyo."
QUESTION = "What is the capital of Japan?"


def tab(desk: Visitor, name: str) -> None:
    """Go to a part of the administration."""
    desk.page.get_by_role("navigation", name=desk.words.admin).get_by_role("link", name=name, exact=True).click()


def rated(person: Browser, question: str, vote: str, tags: list[str], text: str = "") -> str:
    """Ask, and rate the answer: the conversation."""
    conversation = person.conversation(consent=True)
    answer = person.ask(conversation, question)
    path = f"/conversations/{conversation}/messages/{answer['id']}/feedback"
    person.ok("PUT", path, {"vote": vote, "tags": tags, "text": text})
    return conversation


@everywhere
def test_the_load_and_the_models_are_seen_live(service: Service, visit: Visit):
    browser = service.browser("ada")
    desk = visit(service, service.admin())
    page, words = desk.page, desk.words
    desk.of_account(words.admin)
    expect(page.get_by_role("region", name=f"{words.model} atlas")).to_contain_text(words.context)
    first = page.locator(".figure", has_text=words.firstToken)
    expect(first).to_contain_text("–")
    for name in (words.running, words.waiting, words.tokensPerSecond, words.wholeAnswer, words.database, words.uptime):
        expect(page.get_by_role("term").filter(has_text=name).first).to_be_visible()
    browser.ask(browser.conversation(), QUESTION)
    expect(first).to_contain_text(re.compile(r"\d+(\.\d+)? (m?s)"))  # a few seconds later, by itself


@everywhere
def test_users_are_found_governed_and_deleted(service: Service, visit: Visit):
    ada, bob = service.browser("ada"), service.browser("bob")
    desk = visit(service, service.admin(), "/admin/users")
    page, words = desk.page, desk.words
    rows = page.get_by_role("row")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text="root").get_by_role("button")).to_have_count(0)  # nobody locks himself out
    page.get_by_role("searchbox", name=words.searchUsers).fill("ad")
    expect(rows).to_have_count(2)
    options = words.optionsFor("ada")
    desk.choose(options, words.makeAdmin)
    expect(rows.nth(1)).to_contain_text(words.role_admin)
    assert ada.ok("GET", "/admin/users")["total"] == 3
    desk.choose(options, words.makeUser)
    expect(rows.nth(1)).to_contain_text(words.role_user)
    desk.choose(options, words.disable)
    expect(rows.nth(1)).to_contain_text(words.disabled)
    assert ada.refresh()["user"] is None
    desk.choose(options, words.enable)
    expect(rows.nth(1)).to_contain_text(words.active)
    desk.choose(options, words.resetPassword)
    desk.dialog.press(words.resetPassword)
    fresh = desk.dialog.field(words.newPassword).input_value()
    ada.log_in("ada", fresh)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("searchbox", name=words.searchUsers).fill("")
    desk.field(words.role).select_option("user")
    expect(rows).to_have_count(3)
    desk.choose(words.optionsFor("bob"), words.remove)
    desk.dialog.press(words.remove)
    expect(rows).to_have_count(2)
    assert bob.refresh()["user"] is None


@everywhere
def test_feedback_is_filtered_and_the_conversation_behind_it_read(service: Service, visit: Visit):
    ada, bob = service.browser("ada"), service.browser("bob")
    rated(ada, "One?", "down", ["too_short"], "Say it in a sentence.")
    rated(bob, "Two?", "up", ["clear"])
    desk = visit(service, service.admin(), "/admin/feedback")
    page, words = desk.page, desk.words
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(page.locator(".counts")).to_contain_text(f"1 {words.up}")
    row = rows.filter(has_text="Say it in a sentence.")
    expect(row).to_contain_text(words.tag_too_short)
    for label, value, left in ((words.vote, "up", "Two?"), (words.tags, "too_short", "One?")):
        desk.field(label).select_option(value)
        expect(rows).to_have_count(2)
        expect(rows.nth(1)).to_contain_text(left)
        desk.field(label).select_option("")
        expect(rows).to_have_count(3)
    desk.field(words.consent).select_option("false")
    expect(page.get_by_text(words.nothingYet)).to_be_visible()
    desk.field(words.consent).select_option("")
    desk.field(words.searchFeedback).fill("sentence")
    expect(rows).to_have_count(2)
    row.get_by_role("link", name=words.openConversation).click()
    expect(page.locator(".marked")).to_contain_text(ANSWER)
    expect(page.get_by_text(words.conversationOf("ada"))).to_contain_text(words.viewLogged)
    expect(desk.button(words.regenerate)).to_have_count(0)
    tab(desk, words.audit)
    expect(page.get_by_role("cell", name="conversation_viewed").first).to_be_visible()


@everywhere
def test_what_may_be_used_is_exported_without_personal_data(product, saying: ModelOf, visit: Visit):
    service = product(saying(ANSWER))
    service.set(comparisons=True)
    ada, bob = service.browser("ada"), service.browser("bob")
    rated(ada, "I am ada@example.org. Who are you?", "down", ["wrong"], "Write to ada@example.org.")
    rated(ada, "And this?", "up", ["clear"])
    bob.ask(bob.conversation(), "Bob does not consent.")
    both = ada.conversation(consent=True)
    turn = ada.send(both, "Which?", compare=True)
    for answer in turn["answers"]:
        ada.end_of(answer)
    ada.ok("PUT", f"/conversations/{both}/comparisons/{turn['comparison']['id']}", {"choice": "b"})
    desk = visit(service, service.admin(), "/admin/exports")
    words = desk.words

    def exported(kind: str) -> list[str]:
        with desk.page.expect_download() as download:
            desk.page.get_by_role("link", name=f"{words.download} JSONL: {kind}").click()
        lines = download.value.path().read_text(encoding="utf-8").splitlines()
        assert all(json.loads(line)["id"] for line in lines)
        return lines

    for kind, count in (
        (words.export_feedback, 2),
        (words.export_conversations, 3),
        (words.export_comparisons, 1),
    ):
        lines = exported(kind)
        assert len(lines) == count
        assert "example.org" not in "".join(lines)
        assert "Bob" not in "".join(lines)
    desk.field(words.perUser).fill("1")
    assert len(exported(words.export_conversations)) == 1


@everywhere
def test_the_log_says_who_did_what_and_is_filtered(service: Service, visit: Visit):
    root = service.admin()
    ada = service.browser("ada")
    service.browser().call("POST", "/login", {"name": "ada", "password": "not that one"})
    root.ok("PATCH", f"/admin/users/{ada.session['user']['id']}", {"disabled": True})
    desk = visit(service, root, "/admin/audit")
    rows, words = desk.page.get_by_role("row"), desk.words
    for action in ("account_created", "login_failed", "user_changed"):
        expect(rows.filter(has_text=action)).to_have_count(1)
    desk.field(words.action).select_option("user_changed")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("root")
    desk.field(words.actor).fill("nobody")
    expect(desk.page.get_by_text(words.nothingYet)).to_be_visible()


@everywhere
def test_sign_up_is_closed_and_guests_let_in(service: Service, visit: Visit):
    desk = visit(service, service.admin(), "/admin/settings")
    words = desk.words
    stranger = visit(service, path="/signup", quiet=False)  # opened before
    desk.switch(words.signupOpen).click()
    desk.switch(words.guestsOpen).click()
    desk.press(words.save)
    expect(desk.page.get_by_text(words.saved)).to_be_visible()
    stranger.enter("late", PASSWORD, words.signUp)
    stranger.alerted(words.error_signup_closed)
    stranger.page.reload()
    expect(stranger.page.get_by_role("heading", name=words.logInTitle)).to_be_visible()
    expect(stranger.button(words.signUp)).to_have_count(0)
    stranger.press(words.asGuest)
    stranger.asked(QUESTION, ANSWER)
    desk.page.reload()
    expect(desk.switch(words.signupOpen)).not_to_be_checked()


@everywhere
def test_a_limit_on_requests_is_set_and_told(service: Service, visit: Visit):
    desk = visit(service, service.admin(), "/admin/settings", quiet=False)
    words = desk.words
    limit = desk.field(words.rate_messages_account)
    limit.fill("often")
    desk.press(words.save)
    expect(desk.page.get_by_role("alert")).to_be_visible()
    limit.fill("2/hour")  # one for the conversation, one for the question
    desk.press(words.save)
    desk.told(words.saved)
    ada = visit(service, "ada", quiet=False)
    ada.asked(QUESTION, ANSWER)
    ada.ask("Again?")
    ada.alerted(words.error_rate_limited)
    expect(ada.questions.last).to_have_text("Again?")


@everywhere
def test_a_key_is_shown_once_works_and_is_revoked(service: Service, visit: Visit):
    desk = visit(service, service.admin(), "/admin/keys")
    a_key_works_until_it_is_revoked(desk)


@everywhere
def test_a_part_of_the_page_that_does_not_come_is_told_and_asked_for_again(service: Service, visit: Visit):
    desk = visit(service, service.admin(), quiet=False)
    page, words = desk.page, desk.words
    page.route("**/assets/AdminPage*", lambda route: route.abort())  # as after the server got a newer page
    desk.go("/admin")
    desk.alerted(words.error_failed)
    page.unroute_all(behavior="ignoreErrors")
    desk.press(words.retry)
    expect(page.get_by_text(words.tokensPerSecond)).to_be_visible()


@everywhere
def test_who_is_no_operator_sees_no_administration(service: Service, visit: Visit):
    ada = visit(service, "ada", "/admin/users")
    expect(ada.page.get_by_role("heading", name=ada.words.notFound)).to_be_visible()
    ada.page.get_by_role("button", name=re.compile(f"{ada.words.accountMenu}$")).click()
    expect(ada.page.get_by_role("menuitem", name=ada.words.settings)).to_be_visible()
    expect(ada.page.get_by_role("menuitem", name=ada.words.admin)).to_have_count(0)
