"""The web service: OpenAI's API, health, and the chat page, over models that answer many requests at once."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatwright import __version__
from chatwright.errors import UserError
from chatwright.service import health, openai_routes
from chatwright.service.api_error import ApiError
from chatwright.service.clock import Clocked
from chatwright.service.failures import as_api_error
from chatwright.service.keys import Access, KeyStore
from chatwright.service.limits import Limiter
from chatwright.service.line import Line
from chatwright.service.metrics import Metrics
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import Moderator
from chatwright.service.openai_routes import Api

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
WAITING_PLACES = 64
AT_ONCE = 64  # answers that the engine works on together
GRACE_SECONDS = 2  # for answers under way when the service is told to end

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def create_app(
    models: Mapping[str, LoadedModel],
    *,
    hosts: Sequence[str] = LOOPBACK,
    waiting_places: int = WAITING_PLACES,
    at_once: int = AT_ONCE,
    keys: KeyStore | None = None,
    keyless: bool = True,
    limiter: Limiter | None = None,
    moderator: Moderator | None = None,
    checks: Mapping[str, Callable[[], None]] | None = None,
) -> FastAPI:
    """The service of `models`, by name.

    hosts: the names in the Host header that are answered, so that no web page can have its own name point to here.
    at_once: how many answers are made together. waiting_places: how many requests may wait beside them; the next gets
    status 429. keys: of the API; keyless: whether programs on this machine need none. checks: what `/ready` looks at,
    beside the models.
    """
    line = Line(waiting_places, at_once)
    metrics = Metrics(models, line)
    access = Access(keys, keyless=keyless)
    api = Api(models, line, access, limiter or Limiter(), moderator or Moderator(), metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await line.close()

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        refusal = as_api_error(error)
        metrics.refused(refusal.status)
        return JSONResponse(refusal.body(), refusal.status, dict(refusal.headers))

    app = FastAPI(title="chatwright", version=__version__, openapi_url=None, lifespan=lifespan)
    app.state.line = line
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Clocked, overhead=metrics.overhead)
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)
    app.include_router(health.router(models, line, checks or {}))
    app.include_router(openai_routes.router(api))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def serve(models: Mapping[str, LoadedModel], host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve `models` until Ctrl-C. UserError when the port is taken. options: of `create_app`.

    On another host than loopback, any Host header is answered.
    """
    hosts = LOOPBACK if host in LOOPBACK else ("*",)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}:{port} ({error.strerror}); choose another with --port.") from None
    app = create_app(models, hosts=hosts, **options)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, proxy_headers=False)
    with listening, suppress(KeyboardInterrupt):
        _Server(config, app.state.line).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that breaks off its answers when it is told to end, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, line: Line) -> None:
        super().__init__(config)
        self.line = line

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.line.cancel_all()
        await super().shutdown(sockets)


class SecurityHeaders:
    """Puts `SECURITY_HEADERS` on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
