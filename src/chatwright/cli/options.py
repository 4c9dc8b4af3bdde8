"""Options that several commands have, and how they print JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="CHATWRIGHT_DATABASE",
        help="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME.",
    ),
]
DATABASE = "sqlite:///chatwright.db"


def print_json(value: dict[str, Any]) -> None:
    """Print a command's result for a program."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
