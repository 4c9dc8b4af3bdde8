"""Turns of a conversation: what a person asks becomes rows of the tree, and a task for the engine.

A turn is planned from what is there, and then written. The engine may begin with the tasks of a plan meanwhile.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from chatwright.inference.prompts import ConversationTooLong, as_trained, fit
from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.service.conversations import owned, title_of, touch
from chatwright.service.database import Database
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import Decision
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.sessions import Person
from chatwright.service.tables import ComparisonRow, ConversationRow, EventRow, MessageRow, User, new_id
from chatwright.service.tree import Said, Tree, asks_to_go_on, spoken
from chatwright.storage import keyed_uniform

TEMPERATURE = 0.3  # ours: small models are right more often when they stay close to their best guess
LONGEST_MESSAGE = 32_000  # characters
MOST_MESSAGES = 2000  # of one conversation

# What every turn asks is built once, since that takes longer than the database's answer.
_SETTINGS = (
    sa.select(User.settings, ConversationRow.settings)
    .join(ConversationRow, ConversationRow.user_id == User.id)
    .where(ConversationRow.id == sa.bindparam("conversation"), User.id == sa.bindparam("user"))
)
_SAID = sa.select(*(getattr(MessageRow, name) for name in Said._fields)).where(
    MessageRow.conversation_id == sa.bindparam("conversation")
)
_LAST = sa.select(
    sa.func.max(MessageRow.position), sa.func.max(sa.case((MessageRow.status == "running", 1), else_=0))
).where(MessageRow.conversation_id == sa.bindparam("conversation"))
_ASKED = sa.select(MessageRow.id).where(
    MessageRow.conversation_id == sa.bindparam("conversation"), MessageRow.key == sa.bindparam("key")
)
_ADD_MESSAGE, _ADD_COMPARISON = sa.insert(MessageRow), sa.insert(ComparisonRow)
_CHANGE_CONVERSATION = sa.update(ConversationRow).where(ConversationRow.id == sa.bindparam("conversation"))


Row = dict[str, Any]  # of a table, by column


@dataclass(frozen=True)
class Task:
    """An answer to make. text: what it has already, up to the event numbered `event`. user: who asked."""

    message_id: str
    conversation_id: str
    user_id: str
    model: LoadedModel
    prompt: list[int]
    sampling: Sampling
    text: str = ""
    event: int = 0


@dataclass(frozen=True)
class Seen:
    """A conversation before a turn. person: whose it is. settings: the conversation's before the account's."""

    person: Person
    id: str
    tree: Tree[Said]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """What came of asking. question: its id, None when there is none. answers: their ids.

    tasks: the answers to make; none when the turn was taken before, or was refused.
    """

    question: str | None
    answers: list[str]
    tasks: list[Task]
    comparison: str | None = None
    continued: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class Plan:
    """A turn that is not written yet. tasks: the answers to make, if it comes to that.

    write: puts it on disk, and says what came of it; Refusal when the conversation is another by now.
    """

    tasks: list[Task]
    write: Callable[[], Turn]


@dataclass(frozen=True)
class Wish:
    """How a turn is to be answered. compare: two answers. settings: of this turn alone."""

    settings: Mapping[str, Any]
    compare: bool = False
    key: str | None = None


class Turns:
    """Plans turns, in a database, for the models that are served."""

    def __init__(self, database: Database, models: Mapping[str, LoadedModel]) -> None:
        self._database, self._models = database, models
        self._settings, self._said = database.prepare(_SETTINGS), database.prepare(_SAID)

    def look(self, cursor: Any, person: Person, conversation_id: str) -> Seen:
        """A person's conversation, in a transaction under way. Refusal when there is none, or it is somebody else's."""
        found = self._settings.rows(cursor, {"conversation": conversation_id, "user": person.id})
        if not found:
            raise not_found()
        [(account, conversation)] = found
        tree = Tree(map(Said._make, self._said.rows(cursor, {"conversation": conversation_id})))
        return Seen(person, conversation_id, tree, {**account, **conversation})

    def ask(
        self, seen: Seen, parent_id: str | None, content: str, wish: Wish, decision: Decision | None = None
    ) -> Plan:
        """A question below `parent_id`. decision: the moderator's; a flagged question is kept, and not answered."""
        tree = seen.tree
        if wish.key is not None and any(row.key == wish.key for row in tree.rows):
            with self._database.read() as session:
                before = _taken_before(session, seen.id, wish.key)
            if before is not None:
                return Plan([], lambda: before)
        above = tree.path(parent_id)
        if (parent_id is None) == bool(above) or (above and above[-1].role != "assistant"):
            raise Refusal(400, "wrong_parent", "A question stands below an answer, or at the root.", param="parent_id")
        if above and asks_to_go_on(content) and tree.can_continue(above[-1]):
            return self.go_on(seen, above[-1].id)
        question: Row = {"id": new_id(), "parent_id": parent_id, "role": "user", "content": content, "key": wish.key}
        question |= {"status": "done", "moderation": None if decision is None else judged(decision)}
        if decision is not None and decision.flagged:
            question["status"] = "blocked"
            refusal: Row = {"id": new_id(), "parent_id": question["id"], "role": "assistant", "status": "blocked"}
            refusal |= {"notice": decision.message, "moderation": judged(decision)}
            rows, tasks = [question, refusal], list[Task]()
        else:
            count = 2 if wish.compare else 1
            asked = Message(role="user", content=content)
            rows, tasks = self._answers(seen, above, asked, question["id"], wish, count)
            rows = [question, *rows]
        return self._plan(seen, rows, tasks, question, wish.compare and bool(tasks))

    def regenerate(self, seen: Seen, message_id: str, wish: Wish) -> Plan:
        """Another answer beside an answer, or one below a question."""
        branch = seen.tree.path(message_id)
        if not branch:
            raise not_found()
        if branch[-1].role == "assistant":
            branch = branch[:-1]
        if branch[-1].status == "blocked":
            raise Refusal(409, "not_allowed", "This question is not answered; ask another.")
        *above, question = branch
        asked = Message(role="user", content=question.content)
        rows, tasks = self._answers(seen, above, asked, question.id, wish, 1)
        return self._plan(seen, rows, tasks, None, False)

    def go_on(self, seen: Seen, message_id: str) -> Plan:
        """More of an answer that was cut."""
        user_id, conversation_id, tree, settings = seen.person.id, seen.id, seen.tree, seen.settings
        branch = tree.path(message_id)
        if not branch:
            raise not_found()
        cut = branch[-1]
        _check_free(tree.rows[-1].position, tree.running)
        if not tree.can_continue(cut):
            raise Refusal(409, "cannot_continue", "This answer was not cut, or the conversation has gone on.")
        model = self._model(cut.model)
        said = model.tokenizer.encode(cut.content)
        wanted = settings.get("max_tokens")
        ids = self._prompt(model, spoken(branch[:-1], cut.instructions), len(said) + (wanted or 1)).ids
        if len(ids) + len(said) >= model.context:
            raise Refusal(400, "context_length_exceeded", "The answer has filled the model's context.")
        sampling = sampling_of(settings, model, f"{cut.id}:{cut.last_event}")
        task = Task(cut.id, conversation_id, user_id, model, [*ids, *said], sampling, cut.content, cut.last_event)

        def write() -> Turn:
            with self._database.write() as session:
                row = owned(session, user_id, conversation_id, lock=True)
                last_position(session, conversation_id)
                session.execute(sa.delete(EventRow).where(EventRow.message_id == cut.id))
                session.execute(
                    sa.update(MessageRow)
                    .where(MessageRow.id == cut.id)
                    .values(status="running", finish_reason=None, notice=None, base_event=cut.last_event)
                )
                row.current_id = cut.id
                touch(row)
            return Turn(None, [cut.id], [task], continued=True)

        return Plan([task], write)

    def _answers(
        self, seen: Seen, above: Sequence[Said], question: Message, question_id: str, wish: Wish, count: int
    ) -> tuple[list[Row], list[Task]]:
        """So many answers to a question below a branch: their rows and tasks."""
        settings = {**seen.settings, **{key: value for key, value in wish.settings.items() if value is not None}}
        model = self._model(settings.get("model"))
        instructions = settings.get("instructions") or ""
        prompt = self._prompt(model, [*spoken(above, instructions), question], settings.get("max_tokens"))
        rows, tasks = list[Row](), list[Task]()
        for _ in range(count):
            id = new_id()
            sampling = sampling_of(settings, model, id)
            row: Row = {"id": id, "parent_id": question_id, "role": "assistant", "status": "running"}
            row |= {"model": model.name, "model_hash": model.fingerprint, "instructions": instructions}
            row |= {"dropped": prompt.dropped, "prompt_tokens": len(prompt.ids)}
            row["sampling"] = {key: getattr(sampling, key) for key in ("temperature", "top_p", "max_tokens", "seed")}
            rows.append(row)
            tasks.append(Task(id, seen.id, seen.person.id, model, prompt.ids, sampling))
        return rows, tasks

    def _plan(self, seen: Seen, rows: list[Row], tasks: list[Task], question: Row | None, compared: bool) -> Plan:
        """New messages of the tree. Refusal when an answer runs, or there are too many."""
        messages = seen.tree.rows
        _check_free(messages[-1].position if messages else 0, seen.tree.running, len(rows))
        answers = [row["id"] for row in rows if row["role"] == "assistant"]
        turn = Turn(question["id"] if question else None, answers, tasks, new_id() if compared else None)
        return Plan(tasks, lambda: self._write(seen.person.id, seen.id, rows, turn, question))

    def _write(self, user_id: str, conversation_id: str, rows: list[Row], turn: Turn, question: Row | None) -> Turn:
        """Put new messages into the tree. Refusal when an answer runs by now, or there are too many."""
        with self._database.write() as session:
            conversation = owned(session, user_id, conversation_id, lock=True)
            key = question["key"] if question is not None else None
            if before := _taken_before(session, conversation_id, key):
                return before
            position = last_position(session, conversation_id, len(rows))
            connection = session.connection()
            for place, row in enumerate(rows, start=position + 1):  # a parent before its children
                connection.execute(_ADD_MESSAGE, {**row, "conversation_id": conversation_id, "position": place})
            if turn.comparison is not None:
                pair: Row = {"id": turn.comparison, "conversation_id": conversation_id, "parent_id": turn.question}
                pair |= dict(zip(("answer_a", "answer_b"), turn.answers, strict=True))
                connection.execute(_ADD_COMPARISON, pair)
            changes: Row = {"current_id": turn.answers[0], "updated_at": time.time()}
            if question is not None and not conversation.title_source:
                changes |= {"title": title_of(question["content"]), "title_source": "words"}
            connection.execute(_CHANGE_CONVERSATION, {"conversation": conversation_id, **changes})
        return turn

    def _model(self, name: str | None) -> LoadedModel:
        """The model of a name; without one the first that is served."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise Refusal(404, "model_not_found", "This model is not served here.", param="model")
        return self._models[name]

    @staticmethod
    def _prompt(model: LoadedModel, messages: Sequence[Message], room: int | None) -> Any:
        try:
            return fit(as_trained(messages), model.tokenizer, model.context, room)
        except ConversationTooLong as error:
            raise Refusal(400, "context_length_exceeded", str(error), param="content") from None


def sampling_of(settings: Mapping[str, Any], model: LoadedModel, key: str) -> Sampling:
    """How an answer is drawn; its seed follows from the answer's id."""
    temperature, most = settings.get("temperature"), settings.get("max_tokens")
    return Sampling(
        max_tokens=min(most or model.context, model.context),
        temperature=TEMPERATURE if temperature is None else temperature,
        top_p=settings.get("top_p") or 1.0,
        seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big"),
        logprobs=None,
    )


