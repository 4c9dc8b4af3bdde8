"""documents.parquet: one row for every document that came in, its text, and every decision made about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.errors import UserError
from chatwright.records import Document
from chatwright.storage import read_json, whole_file

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("raw_characters", pa.int64()),
        ("quality_score", pa.float64()),
        ("pareto", pa.float64()),
        ("dropped_by", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("piece_of", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(slots=True)
class Row:
    """A document and what was decided about it.

    text: after extraction. raw_characters: before. quality_score, pareto: null where no filter applies.
    dropped_by: the step that left it out, null when kept, and reason: why. duplicate_of: the id of the document that
    was kept instead. piece_of: the id of the document that decontamination cut this piece from. split: train or
    heldout, null when dropped.
    """

    id: str
    source: str
    url: str | None
    text: str
    raw_characters: int
    quality_score: float | None = None
    pareto: float | None = None
    dropped_by: str | None = None
    reason: str | None = None
    duplicate_of: str | None = None
    piece_of: str | None = None
    split: str | None = None

    def drop(self, step: str, reason: str) -> None:
        """Leave the document out, and say which step did and why."""
        self.dropped_by = step
        self.reason = reason


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows, ordered by id, whole or not at all."""
    ordered = sorted(rows, key=lambda row: row.id)
    columns = {name: [getattr(row, name) for row in ordered] for name in SCHEMA.names}
    with whole_file(path) as partial:
        pq.write_table(pa.table(columns, schema=SCHEMA), partial, compression="zstd")


def read_row(folder: Path, document_id: str) -> Row | None:
    """The row of one document, or None."""
    found = _read(folder, SCHEMA.names, [("id", "==", document_id)]).to_pylist()
    return Row(**found[0]) if found else None


def read_kept(folder: Path, split: str) -> list[Document]:
    """The kept documents of a split (`train` or `heldout`), ordered by id."""
    table = _read(folder, ["id", "source", "text"], [("split", "==", split)])
    return [Document(**row) for row in table.to_pylist()]


def read_weights(folder: Path) -> dict[str, float]:
    """The weight of each source in the mixture."""
    return {source: entry["weight"] for source, entry in read_json(folder / "mixture.json")["sources"].items()}


def _read(folder: Path, columns: list[str], filters: list[tuple[str, str, str]]) -> pa.Table:
    path = folder / "documents.parquet"
    try:
        return pq.read_table(path, columns=columns, filters=filters)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with `chatwright corpus`.") from None
    except pa.ArrowInvalid:
        raise UserError(f"{path} is damaged; make it again with `chatwright corpus`.") from None
