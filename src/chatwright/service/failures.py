"""Any error of a request as a refusal of the API."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException

from chatwright.errors import UserError
from chatwright.service.api_error import ApiError

log = logging.getLogger("chatwright.service")


def as_api_error(error: Exception) -> ApiError:
    """The refusal that tells of an error; what is our own fault is logged, not told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, f"{error.detail}.")
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "The server failed to answer; its log says why.")
