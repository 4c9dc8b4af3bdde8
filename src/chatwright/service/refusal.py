"""How the page's API says no: a status, a code for the page and a sentence for a person."""

from __future__ import annotations

import math
from typing import Any


class Refusal(Exception):
    """A request that is not done. retry_after: seconds, for what may be tried again."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The body of the response."""
        error: dict[str, Any] = {"code": self.code, "message": str(self), "param": self.param}
        if self.retry_after is not None:
            error["retry_after"] = self.retry_after
        return {"error": error}


def not_found() -> Refusal:
    """What does not exist and what is somebody else's look the same."""
    return Refusal(404, "not_found", "There is nothing here.")
