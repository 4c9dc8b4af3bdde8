"""What was collected, as records for training: only with consent, scrubbed, and not too much of any one person."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.inference.prompts import as_trained
from chatwright.records import Comparison, Conversation, Feedback, Message, Record
from chatwright.service.conversations import read_tree
from chatwright.service.database import Database, Rows
from chatwright.service.scrub import scrub
from chatwright.service.tables import ComparisonRow, ConversationRow, FeedbackRow, FeedbackTagRow, MessageRow, User
from chatwright.service.tree import spoken
from chatwright.storage import keyed_uniform

Kind = Literal["feedback", "conversations", "comparisons"]
KINDS: tuple[str, ...] = get_args(Kind)
SOURCE = "chat"
BOTH_BAD = "chat/both_bad"  # a tie of answers that nobody would want
TIERS = {"a": [[0], [1]], "b": [[1], [0]], "tie": [[0, 1]], "both_bad": [[0, 1]]}
WHOLE = ("done", "stopped")


@dataclass(frozen=True)
class Choice:
    """Which records. since, until: seconds since 1970. per_user: the most of one person, drawn by the records' ids."""

    since: float | None = None
    until: float | None = None
    model: str | None = None
    per_user: int = 1000


@dataclass(frozen=True)
class Entry:
    """A record that might be exported."""

    id: str
    user_id: str
    conversation_id: str
    at: float


def export(database: Database, kind: Kind, choice: Choice) -> Iterator[Record]:
    """The records of a kind, oldest first. Each is read in a transaction of its own, so that no writer waits."""
    entries, make = KIND[kind]
    with database.read() as session:
        found = [Entry(*row) for row in session.execute(_consented(entries(choice), choice))]
    for entry in capped(found, choice.per_user):
        with database.read() as session:
            record = make(session, entry)
        if record is not None:
            yield record


def capped(entries: Iterable[Entry], per_user: int) -> list[Entry]:
    """At most so many entries of each person, whichever their ids draw; oldest first."""
    by_user: dict[str, list[Entry]] = {}
    for entry in entries:
        by_user.setdefault(entry.user_id, []).append(entry)
    kept = [
        entry
        for owned in by_user.values()
        for entry in sorted(owned, key=lambda entry: keyed_uniform("export", entry.id))[:per_user]
    ]
    return sorted(kept, key=lambda entry: (entry.at, entry.id))


def pseudonym(user_id: str) -> str:
    """What stands for a person in exports; who has the database can find the person by it, nobody else can.

    >>> pseudonym("0123456789abcdef01234567")
    'u_a0b2ebd0b1d5b0a6'
    """
    return f"u_{hashlib.sha256(user_id.encode()).hexdigest()[:16]}"


def has_consented() -> sa.ColumnElement[bool]:
    """Conversations that may be used: the conversation's own word, else the account's."""
    return sa.func.coalesce(ConversationRow.consent, User.consent).is_(True)


def _consented(wanted: Rows, choice: Choice) -> Rows:
    """Join what a query needs for consent, and keep what has it."""
    wanted = wanted.join(User, User.id == ConversationRow.user_id).where(has_consented())
    if choice.model is not None:
        inside = sa.select(MessageRow.conversation_id).where(MessageRow.model == choice.model)
        wanted = wanted.where(ConversationRow.id.in_(inside))
    return wanted


def _between(wanted: Rows, at: Any, choice: Choice) -> Rows:
    if choice.since is not None:
        wanted = wanted.where(at >= choice.since)
    if choice.until is not None:
        wanted = wanted.where(at < choice.until)
    return wanted


# --- conversations ---


def _conversation_entries(choice: Choice) -> Rows:
    row = ConversationRow
    return _between(sa.select(row.id, row.user_id, row.id, row.updated_at), row.updated_at, choice)


