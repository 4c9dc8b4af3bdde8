"""Routes of one's own API keys."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from chatwright.service.api.context import Anyone, Body, Context, NoNul, Parts, Somebody
from chatwright.service.keys import SCOPES
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.sessions import Person

router = APIRouter(prefix="/api/keys")


class NewKey(Body):
    """A key to make. expires_at: seconds since 1970; never when left out."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True), NoNul]
    scopes: Annotated[list[str], Field(min_length=1, max_length=len(SCOPES))]
    expires_at: Annotated[float, Field(gt=0, lt=1e11)] | None = None

    def check(self) -> None:
        """Refusal for an unknown scope, or an end that is past."""
        unknown = sorted(set(self.scopes) - set(SCOPES))
        if unknown:
            raise Refusal(
                400,
                "invalid_value",
                f"There is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}.",
                param="scopes",
            )
        if self.expires_at is not None and self.expires_at <= time.time():
            raise Refusal(400, "invalid_value", "This key would have expired already.", param="expires_at")


@router.get("")
def list_keys(person: Somebody, parts: Parts) -> dict[str, Any]:
    """The person's keys."""
    return {"items": [key.view() for key in parts.keys.owned_by(person.id)]}


@router.post("", status_code=201)
def create_key(body: NewKey, anyone: Anyone, person: Somebody, parts: Parts) -> dict[str, Any]:
    """Make a key; its secret is shown this once."""
    _check_may(parts, person)
    body.check()
    if "metrics" in body.scopes and not person.is_admin:
        raise Refusal(403, "not_allowed", "The scope metrics is for admins.", param="scopes")
    key, secret = parts.keys.create(person.id, body.name, body.scopes, body.expires_at, anyone.actor)
    return {"key": key.view(), "secret": secret}


@router.delete("/{key_id}")
def revoke_key(key_id: str, anyone: Anyone, person: Somebody, parts: Parts) -> dict[str, Any]:
    """End a key."""
    key = parts.keys.revoke(key_id, person.id, anyone.actor)
    if key is None:
        raise not_found()
    return key.view()


def _check_may(parts: Context, person: Person) -> None:
    """Refusal unless the person may make keys."""
    if not person.is_admin and (person.is_guest or not parts.settings.current.user_keys):
        raise Refusal(403, "not_allowed", "Keys are made by the operator here.")
