"""What people think of answers: a rating for each version, and choices between two. The two are never mixed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.service.conversations import owned
from chatwright.service.database import Database
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.tables import ComparisonRow, FeedbackRow, FeedbackTagRow, MessageRow

LONGEST_TEXT = 4000  # characters
TAGS = {
    "up": ("correct", "helpful", "clear", "complete", "creative"),
    "down": (
        "wrong",
        "not_followed",
        "incomplete",
        "too_long",
        "too_short",
        "repetitive",
        "wrong_language",
        "harmful",
        "refused",
        "other",
    ),
}

Vote = Literal["up", "down"]
Pick = Literal["a", "b", "tie", "both_bad"]


class Feedback:
    """Ratings and choices, by the owners of the conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rate(
        self, user_id: str, conversation_id: str, message_id: str, vote: Vote, tags: Sequence[str], text: str
    ) -> None:
        """Rate an answer, or rate it anew. Refusal for a tag of the other vote, or an answer that is not whole."""
        wrong = sorted(set(tags) - set(TAGS[vote]))
        if wrong:
            raise Refusal(400, "invalid_value", f"There is no tag {wrong[0]!r} for thumbs {vote}.", param="tags")
        with self._database.write() as session:
            answer = _answer(session, user_id, conversation_id, message_id)
            if answer.status in ("running", "failed", "blocked"):
                raise Refusal(409, "not_allowed", "Only an answer that is there can be rated.")
            now = time.time()
            row = session.get(FeedbackRow, message_id)
            if row is None:
                row = FeedbackRow(message_id=message_id, user_id=user_id, created_at=now)
                session.add(row)
            row.vote, row.text, row.length, row.updated_at = vote, text, len(answer.content), now
            session.flush()
            session.execute(sa.delete(FeedbackTagRow).where(FeedbackTagRow.message_id == message_id))
            session.add_all(FeedbackTagRow(message_id=message_id, tag=tag) for tag in sorted(set(tags)))

    def unrate(self, user_id: str, conversation_id: str, message_id: str) -> None:
        """Take a rating back; harmless when there is none."""
        with self._database.write() as session:
            _answer(session, user_id, conversation_id, message_id)
            session.execute(sa.delete(FeedbackRow).where(FeedbackRow.message_id == message_id))

    def read(self, comparison_id: str) -> ComparisonRow:
        """Two answers side by side."""
        with self._database.read() as session:
            return session.get_one(ComparisonRow, comparison_id)

    def choose(self, user_id: str, conversation_id: str, comparison_id: str, choice: Pick, text: str) -> ComparisonRow:
        """Say which of two answers is better, or say it anew. The better one becomes the branch that is shown."""
        with self._database.write() as session:
            conversation = owned(session, user_id, conversation_id, lock=True)
            pair = session.get(ComparisonRow, comparison_id)
            if pair is None or pair.conversation_id != conversation_id:
                raise not_found()
            answers = session.scalars(
                sa.select(MessageRow.status).where(MessageRow.id.in_([pair.answer_a, pair.answer_b]))
            )
            if set(answers) & {"running", "failed", "blocked", "interrupted"}:
                raise Refusal(409, "not_allowed", "Two answers can be compared when both are there.")
            pair.choice, pair.text, pair.updated_at = choice, text, time.time()
            below = sa.select(MessageRow.id).where(MessageRow.parent_id.in_([pair.answer_a, pair.answer_b])).limit(1)
            if choice in ("a", "b") and session.scalar(below) is None:
                conversation.current_id = pair.answer_a if choice == "a" else pair.answer_b
            return pair


def _answer(session: Session, user_id: str, conversation_id: str, message_id: str) -> MessageRow:
    owned(session, user_id, conversation_id, lock=True)
    row = session.get(MessageRow, message_id)
    if row is None or row.conversation_id != conversation_id or row.role != "assistant":
        raise not_found()
    return row
