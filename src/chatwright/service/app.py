"""The web service: OpenAI's chat API, health, and the chat page, over models that answer many requests at once."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from chatwright import __version__
from chatwright.errors import UserError
from chatwright.inference.prompts import ConversationTooLong, Prompt, as_trained, fit
from chatwright.inference.sampling import Sampling
from chatwright.service.answers import End, answer
from chatwright.service.database import DEFAULT, Database
from chatwright.service.line import Job, Line, LineFull, Produce
from chatwright.service.models import LoadedModel
from chatwright.service.openai_api import ApiError, ChatRequest, Reply, model_card, parse_request, server_sent
from chatwright.service.pages import PageFiles
from chatwright.service.product import Neighbours, Product, as_refusal
from chatwright.service.security import LARGEST_BODY, SecurityHeaders, host_of

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
WAITING_PLACES = 64
AT_ONCE = 32  # answers that the engine works on together
RETRY_AFTER_SECONDS = 5
GRACE_SECONDS = 2  # for answers under way when the service is told to end

log = logging.getLogger("chatwright.service")

Piece = tuple[int, str | End]  # index of the choice, and text or its end


def create_app(
    models: Mapping[str, LoadedModel],
    *,
    hosts: Sequence[str] = LOOPBACK,
    waiting_places: int = WAITING_PLACES,
    at_once: int = AT_ONCE,
    database: str = "sqlite://",
    neighbours: Neighbours | None = None,
) -> FastAPI:
    """The service of `models`, by name.

    hosts: the names in the Host header that are answered, so that no web page can have its own name point to here.
    at_once: how many answers are made together. waiting_places: how many requests may wait beside them; the next gets
    status 503. database: its URL; when left out, one that goes with the process. neighbours: what the chat works with.
    UserError when the database cannot be used.
    """
    line = Line(waiting_places, at_once)
    product = Product(models, line, Database(database), neighbours or Neighbours())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with product.running():
            yield
            line.cancel_all()
        await line.close()

    app = FastAPI(title="chatwright", version=__version__, openapi_url=None, lifespan=lifespan)
    app.state.line = line
    product.install(app)  # first: what it adds stands behind the headers and the host's check
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _refuse)

    def named(name: str) -> LoadedModel:
        if name not in models:
            message = f"The model '{name}' does not exist here; there is {', '.join(sorted(models))}."
            raise ApiError(404, message, code="model_not_found", param="model")
        return models[name]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "models": sorted(models), "requests": line.length}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(model) for model in models.values()]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        return model_card(named(name))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        chat = parse_request(await _json_body(request))
        model = named(chat.model)
        prompt = await asyncio.to_thread(_prompt, chat, model)
        try:
            job = line.join(*_producers(model, chat, prompt))
        except LineFull:
            raise ApiError(503, "The model is busy; please try again in a moment.", code="overloaded") from None
        reply = Reply(model, len(prompt.ids))
        headers = {"X-Chatwright-Dropped-Messages": str(prompt.dropped)} if prompt.dropped else {}
        if chat.stream:
            return EventStream(job, _events(job, chat, reply), headers)
        async with _cancelled_when_gone(job, request):
            texts, ends = await _collect(job, chat.choices)
        return JSONResponse(reply.completion(texts, ends), headers=headers)

    app.mount("/", PageFiles())
    return app


def serve(
    models: Mapping[str, LoadedModel],
    host: str = "127.0.0.1",
    port: int = 8000,
    database: str = DEFAULT,
    neighbours: Neighbours | None = None,
) -> None:
    """Serve `models` until Ctrl-C. UserError when the port is taken or the database cannot be used.

    On another host than loopback, any Host header is answered.
    """
    hosts = list(LOOPBACK) if host in LOOPBACK else ["*"]
    public = neighbours.public if neighbours is not None else None
    if public is not None:
        hosts.append(host_of(public))
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port.") from None
    with listening, suppress(KeyboardInterrupt):
        app = create_app(models, hosts=hosts, database=database, neighbours=neighbours)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
            proxy_headers=public is not None,  # without a proxy before it, anybody could write them
        )
        _Server(config, app.state.line).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that breaks off its answers when it is told to end, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, line: Line) -> None:
        super().__init__(config)
        self.line = line

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.line.cancel_all()
        await super().shutdown(sockets)


class EventStream(StreamingResponse):
    """A stream of server-sent events that ends its job when it ends, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, job: Job[Piece], events: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        super().__init__(events, headers=headers)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)  # returns when the client is gone, too
        finally:
            self.job.cancel()


