"""Rows of the database as the page gets them: the shapes of docs/service_api.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatwright.service.tables import ComparisonRow, ConversationRow, FeedbackRow, MessageRow, ShareRow
from chatwright.service.tree import Tree

Running = Callable[[str], "tuple[str, int] | None"]  # of a message under way: its text so far, and its last event

TURN_KEYS = ("model", "instructions", "temperature", "top_p", "max_tokens")


@dataclass(frozen=True)
class Extras:
    """What belongs to messages and stands in other tables, by message."""

    feedback: Mapping[str, FeedbackRow] = field(default_factory=dict)
    tags: Mapping[str, list[str]] = field(default_factory=dict)
    comparisons: Mapping[str, str] = field(default_factory=dict)  # the comparison that an answer stands in


def message(row: MessageRow, tree: Tree[MessageRow], extras: Extras, running: Running) -> dict[str, Any]:
    """A message with its place in the tree."""
    content, last_event = row.content, row.last_event
    live = running(row.id) if row.status == "running" else None
    if live is not None:
        content, last_event = live
    rating = extras.feedback.get(row.id)
    tokens = None if row.answer_tokens is None else {"prompt": row.prompt_tokens, "answer": row.answer_tokens}
    return {
        "id": row.id,
        "conversation_id": row.conversation_id,
        "parent_id": row.parent_id,
        "children": tree.children.get(row.id, []),
        "versions": tree.children[row.parent_id],
        "role": row.role,
        "content": "" if hidden(row) else content,
        "status": row.status,
        "finish_reason": row.finish_reason,
        "can_continue": tree.can_continue(row),
        "model": row.model,
        "model_hash": row.model_hash,
        "sampling": row.sampling,
        "created_at": row.created_at,
        "last_event": last_event,
        "dropped": row.dropped,
        "tokens": tokens,
        "notice": row.notice,
        "moderation": row.moderation,
        "feedback": None if rating is None else feedback(rating, extras.tags.get(row.id, [])),
        "comparison_id": extras.comparisons.get(row.id),
    }


def hidden(row: MessageRow) -> bool:
    """Whether the text is an answer that was found bad: kept for the operator, shown to nobody else."""
    return row.role == "assistant" and row.status == "blocked"


def feedback(row: FeedbackRow, tags: Sequence[str]) -> dict[str, Any]:
    """A rating."""
    return {"vote": row.vote, "tags": sorted(tags), "text": row.text, "updated_at": row.updated_at}


def comparison(row: ComparisonRow) -> dict[str, Any]:
    """Two answers side by side."""
    return {
        "id": row.id,
        "parent_id": row.parent_id,
        "answers": [row.answer_a, row.answer_b],
        "choice": row.choice,
        "text": row.text,
        "created_at": row.created_at,
    }


def share(row: ShareRow) -> dict[str, Any]:
    """A public link."""
    return {
        "token": row.token,
        "path": f"/share/{row.token}",
        "message_id": row.message_id,
        "created_at": row.created_at,
    }


def summary(row: ConversationRow, running: bool) -> dict[str, Any]:
    """A conversation in the list."""
    return {
        "id": row.id,
        "title": row.title,
        "archived": row.archived,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "running": running,
    }


def turn_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of answers, None for those that are not set."""
    return {key: settings.get(key) for key in TURN_KEYS}


def account_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an account."""
    return {key: settings.get(key) for key in (*TURN_KEYS, "language", "theme")}
