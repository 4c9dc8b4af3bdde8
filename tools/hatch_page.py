"""What hatchling does before it makes a wheel or a source archive: it builds the page, so that users need no Node."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface):
    """Builds `web/` with tools/build_page.py."""

    def dependencies(self) -> list[str]:
        """Node as a wheel, where the system has none that will do."""
        tool = self._tool()
        return [] if tool["system_has_npm"]() or tool["BUILT"].is_file() else [tool["NODE_WHEEL"]]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, except for an editable installation, which `make` does it for."""
        if version == "editable":
            return
        tool = self._tool()
        try:
            tool["build"]()
        except tool["CannotBuild"] as error:
            raise SystemExit(str(error)) from None

    def _tool(self) -> dict[str, Any]:
        return runpy.run_path(str(Path(self.root) / "tools" / "build_page.py"))