async def _json_body(request: Request) -> bytes:
    """The body; ApiError when it is too large or is not declared as JSON (as forms of other sites' pages are not)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the request with 'Content-Type: application/json'.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise ApiError(413, f"The request is larger than {LARGEST_BODY} bytes.", code="request_too_large")
    return body


def _prompt(chat: ChatRequest, model: LoadedModel) -> Prompt:
    """The prompt of a request. ApiError when its turns are out of order or too long."""
    try:
        messages = as_trained([message.record() for message in chat.messages])
        return fit(messages, model.tokenizer, model.context, chat.answer_tokens)
    except ConversationTooLong as error:
        raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from None
    except ValueError as error:
        raise ApiError(400, f"Invalid value for 'messages': {error}.", code="invalid_value", param="messages") from None


def _producers(model: LoadedModel, chat: ChatRequest, prompt: Prompt) -> list[Produce[Piece]]:
    """The work of a request, for the line: one producer for each choice. ApiError for settings that make no sense."""
    try:
        samplings = chat.samplings(model.context)
    except UserError as error:
        raise ApiError(400, str(error), code="invalid_value") from None

    def producer(index: int, sampling: Sampling) -> Produce[Piece]:
        def produce(cancelled: Callable[[], bool]) -> Iterator[Piece]:
            for piece in answer(model, prompt.ids, sampling, cancelled):
                if cancelled():
                    return
                yield index, piece

        return produce

    return [producer(index, sampling) for index, sampling in enumerate(samplings)]


async def _collect(job: Job[Piece], choices: int) -> tuple[list[str], list[End]]:
    """The text and the end of every choice. ApiError when the job was cancelled before it had them all."""
    texts, ends = [""] * choices, {}
    try:
        async for index, piece in job:
            if isinstance(piece, End):
                ends[index] = piece
            else:
                texts[index] += piece
    except Exception as error:
        raise _as_api_error(error) from error
    if len(ends) < choices:
        raise _broken_off()
    return texts, [ends[index] for index in range(choices)]


async def _events(job: Job[Piece], chat: ChatRequest, reply: Reply) -> AsyncIterator[str]:
    """The stream of an answer, in OpenAI's chunks."""
    for index in range(chat.choices):
        yield server_sent(reply.chunk(index, {"role": "assistant", "content": ""}))
    ends = []
    try:
        async for index, piece in job:
            if isinstance(piece, End):
                ends.append(piece)
                yield server_sent(reply.chunk(index, {}, piece.reason))
            else:
                yield server_sent(reply.chunk(index, {"content": piece}))
        if len(ends) < chat.choices:
            raise _broken_off()
    except Exception as error:  # the status is sent already; a client reads the error from the stream
        yield server_sent(_as_api_error(error).body())
        return
    if chat.wants_usage:
        yield server_sent(reply.usage_chunk(ends))
    yield server_sent("[DONE]")


@asynccontextmanager
async def _cancelled_when_gone(job: Job[Piece], request: Request) -> AsyncIterator[None]:
    """Cancels the job when the client hangs up, or when the block ends."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        job.cancel()


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    if request.url.path.startswith("/api/"):
        told = as_refusal(error)
        return JSONResponse(told.body(), told.status, told.headers)
    refusal = _as_api_error(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 503 else {}
    return JSONResponse(refusal.body(), refusal.status, headers)


def _broken_off() -> ApiError:
    return ApiError(503, "The server is ending and broke the answer off.", code="broken_off")


def _as_api_error(error: Exception) -> ApiError:
    """Any error as a refusal; what is our own fault is logged, not told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, f"{error.detail}.")
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "The server failed to answer; its log says why.")
