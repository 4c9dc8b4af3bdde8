"""A conversation's messages as a tree: questions and answers in turn, each with as many versions as were tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

from chatwright.records import Message
from chatwright.service.tables import MessageRow

CONTINUABLE = ("stopped", "interrupted")
SAID = ("done", "stopped", "interrupted", "running")  # a status whose text belongs to the conversation
GO_ON = frozenset({"继续", "繼續", "继续说", "continue", "go on"})


class Said(NamedTuple):
    """What a turn needs to know of a message; see `MessageRow`."""

    id: str
    parent_id: str | None
    position: int
    key: str | None
    role: str
    content: str
    status: str
    finish_reason: str | None
    last_event: int
    model: str | None
    instructions: str


Row = TypeVar("Row", MessageRow, Said)


class Tree(Generic[Row]):
    """The messages of one conversation, oldest first."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: list[Row] = sorted(rows, key=lambda row: row.position)

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """Each message by its id."""
        return {row.id: row for row in self.rows}

    @cached_property
    def children(self) -> dict[str | None, list[str]]:
        """The ids below each message, oldest first; below None the roots."""
        below: dict[str | None, list[str]] = {}
        for row in self.rows:
            below.setdefault(row.parent_id, []).append(row.id)
        return below

    @property
    def running(self) -> bool:
        """Whether an answer is under way."""
        return any(row.status == "running" for row in self.rows)

    def path(self, leaf_id: str | None) -> list[Row]:
        """The branch that ends in a message, from its root; of nothing where there is no such message."""
        branch = []
        row = self.by_id.get(leaf_id or "")
        while row is not None:
            branch.append(row)
            row = self.by_id.get(row.parent_id or "")
        return branch[::-1]

    def newest_leaf(self, message_id: str) -> str:
        """From a message down, always to the newest version."""
        while below := self.children.get(message_id):
            message_id = below[-1]
        return message_id

    def can_continue(self, row: Row) -> bool:
        """Whether an answer was cut, and nothing was said after it yet."""
        cut = row.status in CONTINUABLE or (row.status == "done" and row.finish_reason == "length")
        return row.role == "assistant" and cut and bool(row.content) and not self.children.get(row.id)


def spoken(branch: Sequence[Row], instructions: str = "") -> list[Message]:
    """A branch as the model reads it: without what was blocked or failed, and the questions those belong to."""
    messages = [Message(role="system", content=instructions)] if instructions else []
    for place, row in enumerate(branch):
        answered = branch[place + 1] if place + 1 < len(branch) else None
        unanswered = answered is not None and (answered.status not in SAID or not answered.content)
        if row.status in SAID and row.content and not (row.role == "user" and unanswered):
            messages.append(Message(role="user" if row.role == "user" else "assistant", content=row.content))
    return messages


def asks_to_go_on(text: str) -> bool:
    """Whether a question only wants the answer above it to go on.

    >>> asks_to_go_on("继续。"), asks_to_go_on("Continue"), asks_to_go_on("Continue the story of Anna")
    (True, True, False)
    """
    return text.strip().rstrip(".。!！…").casefold() in GO_ON
