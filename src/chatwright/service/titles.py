"""Titles of conversations, made by the model when it has nothing else to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import sqlalchemy as sa

from chatwright.inference.prompts import ConversationTooLong, fit
from chatwright.inference.request import Delta
from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.service.choices import Choices
from chatwright.service.database import Database
from chatwright.service.line import Line, LineFull
from chatwright.service.models import LoadedModel
from chatwright.service.tables import ConversationRow, MessageRow

LONGEST, MOST_TOKENS = 60, 24
EXCERPT = 400  # characters of the question that the model sees
ASK = "Write a title of at most six words, in the same language, for a conversation that begins so:\n\n{}"

log = logging.getLogger("chatwright.service")


class Titles:
    """Names conversations whose title is still their first words."""

    def __init__(self, database: Database, line: Line, wanted: Callable[[], bool]) -> None:
        """wanted: whether the operator wants titles by models."""
        self._database, self._line, self._wanted = database, line, wanted
        self._tasks: set[asyncio.Task[None]] = set()

    def after(self, conversation_id: str, model: LoadedModel) -> None:
        """An answer is done: perhaps its conversation gets a title now. Not while others wait for the engine."""
        if self._wanted() and not self._line.busy:
            task = asyncio.create_task(self._name(conversation_id, model))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _name(self, conversation_id: str, model: LoadedModel) -> None:
        question = await asyncio.to_thread(self._first_question, conversation_id)
        if question is None:
            return
        try:
            title = clean(await self._ask(model, question))
        except LineFull:
            return
        except Exception as error:  # a title is a nicety
            log.warning("a title was not made", exc_info=error)
            return
        if title:
            await asyncio.to_thread(self._write, conversation_id, title)

    async def _ask(self, model: LoadedModel, question: str) -> str:
        wanted = [Message(role="user", content=ASK.format(question[:EXCERPT]))]
        try:
            prompt = await asyncio.to_thread(fit, wanted, model.tokenizer, model.context, MOST_TOKENS)
        except ConversationTooLong:
            return ""
        sampling = Sampling(max_tokens=MOST_TOKENS, temperature=0.0, stop=("\n",), logprobs=None)
        job = Choices(self._line, model, [prompt.ids], [sampling])
        try:
            return "".join([piece.text async for _, piece in job if isinstance(piece, Delta)])
        finally:
            job.cancel()

    def _first_question(self, conversation_id: str) -> str | None:
        """What the conversation begins with; None when it has a title that is not its first words."""
        with self._database.read() as session:
            wanted = (
                sa.select(MessageRow.content)
                .join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
                .where(ConversationRow.id == conversation_id, ConversationRow.title_source == "words")
            )
            return session.scalar(wanted.order_by(MessageRow.position).limit(1))

    def _write(self, conversation_id: str, title: str) -> None:
        named = (
            sa.update(ConversationRow)
            .where(ConversationRow.id == conversation_id, ConversationRow.title_source == "words")
            .values(title=title, title_source="model")
        )
        with self._database.write() as session:
            session.execute(named)


def clean(said: str) -> str:
    """A title out of what a model said: one line, without quotes; "" when it is none.

    >>> clean(' "Capitals of Asia." ')
    'Capitals of Asia'
    """
    line = " ".join(said.replace("\0", " ").split())
    line = line.removeprefix("Title:").strip(" \"'“”‘’「」《》*#.。")
    return line if 2 <= len(line) <= LONGEST else ""
