"""All that is kept of a person, for that person."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from chatwright.service import views
from chatwright.service.conversations import Conversations
from chatwright.service.database import Database
from chatwright.service.stored_keys import StoredKeys
from chatwright.service.tables import AuditRow, ConversationRow, SessionRow, User


def everything(database: Database, conversations: Conversations, keys: StoredKeys, user_id: str) -> dict[str, Any]:
    """The account, its conversations with ratings and choices, its keys and sessions, and what the log has of it."""
    with database.read() as session:
        user = session.get_one(User, user_id)
        owned = sa.select(ConversationRow.id).where(ConversationRow.user_id == user_id)
        ids = session.scalars(owned.order_by(ConversationRow.created_at, ConversationRow.id)).all()
        signed_in = session.scalars(sa.select(SessionRow).where(SessionRow.user_id == user_id)).all()
        logged = session.scalars(sa.select(AuditRow).where(AuditRow.actor_id == user_id).order_by(AuditRow.at)).all()
    return {
        "account": {
            "id": user.id,
            "name": user.name,
            "role": user.role,
            "consent": user.consent,
            "settings": views.account_settings(user.settings),
            "created_at": user.created_at,
            "last_seen_at": user.last_seen_at,
        },
        "conversations": [conversations.read(user_id, id) for id in ids],
        "keys": [key.view() for key in keys.owned_by(user_id)],
        "sessions": [{"created_at": row.created_at, "last_seen_at": row.last_seen_at} for row in signed_in],
        "log": [{"at": row.at, "action": row.action, "source": row.source} for row in logged],
    }
