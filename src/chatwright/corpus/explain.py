"""A document's story: where it came from, what every step decided and why, how often it was learned from, by whom."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from chatwright.corpus.table import Row, read_row
from chatwright.errors import UserError
from chatwright.storage import read_json


def explain(run_dir: Path, doc_id: str) -> list[str]:
    """The story of a document of a run, a sentence a line. UserError when the run has no such document."""
    row = read_row(run_dir / "corpus", doc_id)
    if row is None:
        raise UserError(f"{run_dir / 'corpus'} has no document {doc_id!r}; ids are in its documents.parquet.")
    return _origin(row) + _judgement(row) + _fate(run_dir, row) + ["It reads:", *row.text.splitlines()]


def _origin(row: Row) -> list[str]:
    lines = [f"{row.id} is a document of the source {row.source}" + (f" ({row.url})." if row.url else ".")]
    if row.piece_of:
        lines.append(f"Decontamination cut it from {row.piece_of}, which held evaluation text.")
    else:
        lines.append(f"Extraction made {len(row.text):,} characters of prose from {row.raw_characters:,} raw ones.")
    return lines


def _judgement(row: Row) -> list[str]:
    lines = []
    if row.quality_score is not None:
        lines.append(f"The quality classifier takes it for curated text with probability {row.quality_score:.3f}.")
    if row.pareto is not None and row.quality_score is not None:
        decision = "above" if row.pareto > 1 - row.quality_score else "not above"
        lines.append(f"Its Pareto draw, {row.pareto:.3f}, is {decision} 1 - score = {1 - row.quality_score:.3f}.")
    if row.dropped_by:
        lines.append(f"It was left out by {row.dropped_by.replace('_', ' ')}: {row.reason}.")
        if row.duplicate_of:
            lines.append(f"Its text lives on in {row.duplicate_of}.")
    else:
        lines.append("No step left it out.")
    return lines


def _fate(run_dir: Path, row: Row) -> list[str]:
    """The split, and for kept documents the shard and the models made from it."""
    if row.split is None:
        return []
    if row.split == "heldout":
        return ["It is held out: no model learns from it; it measures bits per byte."]
    exposures = run_dir / "shards" / "exposures.parquet"
    if not exposures.is_file():
        return ["It is in the training split; no shard has been written yet."]
    entry = pq.read_table(exposures, filters=[("id", "==", row.id)]).to_pylist()[0]
    lines = [f"It is in the training split: {entry['tokens']:,} tokens, {entry['times']} times in the training shard."]
    models = _made_from(run_dir, "shards") if entry["times"] else []
    if models:
        lines.append(f"Made from that shard, directly or by way of another stage: {', '.join(models)}.")
    return lines


def _made_from(run_dir: Path, stage: str) -> list[str]:
    """The finished stages of a run that read `stage` or anything made from it."""
    reads = {path.parent.name: set(read_json(path)["inputs"]) for path in sorted(run_dir.glob("*/manifest.json"))}
    reached = {stage}
    while grown := {name for name, inputs in reads.items() if name not in reached and inputs & reached}:
        reached |= grown
    return [name for name in reads if name in reached - {stage}]
