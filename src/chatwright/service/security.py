"""What stands before every request: headers that bind browsers, bodies that end, and pages that may not forge."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatwright.errors import UserError
from chatwright.service.refusal import Refusal
from chatwright.service.sessions import csrf_matches

LARGEST_BODY = 1 << 20  # bytes; far more text than any context here holds
BODY_SECONDS = 30.0  # for a body to arrive

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CHANGING = ("POST", "PUT", "PATCH", "DELETE")


class SecurityHeaders:
    """Puts `SECURITY_HEADERS` on every response, and keeps answers to persons out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                private = scope["path"].startswith("/api/")
                headers.setdefault("Cache-Control", "no-store" if private else "no-cache")
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class WholeBodies:
    """Reads the bodies of requests to the page's API before anything else does: JSON, not too large, not too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # PostgreSQL takes no NUL
            wrong = Refusal(400, "invalid_value", "An address must not contain the character NUL.")
            await JSONResponse(wrong.body(), wrong.status)(scope, receive, send)
            return
        refusal: Refusal | None = None
        body: bytes | None = None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            refusal = Refusal(408, "too_slow", "The body of the request did not arrive.")
        except Refusal as error:
            refusal = error
        if refusal is None and body is not None:
            refusal = _not_json(scope, body)
        if refusal is not None:
            await JSONResponse(refusal.body(), refusal.status, {"Connection": "close"})(scope, receive, send)
        elif body is not None:
            await self.app(scope, _replayed(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the client is gone. Refusal when it is too large."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise Refusal(413, "too_large", f"The request is larger than {LARGEST_BODY} bytes.")
        if not message.get("more_body"):
            return body


def _not_json(scope: Scope, body: bytes) -> Refusal | None:
    """Forms of other sites' pages cannot send JSON."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    kind = kinds[0].decode("latin-1").partition(";")[0].strip().lower() if kinds else ""
    if scope["method"] in CHANGING and (body or kinds) and kind != "application/json":
        return Refusal(415, "not_json", "Send the request with 'Content-Type: application/json'.")
    return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def host_of(public: str) -> str:
    """The name in a service's own address. UserError when it is no address of a site.

    >>> host_of("https://chat.example.org")
    'chat.example.org'
    """
    parts = urlsplit(public)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise UserError(f"{public} is not the address of a site; write it as in https://chat.example.org.")
    return parts.hostname


def check_origin(origin: str | None, host: str, public: str | None) -> None:
    """Refusal unless a request that changes something comes from our own page.

    origin: what the browser says; host: what the request was sent to. public: the service's address, where a proxy
    stands before it and says another host.
    """
    if origin is not None and origin != "null":
        ours = public or f"{urlsplit(origin).scheme}://{host}"
        if origin.rstrip("/").lower() == ours.rstrip("/").lower():
            return
    raise Refusal(403, "origin_refused", "This request does not come from this service's own page.")


def check_csrf(cookie: str | None, sent: str | None) -> None:
    """Refusal unless the page knows the token that belongs to its cookie."""
    if not cookie or not sent or not csrf_matches(cookie, sent):
        raise Refusal(403, "csrf_failed", "The page's token is old; fetch /api/session and try again.")
