"""The service's tables, as SQLAlchemy models: the same on SQLite and PostgreSQL.

Ids are random text, times are seconds since 1970. Whatever belongs to a person goes with the person's row.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import JSON, Boolean, Double, ForeignKey, Index, Integer, MetaData, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id() -> str:
    """96 random bits: nobody guesses one, and none comes twice."""
    return secrets.token_hex(12)


class Table(DeclarativeBase):
    """Base of the tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it so
        str: Text,
        float: Double,
        bool: Boolean,
        int: Integer,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


def _owned(column: str, **options: Any) -> Mapped[Any]:
    """A column that names a row of another table, and goes when that goes."""
    return mapped_column(ForeignKey(column, ondelete="CASCADE"), **options)


class User(Table):
    """An account. name_key: the name as it is compared. password_hash: None for guests."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    name_key: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]
    role: Mapped[str]
    disabled: Mapped[bool] = mapped_column(default=False)
    consent: Mapped[bool]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=time.time)
    last_seen_at: Mapped[float | None]


class SessionRow(Table):
    """Somebody signed in. hash: sha256 of what the cookie holds."""

    __tablename__ = "sessions"

    hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = _owned("users.id", index=True)
    created_at: Mapped[float]
    last_seen_at: Mapped[float]


class ConversationRow(Table):
    """A conversation. consent: None for the account's. title_source: "", words, model or user. current_id: a message.

    settings: those that differ from the account's.
    """

    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_list", "user_id", "archived", "updated_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[str] = _owned("users.id")
    title: Mapped[str] = mapped_column(default="")
    title_source: Mapped[str] = mapped_column(default="")
    archived: Mapped[bool] = mapped_column(default=False)
    consent: Mapped[bool | None]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    current_id: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=time.time)
    updated_at: Mapped[float] = mapped_column(default=time.time)


class MessageRow(Table):
    """A message of a conversation's tree. position: parents before children. key: the page's, against asking twice.

    content: while it runs, the text before event `base_event` + 1; what came since is in `answer_events`. last_event:
    the number of its last event when it ended. model_hash: of the weights that answered.
    """

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("conversation_id", "position"), UniqueConstraint("conversation_id", "key"))

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[str] = _owned("conversations.id")
    # No cascade: rows go with their conversation, and SQLite's cascades cannot follow a chain of a thousand.
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id"), index=True)
    position: Mapped[int]
    key: Mapped[str | None]
    role: Mapped[str]
    content: Mapped[str] = mapped_column(default="")
    status: Mapped[str] = mapped_column(default="done", index=True)
    finish_reason: Mapped[str | None]
    base_event: Mapped[int] = mapped_column(default=0)
    last_event: Mapped[int] = mapped_column(default=0)
    model: Mapped[str | None]
    model_hash: Mapped[str | None]
    instructions: Mapped[str] = mapped_column(default="")
    sampling: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    dropped: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int | None]
    answer_tokens: Mapped[int | None]
    notice: Mapped[str | None]
    moderation: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[float] = mapped_column(default=time.time)


class EventRow(Table):
    """Pieces of an answer under way: the one numbered `first`, and those after it."""

    __tablename__ = "answer_events"

    message_id: Mapped[str] = _owned("messages.id", primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    pieces: Mapped[list[str]]


class FeedbackRow(Table):
    """What a person thinks of one answer. length: how many characters the answer had then."""

    __tablename__ = "feedback"

    message_id: Mapped[str] = _owned("messages.id", primary_key=True)
    user_id: Mapped[str] = _owned("users.id", index=True)
    vote: Mapped[str]
    text: Mapped[str] = mapped_column(default="")
    length: Mapped[int]
    created_at: Mapped[float]
    updated_at: Mapped[float] = mapped_column(index=True)


class FeedbackTagRow(Table):
    """A tag of a rating."""

    __tablename__ = "feedback_tags"

    message_id: Mapped[str] = _owned("feedback.message_id", primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)


class ComparisonRow(Table):
    """Two answers side by side below one question. choice: None until somebody chose."""

    __tablename__ = "comparisons"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[str] = _owned("conversations.id", index=True)
    parent_id: Mapped[str] = _owned("messages.id")
    answer_a: Mapped[str] = _owned("messages.id")
    answer_b: Mapped[str] = _owned("messages.id")
    choice: Mapped[str | None]
    text: Mapped[str] = mapped_column(default="")
    created_at: Mapped[float] = mapped_column(default=time.time)
    updated_at: Mapped[float] = mapped_column(default=time.time)


class ShareRow(Table):
    """The public link of a conversation: it shows the branch that ends in `message_id`."""

    __tablename__ = "shares"

    token: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = _owned("conversations.id", unique=True)
    message_id: Mapped[str] = _owned("messages.id")
    created_at: Mapped[float] = mapped_column(default=time.time)


class KeyRow(Table):
    """An API key. hash: sha256 of the secret, which is shown once and kept nowhere; prefix: its first characters."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[str] = _owned("users.id", index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[float] = mapped_column(default=time.time)
    last_used_at: Mapped[float | None]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class AuditRow(Table):
    """Something that an operator may have to answer for. It outlives the people it names."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[float] = mapped_column(default=time.time, index=True)
    actor_id: Mapped[str | None]
    actor_name: Mapped[str]
    action: Mapped[str] = mapped_column(index=True)
    target: Mapped[str] = mapped_column(default="")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    source: Mapped[str] = mapped_column(default="")


class SettingRow(Table):
    """A setting of the operator that is not as it comes."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