def _conversation(session: Session, entry: Entry) -> Record | None:
    """The branch that its owner looked at last, up to its last whole answer."""
    row = session.get(ConversationRow, entry.conversation_id)
    if row is None:
        return None
    branch = read_tree(session, row.id).path(row.current_id)
    while branch and not (branch[-1].role == "assistant" and branch[-1].status in WHOLE and branch[-1].content):
        branch.pop()
    if not branch:
        return None
    last = branch[-1]
    messages = _scrubbed([*_asked(branch[:-1], last), Message(role="assistant", content=last.content)])
    meta = {
        "user": pseudonym(entry.user_id),
        "model": last.model,
        "model_hash": last.model_hash,
        "updated": row.updated_at,
    }
    return Conversation(id=row.id, messages=messages, source=SOURCE, meta=meta)


# --- ratings ---


def _feedback_entries(choice: Choice) -> Rows:
    row = FeedbackRow
    wanted = sa.select(row.message_id, row.user_id, MessageRow.conversation_id, row.updated_at)
    wanted = wanted.join(MessageRow, MessageRow.id == row.message_id)
    if choice.model is not None:
        wanted = wanted.where(MessageRow.model == choice.model)
    wanted = wanted.join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
    return _between(wanted, row.updated_at, choice)


def _feedback(session: Session, entry: Entry) -> Record | None:
    row, answer = session.get(FeedbackRow, entry.id), session.get(MessageRow, entry.id)
    if row is None or answer is None or not answer.content[: row.length]:
        return None
    tree = read_tree(session, answer.conversation_id)
    tags = session.scalars(sa.select(FeedbackTagRow.tag).where(FeedbackTagRow.message_id == entry.id))
    return Feedback(
        id=answer.id,
        prompt=_scrubbed(_asked(tree.path(answer.parent_id), answer)),
        answer=scrub(answer.content[: row.length], model=True),
        vote="up" if row.vote == "up" else "down",
        tags=sorted(tags),
        text=scrub(row.text),
        model=answer.model or "",
        model_hash=answer.model_hash or "",
        sampling=answer.sampling or {},
        user=pseudonym(entry.user_id),
        created=row.created_at,
        updated=row.updated_at,
        source=SOURCE,
    )


# --- comparisons ---


def _comparison_entries(choice: Choice) -> Rows:
    row = ComparisonRow
    wanted = sa.select(row.id, ConversationRow.user_id, row.conversation_id, row.updated_at)
    wanted = wanted.join(ConversationRow, ConversationRow.id == row.conversation_id)
    return _between(wanted.where(row.choice.is_not(None)), row.updated_at, choice)


def _comparison(session: Session, entry: Entry) -> Record | None:
    row = session.get(ComparisonRow, entry.id)
    if row is None or row.choice is None:
        return None
    tree = read_tree(session, row.conversation_id)
    answers = [tree.by_id[row.answer_a], tree.by_id[row.answer_b]]
    if not all(answer.content and answer.status in WHOLE for answer in answers):
        return None
    return Comparison(
        id=row.id,
        prompt=_scrubbed(_asked(tree.path(row.parent_id), answers[0])),
        answers=[scrub(answer.content, model=True) for answer in answers],
        tiers=TIERS[row.choice],
        labeler=pseudonym(entry.user_id),
        source=BOTH_BAD if row.choice == "both_bad" else SOURCE,
        meta={"text": scrub(row.text)} if row.text else {},
    )


Make = Callable[[Session, Entry], "Record | None"]
KIND: dict[str, tuple[Callable[[Choice], Rows], Make]] = {
    "conversations": (_conversation_entries, _conversation),
    "feedback": (_feedback_entries, _feedback),
    "comparisons": (_comparison_entries, _comparison),
}


def _asked(branch: Sequence[MessageRow], answer: MessageRow) -> list[Message]:
    """What the answer was made from, in the shape that models are trained on."""
    return as_trained(spoken(branch, answer.instructions))


def _scrubbed(messages: Iterable[Message]) -> list[Message]:
    return [
        message.model_copy(update={"content": scrub(message.text, model=message.role == "assistant")})
        for message in messages
    ]
