"""Whether the service lives, and whether it can answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from chatwright import __version__
from chatwright.service.line import Line

CHECK_SECONDS = 2.0  # for each check of readiness

log = logging.getLogger("chatwright.service")


def router(models: Collection[str], line: Line, checks: Mapping[str, Callable[[], None]]) -> APIRouter:
    """`/health` and `/ready`. checks: by name, each raises when what it looks at cannot be used."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """The process lives: answers also while every place is taken."""
        return {"status": "ok", "version": __version__, "models": sorted(models), "requests": line.length}

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """The service can answer: a load balancer may send requests. 503 names what cannot be used."""
        failing = ["models"] if not models else []
        for name, check in checks.items():
            try:
                await asyncio.wait_for(asyncio.to_thread(check), CHECK_SECONDS)
            except Exception as error:
                log.warning("%s cannot be used: %r", name, error)
                failing.append(name)
        status = {"status": "not ready" if failing else "ready", "failing": failing}
        return JSONResponse(status, 503 if failing else 200)

    return routes
