"""Work that needs no checkpoint: its items are done part by part, and what is done lies in files until the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from chatwright.inference.engine import Engine
from chatwright.records import Record
from chatwright.stage import progress_bar
from chatwright.storage import read_jsonl, write_jsonl

ItemT = TypeVar("ItemT")
RecordT = TypeVar("RecordT", bound=Record)


def in_parts(
    items: Sequence[ItemT],
    size: int,
    make: Callable[[Sequence[ItemT]], Sequence[RecordT]],
    kind: type[RecordT],
    folder: Path,
    title: str,
    engine: Engine | None = None,
    unit: str = "prompts",
) -> list[RecordT]:
    """``make`` of every ``size`` items, a record for each; a part that lies in ``folder`` is not made again.

    ``title`` names the progress bar, ``unit`` the items in it. Each part begins with the engine's cache empty, so that
    it is the same whatever was made before it.
    """
    made: list[RecordT] = []
    with progress_bar(title, len(items)) as bar:
        for first in range(0, len(items), size):
            part = folder / f"{first:08}.jsonl"
            if not part.is_file():
                if engine is not None:
                    engine.refresh()
                write_jsonl(part, make(items[first : first + size]))
            made += read_jsonl(part, kind)
            bar.update(len(made), unit)
    return made
