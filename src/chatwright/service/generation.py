"""Answers under way: made apart from whoever reads them, in numbered pieces that are stored while they come.

The engine begins while the question is written; nobody hears of the answer before that is on disk. A reader may leave
and come back at any piece. A writer puts the pieces of all answers into the database together, a few times a second;
the end of an answer is told only after it is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from chatwright.inference.request import Completion, Timing
from chatwright.inference.scheduler import QueueFull
from chatwright.service.choices import Choices
from chatwright.service.database import Database
from chatwright.service.line import Line, LineFull
from chatwright.service.load import Meter
from chatwright.service.moderation import CHECK_CHARACTERS, Moderator, judge
from chatwright.service.refusal import Refusal
from chatwright.service.tables import ConversationRow, EventRow, MessageRow
from chatwright.service.turns import Plan, Task, Turn, judged
from chatwright.service.workers import Workers

FLUSH_SECONDS = 0.25  # what a killed process may lose of an answer under way
RETRY_SECONDS = 1.0  # after the database failed
CLOSE_SECONDS = 5.0
RETRY_AFTER = 5.0
MOST_RUNNING = 4  # answers of one person
FAILED = "The model failed to answer; please try again."
BUSY = "The model is busy; please try again in a moment."

KEEP_ALIVE_SECONDS = 15.0  # proxies close what is silent

_THERE = sa.select(MessageRow.id).where(MessageRow.id == sa.bindparam("message")).with_for_update(key_share=True)
_ADD_PIECES = sa.insert(EventRow)
_USE = sa.update(ConversationRow).where(ConversationRow.id == sa.bindparam("conversation"))
_END = sa.update(MessageRow).where(MessageRow.id == sa.bindparam("message"))
ADDED = ("message_id", "first", "pieces")
ENDING = ("content", "status", "finish_reason", "last_event", "notice", "answer_tokens", "moderation")

log = logging.getLogger("chatwright.service")


@dataclass(frozen=True)
class Event:
    """A piece of an answer for a reader. kind: text to add, or reset, when `text` is all up to here."""

    number: int
    kind: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """How an answer ended."""

    status: str
    finish_reason: str | None = None
    tokens: int | None = None
    notice: str | None = None
    moderation: dict[str, Any] | None = None


class Live:
    """An answer under way. pieces: number `task.event` + 1 and on. asked: when its question came, monotonic."""

    def __init__(self, task: Task, asked: float) -> None:
        self.task, self.asked = task, asked
        self.pieces: list[str] = []
        self.stored = 0  # pieces in the database
        self.wanted = True  # nobody has stopped it
        self.outcome: Outcome | None = None
        self.ended = asyncio.Event()  # its end is in the database
        self.job: Choices | None = None
        self.timing: Timing | None = None  # of the engine's work on it
        self.work: asyncio.Task[Outcome] | None = None
        self._news = asyncio.Event()

    @property
    def text(self) -> str:
        """All that was said."""
        return self.task.text + "".join(self.pieces)

    @property
    def last_event(self) -> int:
        """The number of the newest piece."""
        return self.task.event + len(self.pieces)

    def say(self, piece: str, last: bool) -> None:
        """Add a piece. PostgreSQL keeps no NUL, so it becomes what stands for the unreadable.

        The last is told with the end: who reads it would keep the interpreter from who writes that down.
        """
        self.pieces.append(piece.replace("\0", "\ufffd"))
        if not last:
            self._tell()

    def end(self) -> None:
        """Its end is on disk."""
        self.ended.set()
        self._tell()

    async def follow(self, after: int) -> AsyncIterator[Event | None]:
        """The pieces numbered above `after` as they come; ends with the answer. None: nothing came for a while."""
        if after < self.task.event:
            after = self.task.event
            yield Event(after, "reset", self.task.text)
        while True:
            news = self._news
            while after < self.last_event:
                after += 1
                yield Event(after, "text", self.pieces[after - self.task.event - 1])
            if self.ended.is_set():
                return
            try:
                await asyncio.wait_for(news.wait(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield None

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Answers:
    """All answers under way in this process. Used in the event loop's thread."""

    def __init__(
        self,
        database: Database,
        line: Line,
        workers: Workers,
        *,
        meter: Meter,
        moderator: Moderator | None = None,
        on_end: Callable[[Live], None] = lambda _: None,
        overhead: Callable[[float], None] = lambda _: None,
    ) -> None:
        """on_end: told of each answer that is done, after its end is on disk. overhead: told how many seconds that took
        since the question came, without those of the engine.
        """
        self._database, self._line, self._workers, self._meter = database, line, workers, meter
        self._moderator, self._on_end, self._overhead = moderator, on_end, overhead
        self._live: dict[str, Live] = {}
        self._early: set[Live] = set()  # under way, while their rows are written
        self._flush: asyncio.TimerHandle | None = None  # comes to the writer with pieces
        self._flushing = False  # it has come
        self._writer = Workers("writer", 1)
        self._writing = False
        self._there, self._add_pieces = database.prepare(_THERE), database.prepare(_ADD_PIECES, ADDED)
        self._use, self._end = database.prepare(_USE, ["updated_at"]), database.prepare(_END, ENDING)

    async def close(self) -> None:
        """Break off what is under way, and have it on disk."""
        for live in [*self._early, *self._live.values()]:
            self._cancel(live)
        with suppress(TimeoutError):  # a database that fails for good; the next start ends what is left
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(live.ended.wait() for live in list(self._live.values())))
        self._writer.close()

    def running(self, message_id: str) -> tuple[str, int] | None:
        """The text so far of an answer under way, and the number of its last piece. Safe in any thread."""
        live = self._live.get(message_id)
        return None if live is None else (live.text, live.last_event)

    def live(self, message_id: str) -> Live | None:
        """The answer under way."""
        return self._live.get(message_id)

    def check_room(self, user_id: str) -> None:
        """Refusal when the line is full, or the person has too many answers under way. Safe in any thread."""
        if self._line.full:
            raise Refusal(503, "overloaded", BUSY, retry_after=RETRY_AFTER)
        mine = sum(live.task.user_id == user_id for live in [*self._early, *self._live.values()])
        if mine >= MOST_RUNNING:
            raise Refusal(429, "too_many_answers", "Too many answers are under way; stop one.", retry_after=RETRY_AFTER)

    async def make(self, plan: Plan, asked: float) -> Turn:
        """Make the answers of a turn, and write it meanwhile; returns when that is on disk. asked: see `Live`.

        An answer for which the line has no place fails, kindly. Those of a turn that cannot be written are dropped.
        """
        early = {self._begin(task, asked) for task in plan.tasks}
        self._early |= early
        kept: list[Live] = []
        try:
            await asyncio.sleep(0)  # the engine is asked first
            turn = await self._workers.do(plan.write)
            kept = [live for live in early if live.task in turn.tasks]
        finally:
            self._early -= early
            for live in early.difference(kept):
                self._cancel(live)
        for live in kept:
            self._live[live.task.message_id] = live
            self._news_of(live)
        return turn

    def _begin(self, task: Task, asked: float) -> Live:
        """Put an answer into the line."""
        live = Live(task, asked)
        live.work = asyncio.create_task(self._answer(live))
        live.work.add_done_callback(partial(self._done, live))
        return live

    async def stop(self, message_id: str) -> None:
        """End an answer as it is; returns when that is on disk. Harmless when it is done."""
        live = self._live.get(message_id)
        if live is not None:
            live.wanted = False
            self._cancel(live)
            await live.ended.wait()

    async def drop(self, ended: Callable[[Task], bool]) -> None:
        """Stop all answers that `ended` chooses, before their conversation or person is deleted."""
        await asyncio.gather(
            *(self.stop(live.task.message_id) for live in list(self._live.values()) if ended(live.task))
        )

    @staticmethod
    def _cancel(live: Live) -> None:
        if live.job is not None:
            live.job.cancel()
        if live.work is not None and live.outcome is None:
            live.work.cancel()

    def _done(self, live: Live, work: asyncio.Task[Outcome]) -> None:
        """The work on an answer is over, whatever its end; the writer takes it from here."""
        if live.job is not None:
            live.job.cancel()
        error = None if work.cancelled() else work.exception()
        if work.cancelled():
            live.outcome = Outcome("interrupted" if live.wanted else "stopped")
        elif error is None:
            live.outcome = work.result()
        elif isinstance(error, LineFull | QueueFull):
            live.outcome = Outcome("failed", notice=BUSY)
        else:
            log.error("an answer failed", exc_info=error)
            live.outcome = Outcome("failed", notice=FAILED)
        self._news_of(live)

    def _news_of(self, live: Live) -> None:
        """There is something for the writer: an end at once, pieces soon."""
        if live.outcome is not None:
            self._write()
        elif self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._write_pieces)

    def _write_pieces(self) -> None:
        self._flush, self._flushing = None, True
        self._write()

    async def _answer(self, live: Live) -> Outcome:
        """Take the pieces as they come, and look at them from time to time."""
        task, end, seen = live.task, None, 0
        live.job = Choices(self._line, task.model, [task.prompt], [task.sampling])
        async for _, piece in live.job:
            if isinstance(piece, Completion):
                end = piece
                continue
            if not piece.text:
                continue
            if not live.pieces:
                self._meter.first(time.monotonic() - live.asked)
            live.say(piece.text, live.job.over)
            self._meter.piece()
            self._news_of(live)
            seen += len(piece.text)
            if seen >= CHECK_CHARACTERS:
                seen = 0
                if blocked := await self._blocked(live):
                    return blocked
        if blocked := await self._blocked(live):
            return blocked
        if end is None or end.finish_reason == "cancelled":
            return Outcome("interrupted" if live.wanted else "stopped")
        live.timing = end.timing
        self._meter.ended(time.monotonic() - live.asked)
        return Outcome("done", end.finish_reason, len(end.tokens))

    async def _blocked(self, live: Live) -> Outcome | None:
        """The end of an answer that may not be said."""
        if self._moderator is None or not live.pieces:
            return None
        decision = await judge(self._moderator, live.text)
        if not decision.flagged:
            return None
        return Outcome("blocked", notice=decision.message, moderation=judged(decision))

    def _write(self) -> None:
        """Hand the writer what is new, unless it writes: then it comes back here."""
        if self._writing:
            return
        flushing, self._flushing = self._flushing, False  # else no end waits for others' pieces
        batch = [Part(live, live.stored, len(live.pieces), live.outcome) for live in self._live.values()]
        batch = [part for part in batch if part.outcome is not None or (flushing and part.upto > part.since)]
        if batch:
            self._writing = True
            self._writer.do(partial(self._store, batch)).add_done_callback(partial(self._written, batch))

    def _store(self, batch: list[Part]) -> None:
        """Put what is new into the database."""
        with self._database.cursor("write") as cursor:
            for part in batch:
                if part.outcome is not None:  # a conversation before its message: who deletes one locks them so
                    self._use(cursor, part.use())
                    self._end(cursor, part.end(part.outcome))
            running = {part.live.task.message_id: part for part in batch if part.outcome is None}
            for id, part in sorted(running.items()):  # in an order that all keep, as they lock
                if self._there.rows(cursor, {"message": id}):  # others' conversations are gone
                    self._add_pieces(cursor, part.event())

    def _written(self, batch: list[Part], written: asyncio.Future[None]) -> None:
        """The writer is done with a batch."""
        self._writing = False
        if (error := written.exception()) is None:
            for part in batch:
                self._stored(part)
            self._write()
        else:
            log.error("answers cannot be stored; trying again", exc_info=error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._write_pieces)

    def _stored(self, part: Part) -> None:
        live = part.live
        live.stored = part.upto
        if part.outcome is not None:
            if self._live.get(live.task.message_id) is live:  # else it goes on already
                del self._live[live.task.message_id]
            live.end()
            if live.timing is not None:
                self._overhead(time.monotonic() - live.asked - (live.timing.ended - live.timing.began))
            self._on_end(live)


