"""The chat as a product: the parts that accounts, conversations and the operator need, put together and kept tidy."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from chatwright.service.accounts import Accounts
from chatwright.service.admin import Admin
from chatwright.service.api import admin, conversations, keys, session
from chatwright.service.api.context import Brakes, Context
from chatwright.service.conversations import Conversations
from chatwright.service.database import Database
from chatwright.service.feedback import Feedback
from chatwright.service.generation import Answers, Live, forget_events, mark_interrupted
from chatwright.service.limits import Limiter
from chatwright.service.line import Line
from chatwright.service.load import Meter
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import Moderator
from chatwright.service.passwords import Passwords
from chatwright.service.refusal import Refusal, not_found
from chatwright.service.security import WholeBodies
from chatwright.service.sessions import Sessions
from chatwright.service.settings import SettingsStore
from chatwright.service.stored_keys import StoredKeys
from chatwright.service.titles import Titles
from chatwright.service.turns import Turns
from chatwright.service.workers import Workers

THREADS = 8  # for turns, which wait for the database or hold the interpreter
TIDY_SECONDS = 3600.0
EVENTS_KEPT_SECONDS = 3600.0  # after a conversation's last use

log = logging.getLogger("chatwright.service")


@dataclass(frozen=True)
class Neighbours:
    """What others bring to the chat. Each may be left out.

    passwords: with another cost than argon2's usual. public: the service's address where a proxy stands before it.
    """

    limiter: Limiter | None = None
    moderator: Moderator | None = None
    passwords: Passwords | None = None
    brakes: Brakes | None = None
    public: str | None = None


class Product:
    """The chat over some models and a database, which it closes."""

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        line: Line,
        database: Database,
        neighbours: Neighbours,
        overhead: Callable[[float], None],
    ) -> None:
        """Brings the database up to date, and ends what a killed process left running. UserError when that fails.

        overhead: told the seconds of each answer in which the engine had no part.
        """
        database.upgrade()
        if left := mark_interrupted(database):
            log.warning("%d answers were under way when the service ended last; they are marked interrupted", left)
        settings = SettingsStore(database)
        self._titles = Titles(database, line, lambda: settings.current.model_titles)
        meter = Meter()
        workers = Workers("turns", THREADS)
        answers = Answers(
            database,
            line,
            workers,
            meter=meter,
            moderator=neighbours.moderator,
            on_end=self._ended,
            overhead=overhead,
        )
        self.context = Context(
            database=database,
            models=models,
            line=line,
            meter=meter,
            settings=settings,
            accounts=Accounts(database),
            passwords=neighbours.passwords or Passwords(),
            sessions=Sessions(database),
            conversations=Conversations(database, answers.running),
            turns=Turns(database, models),
            answers=answers,
            feedback=Feedback(database),
            keys=StoredKeys(database),
            admin=Admin(database),
            workers=workers,
            limiter=neighbours.limiter,
            moderator=neighbours.moderator,
            public=neighbours.public,
            brakes=neighbours.brakes or Brakes(),
        )
        self.context.apply(settings.current)

    def install(self, app: FastAPI) -> None:
        """Put the routes of the page's API into an application."""
        app.state.context = self.context
        app.add_middleware(WholeBodies)
        app.add_exception_handler(Refusal, _refuse)
        app.add_exception_handler(RequestValidationError, _refuse)
        for module in (conversations, session, keys, admin):  # those first that are asked for most
            app.include_router(module.router)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the service runs."""
        tidy = asyncio.create_task(self._tidy())
        try:
            yield
        finally:
            tidy.cancel()
            await self._titles.close()
            await self.context.answers.close()
            self.context.workers.close()
            self.context.database.close()

    def _ended(self, live: Live) -> None:
        """An answer is over: count what it took, and perhaps name its conversation."""
        with suppress(Refusal):  # who has used too much is refused at the next question
            self.context.within("tokens_account", live.task.user_id, len(live.task.prompt) + len(live.pieces))
        if live.outcome is not None and live.outcome.status == "done":
            self._titles.after(live.task.conversation_id, live.task.model)

    async def _tidy(self) -> None:
        """Forget what is over, now and then."""
        while True:
            try:
                await asyncio.to_thread(self._forget)
            except Exception as error:
                log.error("old sessions, guests and events cannot be deleted", exc_info=error)
            await asyncio.sleep(TIDY_SECONDS)

    def _forget(self) -> None:
        parts = self.context
        parts.sessions.forget_old()
        parts.accounts.forget_guests(parts.settings.current.retention_guest_days)
        forget_events(parts.database, time.time() - EVENTS_KEPT_SECONDS)


def as_refusal(error: Exception) -> Refusal:
    """Any error as the page's API tells it; what is our own fault is logged, not told."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return _invalid(error.errors()[0])
        case HTTPException(status_code=404):
            return not_found()
        case HTTPException(status_code=405):
            return Refusal(405, "method_not_allowed", "This cannot be done here.")
        case HTTPException(status_code=400):  # what FastAPI says of a body that json cannot read at all
            return Refusal(400, "invalid_json", "The body of the request is not valid JSON.")
        case HTTPException():
            return Refusal(error.status_code, "invalid_value", f"{error.detail}.")
    log.error("a request failed", exc_info=error)
    return Refusal(500, "server_error", "The server failed to answer; its log says why.")


def _invalid(problem: Mapping[str, Any]) -> Refusal:
    """What is wrong with a body, a query or a path."""
    if problem["type"] == "json_invalid":
        return Refusal(400, "invalid_json", "The body of the request is not valid JSON.")
    place = [str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(place) or None
    reason = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if problem["type"] == "string_too_long" and param == "content":
        return Refusal(413, "message_too_long", f"{reason}.", param=param)
    return Refusal(400, "invalid_value", f"{param}: {reason}." if param else f"{reason}.", param=param)


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    refusal = as_refusal(error)
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)
