"""Routes of signing up, in and out, and of one's own account."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import StringConstraints

from chatwright.service import accounts, passwords
from chatwright.service.accounts import AccountSettings
from chatwright.service.api.context import Anyone, Body, NoNul, Parts, Somebody, session_view
from chatwright.service.own_data import everything
from chatwright.service.passwords import check_new
from chatwright.service.refusal import Refusal
from chatwright.service.sessions import new_token

router = APIRouter(prefix="/api")

Name = Annotated[str, StringConstraints(min_length=1, max_length=accounts.LONGEST_NAME), NoNul]
Password = Annotated[str, StringConstraints(min_length=1, max_length=passwords.LONGEST), NoNul]


class Credentials(Body):
    """A name and a password."""

    name: Name
    password: Password


class LoggingOut(Body):
    """Whether all sessions end."""

    everywhere: bool = False


class NewPassword(Body):
    """The password now, and the next."""

    current: Password
    new: Password


class Leaving(Body):
    """The password, of those who have one."""

    password: Password | None = None


class AccountChange(Body):
    """What of an account changes."""

    settings: AccountSettings | None = None
    consent: bool | None = None


class Nothing(Body):
    """An empty body."""


@router.get("/session")
def session(request: Request, response: Response, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """Who is signed in, and what the page must know."""
    return session_view(parts, request, response, anyone.token)


@router.post("/signup", status_code=202)
async def signup(body: Credentials, anyone: Anyone, parts: Parts) -> dict[str, str]:
    """Make an account, if the name is free; the answer does not tell."""
    if not parts.settings.current.signup:
        raise Refusal(403, "signup_closed", "New accounts are made by the operator alone.")
    accounts.clean_name(body.name)
    check_new(body.password, body.name)
    parts.within("signup_source", anyone.source)
    kept = await parts.passwords.hash(body.password)
    guest = anyone.person.id if anyone.person is not None and anyone.person.is_guest else None
    await asyncio.to_thread(
        parts.accounts.create,
        body.name,
        kept,
        consent=parts.settings.current.consent_default,
        actor=anyone.actor,
        guest_id=guest,
    )
    return {"status": "accepted"}


@router.post("/login")
async def login(
    body: Credentials, request: Request, response: Response, anyone: Anyone, parts: Parts
) -> dict[str, Any]:
    """Open a session. Whatever is wrong, the answer and the time it takes are the same."""
    key = accounts.name_key(body.name)
    parts.brakes.login_account.check(key)
    parts.brakes.login_source.check(anyone.source)
    user_id, kept = await asyncio.to_thread(parts.accounts.credentials, body.name)
    right = await parts.passwords.matches(body.password, kept)
    if not right or user_id is None:
        parts.brakes.login_account.count(key)
        parts.brakes.login_source.count(anyone.source)
        await asyncio.to_thread(parts.admin.note, anyone.actor, "login_failed", user_id or "")
        raise Refusal(401, "wrong_credentials", "The name or the password is wrong.")
    parts.brakes.login_account.forget(key)
    token = await asyncio.to_thread(parts.sessions.open, user_id, anyone.token)
    return await asyncio.to_thread(session_view, parts, request, response, token)


@router.post("/guest")
def guest(body: Nothing, request: Request, response: Response, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """Begin without an account, where the operator allows it."""
    if anyone.person is not None:
        return session_view(parts, request, response, anyone.token)
    if not parts.settings.current.guests:
        raise Refusal(403, "guests_closed", "One needs an account here.")
    parts.brakes.guest_source.check(anyone.source)
    parts.brakes.guest_source.count(anyone.source)
    token = parts.sessions.open(parts.accounts.create_guest(), anyone.token)
    return session_view(parts, request, response, token)


@router.post("/logout")
def logout(body: LoggingOut, request: Request, response: Response, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """End the session."""
    if anyone.token is not None:
        parts.sessions.end(anyone.token, body.everywhere)
    return session_view(parts, request, response, None)


@router.patch("/account")
def change_account(
    body: AccountChange, request: Request, response: Response, anyone: Anyone, person: Somebody, parts: Parts
) -> dict[str, Any]:
    """Change settings or consent."""
    settings = None if body.settings is None else body.settings.model_dump(exclude_unset=True)
    parts.accounts.change(person.id, settings, body.consent)
    return session_view(parts, request, response, anyone.token)


@router.post("/account/password")
async def change_password(
    body: NewPassword, request: Request, response: Response, anyone: Anyone, person: Somebody, parts: Parts
) -> dict[str, Any]:
    """Change the password; every other session ends."""
    await _check_password(body.current, anyone, person, parts)
    check_new(body.new, person.name)
    kept, token = await parts.passwords.hash(body.new), new_token()
    await asyncio.to_thread(parts.accounts.set_password, person.id, kept, anyone.actor, token)
    return await asyncio.to_thread(session_view, parts, request, response, token)


@router.post("/account/delete")
async def delete_account(
    body: Leaving, request: Request, response: Response, anyone: Anyone, person: Somebody, parts: Parts
) -> dict[str, Any]:
    """Delete the account with all data."""
    if not person.is_guest:
        await _check_password(body.password or "", anyone, person, parts)
    await parts.answers.drop(lambda task: task.user_id == person.id)
    await asyncio.to_thread(parts.accounts.delete, person.id, anyone.actor)
    parts.keys.forget()
    return await asyncio.to_thread(session_view, parts, request, response, None)


@router.get("/account/export")
def export_account(person: Somebody, parts: Parts) -> Response:
    """All that is kept of the person, as a file."""
    found = everything(parts.database, parts.conversations, parts.keys, person.id)
    return JSONResponse(found, headers={"Content-Disposition": 'attachment; filename="chatwright.json"'})


async def _check_password(password: str, anyone: Anyone, person: Somebody, parts: Parts) -> None:
    """Refusal unless it is the person's password; counted as a log-in is."""
    key = accounts.name_key(person.name)
    parts.brakes.login_account.check(key)
    kept = await asyncio.to_thread(parts.accounts.password_hash, person.id)
    if not await parts.passwords.matches(password, kept):
        parts.brakes.login_account.count(key)
        raise Refusal(403, "wrong_password", "The password is wrong.", param="current")