@dataclass(frozen=True)
class Part:
    """What one write adds to one answer: its pieces from `since` up to `upto`, and its end."""

    live: Live
    since: int
    upto: int
    outcome: Outcome | None

    def event(self) -> dict[str, Any]:
        """The row of its pieces."""
        task, pieces = self.live.task, self.live.pieces[self.since : self.upto]
        return {"message_id": task.message_id, "first": task.event + self.since + 1, "pieces": pieces}

    def end(self, outcome: Outcome) -> dict[str, Any]:
        """What the row of the whole answer becomes."""
        task = self.live.task
        return {
            "message": task.message_id,
            "content": task.text + "".join(self.live.pieces[: self.upto]),
            "status": outcome.status,
            "finish_reason": outcome.finish_reason,
            "last_event": task.event + self.upto + 1,
            "notice": outcome.notice,
            "answer_tokens": outcome.tokens,
            "moderation": outcome.moderation,
        }

    def use(self) -> dict[str, Any]:
        """What the row of its conversation becomes."""
        return {"conversation": self.live.task.conversation_id, "updated_at": time.time()}


def mark_interrupted(database: Database) -> int:
    """End what ran when the process before this one was killed, with what is stored of it. Returns how many answers."""
    with database.write() as session:
        rows = session.scalars(sa.select(MessageRow).where(MessageRow.status == "running")).all()
        for row in rows:
            events = session.scalars(
                sa.select(EventRow).where(EventRow.message_id == row.id).order_by(EventRow.first)
            ).all()
            pieces = [piece for event in events for piece in event.pieces]
            row.content += "".join(pieces)
            row.last_event = row.base_event + len(pieces) + 1
            row.status = "interrupted"
    return len(rows)


def forget_events(database: Database, before: float) -> None:
    """Delete the pieces of answers that are whole, in conversations not used since `before`."""
    old = sa.select(MessageRow.id).join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
    old = old.where(MessageRow.status != "running", ConversationRow.updated_at < before)
    with database.write() as session:
        session.execute(sa.delete(EventRow).where(EventRow.message_id.in_(old)))
