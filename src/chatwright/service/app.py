"""The web service: the chat with its accounts, OpenAI's API, health and metrics, and the page, over loaded models."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from chatwright import __version__
from chatwright.errors import UserError
from chatwright.service import health, openai_routes
from chatwright.service.api_error import ApiError
from chatwright.service.clock import Clocked
from chatwright.service.database import DEFAULT, Database
from chatwright.service.failures import as_api_error
from chatwright.service.keys import Access, KeyStore
from chatwright.service.limits import Limiter
from chatwright.service.line import Line
from chatwright.service.metrics import Metrics
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import Moderator
from chatwright.service.openai_routes import Api
from chatwright.service.pages import PageFiles
from chatwright.service.product import Neighbours, Product, as_refusal
from chatwright.service.security import SecurityHeaders, host_of

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
WAITING_PLACES = 64
AT_ONCE = 64  # answers that the engine works on together
UNREAD_SECONDS = 60.0  # for the other end of a connection to take what it is sent
GRACE_SECONDS = 2  # for answers under way when the service is told to end


def create_app(
    models: Mapping[str, LoadedModel],
    *,
    hosts: Sequence[str] = LOOPBACK,
    waiting_places: int = WAITING_PLACES,
    at_once: int = AT_ONCE,
    database: str = "sqlite://",
    neighbours: Neighbours | None = None,
    keys: KeyStore | None = None,
    keyless: bool = True,
    checks: Mapping[str, Callable[[], None]] | None = None,
) -> FastAPI:
    """The service of `models`, by name.

    hosts: the names in the Host header that are answered, so that no web page can have its own name point to here.
    at_once: how many answers are made together. waiting_places: how many requests may wait beside them; the next is
    turned away. database: its URL; when left out, one that goes with the process. neighbours: what the chat works with;
    of the limiter and the moderator the API uses the same. keys: of the API, those in the database when left out;
    keyless: whether programs on this machine need none. checks: what `/ready` looks at beside models and database.
    UserError when the database cannot be used.
    """
    line = Line(waiting_places, at_once)
    metrics = Metrics(models, line)
    given = neighbours or Neighbours()
    limiter, moderator = given.limiter or Limiter(), given.moderator or Moderator()
    stored = Database(database)
    stored.watch = metrics.database
    parts = replace(given, limiter=limiter, moderator=moderator)
    product = Product(models, line, stored, parts, metrics.overhead)
    access = Access(keys or product.context.keys, keyless=keyless)
    settings = product.context.settings
    api = Api(models, line, access, limiter, moderator, metrics, lambda: settings.current.moderate_api)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with product.running():
            yield
            line.cancel_all()

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        if request.url.path.startswith("/api/"):
            told = as_refusal(error)
            return JSONResponse(told.body(), told.status, told.headers)
        refusal = as_api_error(error)
        metrics.refused(refusal.status)
        return JSONResponse(refusal.body(), refusal.status, dict(refusal.headers))

    app = FastAPI(title="chatwright", version=__version__, openapi_url=None, lifespan=lifespan)
    app.state.line = line
    product.install(app)  # first: what it adds stands behind the headers and the host's check
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Clocked, overhead=metrics.overhead)
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)
    app.include_router(health.router(models, line, {"database": stored.check, **(checks or {})}))
    app.include_router(openai_routes.router(api))
    app.mount("/", PageFiles())
    return app


def serve(
    models: Mapping[str, LoadedModel],
    host: str = "127.0.0.1",
    port: int = 8000,
    database: str = DEFAULT,
    neighbours: Neighbours | None = None,
    keyless: bool = True,
) -> None:
    """Serve `models` until Ctrl-C. UserError when the port is taken or the database cannot be used.

    On another host than loopback, any Host header is answered.
    """
    hosts = list(LOOPBACK) if host in LOOPBACK else ["*"]
    public = neighbours.public if neighbours is not None else None
    if public is not None:
        hosts.append(host_of(public))
    with listen(host, port) as listening, suppress(KeyboardInterrupt):
        app = create_app(models, hosts=hosts, database=database, neighbours=neighbours, keyless=keyless)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
            proxy_headers=public is not None,  # without a proxy before it, anybody could write them
        )
        _Server(config, app.state.line).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Where connections come in; 0 is any free port. UserError when the port is taken.

    A connection whose other end takes nothing ends after `UNREAD_SECONDS`, and with it what waits to be sent.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port.") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections take it from here
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * UNREAD_SECONDS))
    return listening


class _Server(uvicorn.Server):
    """A server that breaks off its answers when it is told to end, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, line: Line) -> None:
        super().__init__(config)
        self.line = line

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.line.cancel_all()
        await super().shutdown(sockets)
