"""Routes of the operator: people, load, ratings, exports, the log, settings and keys."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field, ValidationError

from chatwright.errors import UserError
from chatwright.service import exports
from chatwright.service.admin import new_password
from chatwright.service.api.context import Anyone, Body, Consent, Context, Paged, Parts, Search, admin, model_view
from chatwright.service.api.keys import NewKey
from chatwright.service.exports import Choice, Kind
from chatwright.service.feedback import Pick, Vote
from chatwright.service.load import WINDOW_SECONDS
from chatwright.service.models import LoadedModel
from chatwright.service.refusal import Refusal, not_found
from chatwright.storage import first_problem

router = APIRouter(prefix="/api/admin", dependencies=[Depends(admin)])

STARTED = time.monotonic()

Moment = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)]
Name = Annotated[str | None, Query(max_length=200)]


class UserChange(Body):
    """What of a person changes."""

    role: Literal["admin", "user"] | None = None
    disabled: bool | None = None


class Nothing(Body):
    """An empty body."""


class KeyFor(NewKey):
    """A key to make, for oneself when no person is named."""

    user_id: Annotated[str, Field(max_length=64)] | None = None


# --- people ---


@router.get("/users")
def users(
    parts: Parts, page: Paged, search: Search = "", role: Literal["admin", "user", "guest"] | None = None
) -> dict[str, Any]:
    """People."""
    return parts.admin.users(page, search, role)


@router.patch("/users/{user_id}")
async def change_user(user_id: str, body: UserChange, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """Change a role, disable or enable."""
    changes = {key: value for key, value in body.model_dump().items() if value is not None}
    changed = await asyncio.to_thread(parts.admin.change_user, user_id, changes, anyone.actor)
    if changed["disabled"]:
        await parts.answers.drop(lambda task: task.user_id == user_id)
    parts.keys.forget()
    return changed


@router.post("/users/{user_id}/password")
async def reset_password(user_id: str, body: Nothing, anyone: Anyone, parts: Parts) -> dict[str, str]:
    """Give a new password to a person who has forgotten it."""
    if await asyncio.to_thread(parts.accounts.password_hash, user_id) is None:
        raise not_found()
    password = new_password()
    kept = await parts.passwords.hash(password)
    await asyncio.to_thread(parts.accounts.set_password, user_id, kept, anyone.actor, None)
    return {"password": password}


@router.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: str, anyone: Anyone, parts: Parts) -> None:
    """Delete a person with all data."""
    await parts.answers.drop(lambda task: task.user_id == user_id)
    await asyncio.to_thread(parts.accounts.delete, user_id, anyone.actor)
    parts.keys.forget()


# --- load ---


@router.get("/models")
def models(parts: Parts) -> dict[str, Any]:
    """The models that are served."""
    return {"items": [{**model_view(model), "load": _load(model)} for model in parts.models.values()]}


@router.get("/load")
def load(parts: Parts) -> dict[str, Any]:
    """How busy the service is."""
    line, meter = parts.line, parts.meter
    return {
        "answers": {
            "running": min(line.length, line.at_once),
            "waiting": max(0, line.length - line.at_once),
            "places": line.places,
            "at_once": line.at_once,
        },
        "tokens_per_second": meter.rate,
        "ttft_seconds": meter.first_seconds,
        "answer_seconds": meter.whole_seconds,
        "window_seconds": WINDOW_SECONDS,
        "models": {name: _load(model) for name, model in parts.models.items()},
        "signed_in": parts.admin.signed_in(),
        "database": {
            "kind": "sqlite" if parts.database.is_sqlite else "postgresql",
            "size_bytes": parts.database.size(),
        },
        "uptime_seconds": time.monotonic() - STARTED,
    }


def _load(model: LoadedModel) -> dict[str, Any]:
    """What an engine tells of itself; nothing from one that does not."""
    told = getattr(model.engine, "load", None)
    return dataclasses.asdict(told) if dataclasses.is_dataclass(told) and not isinstance(told, type) else {}


# --- ratings, comparisons, conversations ---


@router.get("/feedback")
def feedback(
    parts: Parts,
    page: Paged,
    vote: Vote | None = None,
    tag: Name = None,
    model: Name = None,
    user: Name = None,
    search: Name = None,
    since: Moment = None,
    until: Moment = None,
    consent: Consent = None,
) -> dict[str, Any]:
    """Ratings, filtered."""
    filters = {
        "vote": vote,
        "tag": tag,
        "model": model,
        "user": user,
        "search": search,
        "since": since,
        "until": until,
        "consent": consent,
    }
    return parts.admin.feedback(page, filters)


@router.get("/comparisons")
def comparisons(parts: Parts, page: Paged, choice: Pick | None = None) -> dict[str, Any]:
    """Comparisons in which somebody chose."""
    return parts.admin.comparisons(page, choice)


@router.get("/conversations/{conversation_id}")
def conversation(conversation_id: str, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """A conversation behind a rating; the log remembers who looked."""
    return parts.conversations.read_any(conversation_id, anyone.actor)


@router.get("/export/{kind}")
def export(
    kind: Kind,
    anyone: Anyone,
    parts: Parts,
    since: Moment = None,
    until: Moment = None,
    model: Name = None,
    per_user: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
) -> StreamingResponse:
    """What was collected, as JSON lines: with consent, scrubbed, capped."""
    choice = Choice(since, until, model, per_user or parts.settings.current.export_per_user)
    details = {key: value for key, value in dataclasses.asdict(choice).items() if value is not None}
    parts.admin.note(anyone.actor, "exported", kind, **details)
    return StreamingResponse(
        _lines(parts, kind, choice),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="{kind}.jsonl"'},
    )


def _lines(parts: Context, kind: Kind, choice: Choice) -> Iterator[str]:
    for record in exports.export(parts.database, kind, choice):
        yield record.model_dump_json() + "\n"


# --- the log, settings, keys ---


@router.get("/audit")
def audit(parts: Parts, page: Paged, action: Name = None, actor: Name = None) -> dict[str, Any]:
    """The audit log."""
    return parts.admin.log(page, action, actor)


@router.get("/settings")
def read_settings(parts: Parts) -> dict[str, Any]:
    """The operator's settings."""
    return parts.settings.current.model_dump()


@router.patch("/settings")
def change_settings(body: dict[str, Any], anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """Change some settings."""
    try:
        changed = parts.settings.change(body, parts.apply)
    except ValidationError as error:
        raise Refusal(
            400, "invalid_value", f"{first_problem(error)}.", param=str(error.errors()[0]["loc"][0])
        ) from None
    except UserError as error:
        raise Refusal(400, "invalid_value", str(error), param="rates") from None
    parts.admin.note(anyone.actor, "settings_changed", "", **body)
    return changed.model_dump()


@router.get("/keys")
def list_keys(parts: Parts, page: Paged) -> dict[str, Any]:
    """All keys, newest first."""
    keys, begin = parts.keys.owned_by(), (page.number - 1) * page.items
    return page.view([key.view() for key in keys[begin : begin + page.items]], len(keys))


@router.post("/keys", status_code=201)
def create_key(body: KeyFor, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """Make a key for anybody; its secret is shown this once."""
    body.check()
    assert anyone.person is not None
    key, secret = parts.keys.create(
        body.user_id or anyone.person.id, body.name, body.scopes, body.expires_at, anyone.actor
    )
    return {"key": key.view(), "secret": secret}


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, anyone: Anyone, parts: Parts) -> dict[str, Any]:
    """End anybody's key."""
    key = parts.keys.revoke(key_id, None, anyone.actor)
    if key is None:
        raise not_found()
    return key.view()
