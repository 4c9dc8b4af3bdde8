"""The audit log: who did what that an operator may have to answer for. Never what people said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from chatwright.service.tables import AuditRow

Action = Literal[
    "login_failed",
    "signup_refused",
    "account_created",
    "account_deleted",
    "password_changed",
    "user_changed",
    "user_deleted",
    "password_reset",
    "settings_changed",
    "key_created",
    "key_revoked",
    "conversation_viewed",
    "exported",
    "share_created",
    "share_deleted",
    "admin_created",
]


@dataclass(frozen=True)
class Actor:
    """Who did it, and from which address. id: None for those not signed in and for the command line."""

    id: str | None
    name: str
    source: str = ""


def note(session: Session, actor: Actor, action: Action, target: str = "", **details: Any) -> None:
    """Add a line to the log, in the transaction of what it tells of."""
    row = AuditRow(actor_id=actor.id, actor_name=actor.name, action=action, target=target, details=details)
    row.source = actor.source
    session.add(row)
