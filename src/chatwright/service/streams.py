"""Requests and responses of programs: JSON bodies of bounded size, and streams that end with their reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from chatwright.service.api_error import ApiError
from chatwright.service.line import Cancellable

LARGEST_BODY = 1 << 20  # bytes; far more text than any context here holds
READING_SECONDS = 30.0  # between two parts of a body, and for a reader to take a part of a stream

log = logging.getLogger("chatwright.service")


async def json_body(request: Request) -> bytes:
    """The body; ApiError when it is too large or too slow, or not declared as JSON (forms of other sites are not)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the request with 'Content-Type: application/json'.")
    parts = aiter(request.stream())
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(READING_SECONDS):
                body += await anext(parts)
        except StopAsyncIteration:
            return bytes(body)
        except ClientDisconnect:
            raise ApiError(400, "The request broke off.") from None
        except TimeoutError:
            raise ApiError(408, f"The request did not come within {READING_SECONDS:g} seconds.") from None
        if len(body) > LARGEST_BODY:
            raise ApiError(413, f"The request is larger than {LARGEST_BODY} bytes.", code="request_too_large")


class EventStream(StreamingResponse):
    """A stream of server-sent events that ends with its reader: who is gone, or takes nothing for a while."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str], headers: Mapping[str, str] | None = None, job: Cancellable | None = None
    ) -> None:
        """job: what is cancelled when the stream ends, however it ends."""
        super().__init__(events, headers=headers)
        self.events, self.job = events, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(READING_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)  # returns when the client is gone, too
        except (TimeoutError, ClientDisconnect):  # Starlette may take the first, an OSError, for the second
            log.info("a reader took nothing for %g seconds and was left", READING_SECONDS)
        finally:
            await self.events.aclose()  # now, not when somebody finds it
            if self.job is not None:
                self.job.cancel()


@asynccontextmanager
async def cancelled_when_gone(job: Cancellable, request: Request) -> AsyncIterator[None]:
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
