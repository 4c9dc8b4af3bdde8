"""Conversations: listed, searched, read, changed, shared and deleted, always by their owner alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.service import audit, views
from chatwright.service.accounts import merged
from chatwright.service.audit import Actor
from chatwright.service.database import Database
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.tables import (
    ComparisonRow,
    ConversationRow,
    FeedbackRow,
    FeedbackTagRow,
    MessageRow,
    ShareRow,
    User,
)
from chatwright.service.tree import Tree
from chatwright.service.views import Extras, Running

LONGEST_TITLE = 200  # characters
PAGE_MOST = 200  # items of a list
SNIPPET = 160  # characters
MOST_CONVERSATIONS = 10_000  # of one person

# What every turn asks is built once, since that takes longer than the database's answer.
_OWNED = sa.select(ConversationRow).where(
    ConversationRow.id == sa.bindparam("conversation"), ConversationRow.user_id == sa.bindparam("user")
)
_OWNED_LOCKED = _OWNED.with_for_update()
_OWNED_MESSAGE = (
    sa.select(MessageRow.id)
    .join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
    .where(MessageRow.id == sa.bindparam("message"), ConversationRow.id == sa.bindparam("conversation"))
    .where(ConversationRow.user_id == sa.bindparam("user"))
)
_MESSAGES = sa.select(MessageRow).where(MessageRow.conversation_id == sa.bindparam("conversation"))
_RATED = (
    sa.select(FeedbackRow, FeedbackTagRow.tag)
    .join(MessageRow, MessageRow.id == FeedbackRow.message_id)
    .outerjoin(FeedbackTagRow, FeedbackTagRow.message_id == FeedbackRow.message_id)
    .where(MessageRow.conversation_id == sa.bindparam("conversation"))
)
_COMPARED = sa.select(ComparisonRow).where(ComparisonRow.conversation_id == sa.bindparam("conversation"))


class Conversations:
    """The conversations in a database. running: see `views.Running`."""

    def __init__(self, database: Database, running: Running = lambda _: None) -> None:
        self._database, self._running = database, running
        self._owned_message = database.prepare(_OWNED_MESSAGE)

    def page(
        self, user_id: str, search: str = "", archived: bool | None = False, limit: int = 50, cursor: str = ""
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of the person's conversations, newest use first, and where the next page begins.

        archived: None for all. search: found in titles and messages, whatever the case.
        """
        wanted = sa.select(ConversationRow).where(ConversationRow.user_id == user_id)
        if archived is not None:
            wanted = wanted.where(ConversationRow.archived.is_(archived))
        if search:
            said = sa.select(MessageRow.conversation_id).where(_says(search))
            wanted = wanted.where(_contains(ConversationRow.title, search) | ConversationRow.id.in_(said))
        if cursor:
            at, last = _read_cursor(cursor)
            row = ConversationRow
            wanted = wanted.where((row.updated_at < at) | ((row.updated_at == at) & (row.id > last)))
        wanted = wanted.order_by(ConversationRow.updated_at.desc(), ConversationRow.id).limit(limit + 1)
        with self._database.read() as session:
            rows = session.scalars(wanted).all()
            more, rows = len(rows) > limit, rows[:limit]
            busy = _running_among(session, [row.id for row in rows])
            snippets = _snippets(session, [row.id for row in rows], search) if search else {}
        items = [{**views.summary(row, row.id in busy), "snippet": snippets.get(row.id)} for row in rows]
        return items, f"{rows[-1].updated_at!r}_{rows[-1].id}" if more else None

    def create(self, user_id: str, title: str, settings: dict[str, Any], consent: bool | None) -> dict[str, Any]:
        """A new conversation. Refusal when the person has too many."""
        with self._database.write() as session:
            owned = sa.select(sa.func.count()).where(ConversationRow.user_id == user_id)
            if (session.scalar(owned) or 0) >= MOST_CONVERSATIONS:
                raise Refusal(409, "conversation_full", "There are too many conversations; delete some first.")
            row = ConversationRow(user_id=user_id, title=title, settings=merged({}, settings), consent=consent)
            row.title_source = "user" if title else ""
            session.add(row)
            session.flush()
            return self._view(session, row)

    def read(self, user_id: str, conversation_id: str) -> dict[str, Any]:
        """A conversation with all its messages."""
        with self._database.read() as session:
            return self._view(session, owned(session, user_id, conversation_id))

    def read_any(self, conversation_id: str, actor: Actor) -> dict[str, Any]:
        """Anybody's conversation, for an operator; the audit log remembers."""
        with self._database.write() as session:
            row = session.get(ConversationRow, conversation_id)
            if row is None:
                raise not_found()
            audit.note(session, actor, "conversation_viewed", conversation_id, user=row.user_id)
            user = session.get_one(User, row.user_id)
            return {**self._view(session, row), "user": {"id": user.id, "name": user.name}}

    def change(self, user_id: str, conversation_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Take changes of title, archived, consent, settings and current_id; only of the keys given."""
        with self._database.write() as session:
            row = owned(session, user_id, conversation_id, lock=True)
            if "title" in changes:
                row.title, row.title_source = changes["title"], "user"
            if "archived" in changes:
                row.archived = changes["archived"]
            if "consent" in changes:
                row.consent = changes["consent"]
            if "settings" in changes:
                row.settings = merged(row.settings, changes["settings"])
            if "current_id" in changes:
                tree = read_tree(session, conversation_id)
                if changes["current_id"] not in tree.by_id:
                    raise not_found()
                row.current_id = tree.newest_leaf(changes["current_id"])
            session.flush()
            return self._view(session, row)

    def delete(self, user_id: str, conversation_id: str) -> None:
        """Delete a conversation."""
        with self._database.write() as session:
            owned(session, user_id, conversation_id, lock=True)
            session.execute(sa.delete(ConversationRow).where(ConversationRow.id == conversation_id))

    def delete_all(self, user_id: str) -> None:
        """Delete all of a person's conversations."""
        with self._database.write() as session:
            session.execute(sa.delete(ConversationRow).where(ConversationRow.user_id == user_id))

    def check(self, user_id: str, conversation_id: str, message_id: str) -> None:
        """Refusal unless it is a message of a conversation of the person."""
        wanted = {"message": message_id, "conversation": conversation_id, "user": user_id}
        with self._database.cursor("read") as cursor:
            there = self._owned_message.rows(cursor, wanted)
        if not there:
            raise not_found()

    def messages(self, user_id: str, conversation_id: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Some messages of a conversation. Refusal when one is not there."""
        return self.excerpt(user_id, conversation_id, ids)[0]

    def excerpt(
        self, user_id: str, conversation_id: str, ids: Sequence[str]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Some messages of a conversation, and the conversation as it stands in the list. Refusal: not there."""
        with self._database.read() as session:
            row = owned(session, user_id, conversation_id)
            tree = read_tree(session, conversation_id)
            if not set(ids) <= set(tree.by_id):
                raise not_found()
            extras = read_extras(session, conversation_id)
        messages = [views.message(tree.by_id[id], tree, extras, self._running) for id in ids]
        return messages, views.summary(row, tree.running)

    def share(self, user_id: str, conversation_id: str, message_id: str | None, actor: Actor) -> dict[str, Any]:
        """Make a public link to a branch; the link of before, if any, ends."""
        with self._database.write() as session:
            row = owned(session, user_id, conversation_id, lock=True)
            tree = read_tree(session, conversation_id)
            leaf = message_id or row.current_id
            if leaf not in tree.by_id or leaf is None:
                raise not_found()
            session.execute(sa.delete(ShareRow).where(ShareRow.conversation_id == conversation_id))
            made = ShareRow(token=secrets.token_urlsafe(24), conversation_id=conversation_id, message_id=leaf)
            session.add(made)
            audit.note(session, actor, "share_created", conversation_id)
            session.flush()
            return views.share(made)

    def unshare(self, user_id: str, conversation_id: str, actor: Actor) -> None:
        """End the public link."""
        with self._database.write() as session:
            owned(session, user_id, conversation_id, lock=True)
            session.execute(sa.delete(ShareRow).where(ShareRow.conversation_id == conversation_id))
            audit.note(session, actor, "share_deleted", conversation_id)

    def shared(self, token: str) -> dict[str, Any]:
        """What a public link shows: one branch, without who said it."""
        with self._database.read() as session:
            link = session.get(ShareRow, token)
            if link is None:
                raise not_found()
            row = session.get_one(ConversationRow, link.conversation_id)
            branch = read_tree(session, row.id).path(link.message_id)
        messages = [
            {
                "role": said.role,
                "content": "" if views.hidden(said) else said.content,
                "model": said.model,
                "status": said.status,
                "notice": said.notice,
            }
            for said in branch
        ]
        return {"title": row.title, "created_at": link.created_at, "messages": messages}

    def _view(self, session: Session, row: ConversationRow) -> dict[str, Any]:
        tree, extras = read_tree(session, row.id), read_extras(session, row.id)
        compared = session.scalars(
            sa.select(ComparisonRow).where(ComparisonRow.conversation_id == row.id).order_by(ComparisonRow.created_at)
        )
        link = session.scalar(sa.select(ShareRow).where(ShareRow.conversation_id == row.id))
        consent = session.scalar(sa.select(User.consent).where(User.id == row.user_id))
        return {
            **views.summary(row, tree.running),
            "consent": row.consent,
            "consent_effective": consent if row.consent is None else row.consent,
            "settings": views.turn_settings(row.settings),
            "current_id": row.current_id,
            "messages": [views.message(said, tree, extras, self._running) for said in tree.rows],
            "comparisons": [views.comparison(pair) for pair in compared],
            "share": None if link is None else views.share(link),
        }


def owned(session: Session, user_id: str, conversation_id: str, lock: bool = False) -> ConversationRow:
    """A person's conversation. Refusal 404 when there is none, or it is somebody else's."""
    row = session.scalar(_OWNED_LOCKED if lock else _OWNED, {"conversation": conversation_id, "user": user_id})
    if row is None:
        raise not_found()
    return row


def read_tree(session: Session, conversation_id: str) -> Tree[MessageRow]:
    """All messages of a conversation."""
    return Tree(session.scalars(_MESSAGES, {"conversation": conversation_id}))


def read_extras(session: Session, conversation_id: str) -> Extras:
    """Ratings and comparisons of a conversation's messages."""
    of = {"conversation": conversation_id}
    ratings: dict[str, FeedbackRow] = {}
    tags: dict[str, list[str]] = {}
    for rating, tag in session.execute(_RATED, of):
        ratings[rating.message_id] = rating
        if tag is not None:
            tags.setdefault(rating.message_id, []).append(tag)
    compared: dict[str, str] = {}
    for pair in session.scalars(_COMPARED, of):
        compared |= {pair.answer_a: pair.id, pair.answer_b: pair.id}
    return Extras(ratings, tags, compared)


def touch(row: ConversationRow) -> None:
    """The conversation was used just now."""
    row.updated_at = time.time()


def _contains(column: Any, text: str) -> sa.ColumnElement[bool]:
    return sa.func.lower(column).contains(text.lower(), autoescape=True)


def _says(text: str) -> sa.ColumnElement[bool]:
    """Messages that show this text."""
    hidden = (MessageRow.role == "assistant") & (MessageRow.status == "blocked")
    return _contains(MessageRow.content, text) & ~hidden


def _running_among(session: Session, ids: Sequence[str]) -> set[str]:
    wanted = sa.select(MessageRow.conversation_id).where(
        MessageRow.conversation_id.in_(ids), MessageRow.status == "running"
    )
    return set(session.scalars(wanted))


def _snippets(session: Session, ids: Sequence[str], text: str) -> dict[str, str]:
    """The surroundings of the first hit in each conversation's messages."""
    wanted = sa.select(MessageRow.conversation_id, MessageRow.content).where(
        MessageRow.conversation_id.in_(ids), _says(text)
    )
    found: dict[str, str] = {}
    for conversation_id, content in session.execute(wanted.order_by(MessageRow.position)):
        if conversation_id not in found:
            place = max(0, content.lower().find(text.lower()) - SNIPPET // 3)
            found[conversation_id] = content[place : place + SNIPPET]
    return found


def _read_cursor(cursor: str) -> tuple[float, str]:
    at, _, last = cursor.partition("_")
    try:
        return float(at), last
    except ValueError:
        raise Refusal(400, "invalid_value", "This cursor is not one that a list gave.", param="cursor") from None


def title_of(text: str, words: int = 8, characters: int = 48) -> str:
    """A title made of a question's first words.

    >>> title_of("What is the capital of Japan, and how many people live there?")
    'What is the capital of Japan, and how…'
    """
    line = " ".join(text.split()[: 4 * words])
    short = " ".join(line.split(" ")[:words])[:characters].rstrip()
    return short if short == " ".join(text.split()) else f"{short}…"
