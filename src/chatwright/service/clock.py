"""How long a request took, and how much of that was not the engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatwright.inference.request import Completion

KEY = "chatwright.clock"


class Clock:
    """Of one request, in seconds of `time.monotonic`."""

    def __init__(self) -> None:
        """The request has come."""
        self.came = time.monotonic()
        self._engine: tuple[float, float] | None = None

    def engine(self, completions: Sequence[Completion]) -> None:
        """The engine made these answers, side by side."""
        timings = [completion.timing for completion in completions if completion.timing is not None]
        if timings:
            self._engine = min(timing.began for timing in timings), max(timing.ended for timing in timings)

    @property
    def engine_seconds(self) -> float | None:
        """What the engine took; None for a request that it had no part in."""
        return None if self._engine is None else self._engine[1] - self._engine[0]


def clock_of(request: Request) -> Clock:
    """The request's clock; one that begins now where nobody started it before."""
    if KEY not in request.scope:
        request.scope[KEY] = Clock()
    return request.scope[KEY]


class Clocked:
    """Starts every request's clock; writes `Server-Timing`, and tells `overhead` of those that the engine answered."""

    def __init__(self, app: ASGIApp, overhead: Callable[[float], None]) -> None:
        self.app, self.overhead = app, overhead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        clock = scope[KEY] = Clock()

        async def send_timed(message: Message) -> None:
            engine = clock.engine_seconds
            if message["type"] == "http.response.start" and engine is not None:
                total = time.monotonic() - clock.came
                timing = f"engine;dur={1000 * engine:.2f}, service;dur={1000 * (total - engine):.2f}"  # milliseconds
                MutableHeaders(scope=message)["Server-Timing"] = timing
            await send(message)

        await self.app(scope, receive, send_timed)
        engine = clock.engine_seconds
        if engine is not None:
            self.overhead(time.monotonic() - clock.came - engine)