def judged(decision: Decision) -> dict[str, Any]:
    """A moderator's decision as it is kept."""
    return {
        "flagged": decision.flagged,
        "categories": list(decision.categories),
        "version": decision.version,
    }


def drawn_for_comparison(conversation_id: str, parent_id: str | None, share: float) -> bool:
    """Whether a turn is among those that get two answers unasked."""
    return keyed_uniform("comparison", conversation_id, parent_id or "") < share


def last_position(session: Session, conversation_id: str, more: int = 0) -> int:
    """Of a conversation's messages; 0 when there is none. Refusal when no `more` may be added."""
    last, running = session.execute(_LAST, {"conversation": conversation_id}).one()
    _check_free(last or 0, bool(running), more)
    return last or 0


def _check_free(last: int, running: bool, more: int = 0) -> None:
    """Refusal when an answer of the conversation is under way, or there would be too many messages."""
    if running:
        raise Refusal(409, "answer_running", "An answer is under way; stop it or wait for its end.")
    if last + more > MOST_MESSAGES:
        raise Refusal(409, "conversation_full", "This conversation is full; begin a new one.")


def _taken_before(session: Session, conversation_id: str, key: str | None) -> Turn | None:
    """The turn that this key has taken already."""
    if key is None:
        return None
    question = session.scalar(_ASKED, {"conversation": conversation_id, "key": key})
    if question is None:
        return None
    pair = session.scalar(sa.select(ComparisonRow).where(ComparisonRow.parent_id == question))
    if pair is not None:
        return Turn(question, [pair.answer_a, pair.answer_b], [], pair.id, repeated=True)
    below = sa.select(MessageRow.id).where(MessageRow.parent_id == question).order_by(MessageRow.position).limit(1)
    return Turn(question, list(session.scalars(below)), [], repeated=True)
