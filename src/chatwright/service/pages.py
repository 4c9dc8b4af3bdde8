"""The page's files: hashed assets for good, index.html for every address that the page itself knows."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
ADDRESSES = ("c", "share", "admin", "login", "signup", "settings")  # the first part of the page's own addresses
FOREVER = "public, max-age=31536000, immutable"
NOT_BUILT = "The page is not built here; build it with: make page (the API at /v1 works without it).\n"


class PageFiles(StaticFiles):
    """The files of a built page. Without one, each address of the page says how to build it."""

    def __init__(self, folder: Path = PAGE) -> None:
        super().__init__(directory=folder, html=True, check_dir=False)
        self.folder = folder

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or the page for one of its addresses."""
        if scope["path"].startswith(("/api/", "/v1/")):  # whatever `..` makes of the rest
            raise HTTPException(404)
        first, *rest = Path(path).parts or ("",)
        if first in ("", *ADDRESSES) and not (self.folder / "index.html").is_file():
            return PlainTextResponse(NOT_BUILT, 503)
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or first not in ADDRESSES:
                raise
            return await super().get_response("index.html", scope)
        if first == "assets" and rest and response.status_code == 200:
            response.headers["Cache-Control"] = FOREVER
        return response
