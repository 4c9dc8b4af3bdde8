"""What an operator sees and changes: people, ratings, comparisons, the audit log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.service import audit, sessions
from chatwright.service.accounts import keep_an_admin
from chatwright.service.audit import Actor
from chatwright.service.database import Database, Rows
from chatwright.service.exports import has_consented
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.tables import (
    AuditRow,
    ComparisonRow,
    ConversationRow,
    FeedbackRow,
    FeedbackTagRow,
    MessageRow,
    SessionRow,
    User,
)

MOST_ITEMS = 200  # of a page
ACTIVE_SECONDS = 300.0
NEW_PASSWORD_BYTES = 12


@dataclass(frozen=True)
class Page:
    """Which part of a list: pages from 1, so many items each."""

    number: int = 1
    items: int = 50

    def of(self, session: Session, wanted: Rows) -> tuple[Sequence[Any], int]:
        """The rows of this page of a query that is in order, and how many rows there are in all."""
        total = session.scalar(sa.select(sa.func.count()).select_from(wanted.order_by(None).subquery())) or 0
        return session.execute(wanted.limit(self.items).offset((self.number - 1) * self.items)).all(), total

    def view(self, items: list[dict[str, Any]], total: int, **more: Any) -> dict[str, Any]:
        """The page as it is sent."""
        return {"items": items, "total": total, "page": self.number, "limit": self.items, **more}


class Admin:
    """The operator's view of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- people ---

    def users(self, page: Page, search: str = "", role: str | None = None) -> dict[str, Any]:
        """People, newest first."""
        wanted = _users()
        if search:
            wanted = wanted.where(sa.func.lower(User.name).contains(search.lower(), autoescape=True))
        if role is not None:
            wanted = wanted.where(User.role == role)
        with self._database.read() as session:
            rows, total = page.of(session, wanted.order_by(User.created_at.desc(), User.id))
        return page.view([_user(row) for row in rows], total)

    def change_user(self, user_id: str, changes: Mapping[str, Any], actor: Actor) -> dict[str, Any]:
        """Change a person's role, or disable or enable the account; either ends the person's sessions."""
        with self._database.write() as session:
            user = session.scalar(sa.select(User).where(User.id == user_id).with_for_update())
            if user is None:
                raise not_found()
            if user.role == "guest" and "role" in changes:
                raise Refusal(409, "not_allowed", "A guest has no password and can have no other role.")
            loses = changes.get("role", "admin") != "admin" or changes.get("disabled", False)
            if user.role == "admin" and loses:
                keep_an_admin(session, user_id)
            for key, value in changes.items():
                setattr(user, key, value)
            if loses:
                sessions.end_all(session, user_id)
            audit.note(session, actor, "user_changed", user_id, **changes)
            session.flush()
            return _user(session.execute(_users().where(User.id == user_id)).one())

    def signed_in(self) -> int:
        """How many people were seen in the last minutes."""
        seen = SessionRow.last_seen_at > time.time() - ACTIVE_SECONDS
        with self._database.read() as session:
            return session.scalar(sa.select(sa.func.count(sa.distinct(SessionRow.user_id))).where(seen)) or 0

    # --- what they said of answers ---

    def feedback(self, page: Page, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Ratings, those given last first. filters: see `_rated`; None or absent for no filter."""
        conditions = _rated({key: value for key, value in filters.items() if value is not None})
        question = sa.orm.aliased(MessageRow)
        consent = sa.func.coalesce(ConversationRow.consent, User.consent)
        joined = (
            sa.select(FeedbackRow, MessageRow, question.content, User.id, User.name, consent)
            .join(MessageRow, MessageRow.id == FeedbackRow.message_id)
            .join(question, question.id == MessageRow.parent_id)
            .join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
            .join(User, User.id == ConversationRow.user_id)
            .where(*conditions)
        )
        with self._database.read() as session:
            rows, total = page.of(session, joined.order_by(FeedbackRow.updated_at.desc(), FeedbackRow.message_id))
            votes = joined.with_only_columns(FeedbackRow.vote, sa.func.count()).group_by(FeedbackRow.vote)
            counts = {row.vote: row[1] for row in session.execute(votes)}
            tags = _tags(session, [row[0].message_id for row in rows])
        items = [
            {
                "conversation_id": answer.conversation_id,
                "message_id": answer.id,
                "user_id": user_id,
                "user_name": user_name,
                "vote": rating.vote,
                "tags": tags.get(answer.id, []),
                "text": rating.text,
                "model": answer.model,
                "model_hash": answer.model_hash,
                "sampling": answer.sampling,
                "question": asked,
                "answer": answer.content,
                "consent": bool(agreed),
                "created_at": rating.created_at,
                "updated_at": rating.updated_at,
            }
            for rating, answer, asked, user_id, user_name, agreed in rows
        ]
        return page.view(items, total, counts={vote: counts.get(vote, 0) for vote in ("up", "down")})

    def comparisons(self, page: Page, choice: str | None = None) -> dict[str, Any]:
        """Comparisons in which somebody chose, the last first."""
        question, a, b = (sa.orm.aliased(MessageRow) for _ in range(3))
        consent = sa.func.coalesce(ConversationRow.consent, User.consent)
        wanted = (
            sa.select(ComparisonRow, question.content, a, b, User.id, User.name, consent)
            .join(question, question.id == ComparisonRow.parent_id)
            .join(a, a.id == ComparisonRow.answer_a)
            .join(b, b.id == ComparisonRow.answer_b)
            .join(ConversationRow, ConversationRow.id == ComparisonRow.conversation_id)
            .join(User, User.id == ConversationRow.user_id)
            .where(ComparisonRow.choice.is_not(None) if choice is None else ComparisonRow.choice == choice)
        )
        with self._database.read() as session:
            rows, total = page.of(session, wanted.order_by(ComparisonRow.updated_at.desc(), ComparisonRow.id))
        items = [
            {
                "id": pair.id,
                "conversation_id": pair.conversation_id,
                "user_id": user_id,
                "user_name": user_name,
                "question": asked,
                "answers": [
                    {"message_id": answer.id, "model": answer.model, "content": answer.content} for answer in answers
                ],
                "choice": pair.choice,
                "text": pair.text,
                "consent": bool(agreed),
                "created_at": pair.created_at,
                "updated_at": pair.updated_at,
            }
            for pair, asked, *answers, user_id, user_name, agreed in rows
        ]
        return page.view(items, total)

    # --- the log ---

    def log(self, page: Page, action: str | None = None, actor: str | None = None) -> dict[str, Any]:
        """The audit log, newest first. actor: part of a name."""
        wanted = sa.select(AuditRow)
        if action is not None:
            wanted = wanted.where(AuditRow.action == action)
        if actor:
            wanted = wanted.where(sa.func.lower(AuditRow.actor_name).contains(actor.lower(), autoescape=True))
        with self._database.read() as session:
            rows, total = page.of(session, wanted.order_by(AuditRow.at.desc(), AuditRow.id))
        names = ("id", "at", "actor_id", "actor_name", "action", "target", "details", "source")
        return page.view([{name: getattr(row, name) for name in names} for (row,) in rows], total)

    def note(self, actor: Actor, action: audit.Action, target: str = "", **details: Any) -> None:
        """Add a line to the log."""
        with self._database.write() as session:
            audit.note(session, actor, action, target, **details)


def new_password() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(NEW_PASSWORD_BYTES)


def _users() -> Rows:
    """People with how much they did."""

    def count(rows: Any, condition: Any) -> Any:
        return sa.select(sa.func.count()).select_from(rows).where(condition).correlate(User).scalar_subquery()

    said = sa.join(MessageRow, ConversationRow, MessageRow.conversation_id == ConversationRow.id)
    asked = (ConversationRow.user_id == User.id) & (MessageRow.role == "user")
    return sa.select(
        User,
        count(ConversationRow, ConversationRow.user_id == User.id),
        count(said, asked),
        count(FeedbackRow, FeedbackRow.user_id == User.id),
    )


def _user(row: Any) -> dict[str, Any]:
    user, conversations, messages, feedback = row
    names = ("id", "name", "role", "disabled", "consent", "created_at", "last_seen_at")
    shown = {name: getattr(user, name) for name in names}
    return {**shown, "conversations": conversations, "messages": messages, "feedback": feedback}


def _rated(filters: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    """Conditions on ratings. user: a name's part or an id; search: in the rating's text and the answer's."""
    conditions: list[sa.ColumnElement[bool]] = []
    for key, value in filters.items():
        match key:
            case "vote":
                conditions.append(FeedbackRow.vote == value)
            case "tag":
                tagged = sa.select(FeedbackTagRow.message_id).where(FeedbackTagRow.tag == value)
                conditions.append(FeedbackRow.message_id.in_(tagged))
            case "model":
                conditions.append(MessageRow.model == value)
            case "user":
                named = sa.func.lower(User.name).contains(value.lower(), autoescape=True)
                conditions.append((User.id == value) | named)
            case "search":
                columns = FeedbackRow.text, MessageRow.content
                found = [sa.func.lower(column).contains(value.lower(), autoescape=True) for column in columns]
                conditions.append(sa.or_(*found))
            case "since":
                conditions.append(FeedbackRow.updated_at >= value)
            case "until":
                conditions.append(FeedbackRow.updated_at < value)
            case "consent":
                conditions.append(has_consented() if value else ~has_consented())
    return conditions


def _tags(session: Session, ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    wanted = sa.select(FeedbackTagRow).where(FeedbackTagRow.message_id.in_(ids)).order_by(FeedbackTagRow.tag)
    for row in session.scalars(wanted):
        found.setdefault(row.message_id, []).append(row.tag)
    return found
