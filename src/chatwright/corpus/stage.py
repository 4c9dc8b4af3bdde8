"""The corpus stage: read, extract, deduplicate, filter, decontaminate, split, weigh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.corpus import decontaminate as contamination
from chatwright.corpus import dedup, quality
from chatwright.corpus.extract import clean
from chatwright.corpus.mixture import shares
from chatwright.corpus.sources import read_source
from chatwright.corpus.table import Row, write_rows
from chatwright.errors import UserError
from chatwright.records import Question
from chatwright.stage import Headline, Inputs, ProgressBar, Stage, StageConfig, progress_bar, say
from chatwright.storage import keyed_uniform, read_jsonl, write_json


class SourceConfig(BaseModel):
    """One source of documents.

    weight: its share of the mixture, relative to the others. curated: an example of good text for the quality
    classifier, preferred among duplicates. filter: judged by that classifier. limit: at most so many documents, drawn
    by a key of their ids. path: a glob of the user's own files; without it the source is one that the package knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(default=1.0, gt=0)
    curated: bool = False
    filter: bool = False
    limit: int | None = Field(default=None, gt=0)
    path: Path | None = None

    @model_validator(mode="after")
    def _not_both(self) -> SourceConfig:
        if self.curated and self.filter:
            raise ValueError("a source is either curated or filtered, not both")
        return self


class CorpusConfig(StageConfig):
    """sources: by name. near_duplicate: Jaccard similarity from which two documents are one.

    heldout_fraction: share of the documents of every source that no model learns from.
    """

    sources: dict[str, SourceConfig] = Field(min_length=1)
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    heldout_fraction: float = Field(default=0.01, gt=0, lt=1)


STEPS = ("read", "exact duplicates", "near duplicates", "quality", "decontamination", "split")


def run(config: CorpusConfig, inputs: Inputs, out: Path) -> Headline:
    """Write documents.parquet, mixture.json and report.json."""
    with progress_bar("corpus", len(config.sources) + len(STEPS) - 1) as bar:
        rows = _read(config, bar)
        done = len(config.sources)
        bar.update(done, STEPS[1])
        _drop_duplicates(rows, config)
        bar.update(done + 2, STEPS[3])
        auc = _filter(rows, config)
        bar.update(done + 3, STEPS[4])
        questions = read_jsonl(inputs["conversations"] / "questions.jsonl", Question)
        rows += _decontaminate(rows, questions)
        bar.update(done + 4, STEPS[5])
        _split(rows, config)
        write_rows(out / "documents.parquet", rows)
        bar.update(done + 5)
    counts = _count(rows, config)
    write_json(out / "mixture.json", {"sources": _mixture(rows, config)})
    write_json(out / "report.json", {"documents": len(rows), "quality_auc": auc, "sources": counts})
    _print(counts)
    return {
        "documents": len(rows),
        "kept": sum(row.dropped_by is None for row in rows),
        "bytes": sum(len(row.text.encode()) for row in _kept(rows)),
        "quality_auc": auc,
    }


def _kept(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.dropped_by is None]


def _read(config: CorpusConfig, bar: ProgressBar) -> list[Row]:
    """Every raw document of every source, its text extracted."""
    rows: dict[str, Row] = {}
    for done, (name, source) in enumerate(sorted(config.sources.items())):
        bar.update(done, f"read {name}")
        for document in read_source(name, None if source.path is None else str(source.path), source.limit, config.seed):
            assert document.id not in rows, f"two documents have the id {document.id}"
            text = clean(document.text, document.meta.get("format", "text"))
            row = Row(document.id, name, document.url, text, len(document.text))
            if not text:
                row.drop("extract", "no text left after extraction")
            rows[document.id] = row
    if not rows:
        raise UserError("The corpus is empty: none of its sources holds a document; check `corpus.sources`.")
    return list(rows.values())


def _drop_duplicates(rows: list[Row], config: CorpusConfig) -> None:
    """Keep one document of every cluster: of a curated source if it can be, else the one with the smallest key."""
    rank = {
        row.id: (not config.sources[row.source].curated, keyed_uniform(config.seed, "duplicate", row.id), row.id)
        for row in rows
    }
    by_id = {row.id: row for row in rows}
    texts = {row.id: row.text for row in _kept(rows)}
    for name, original in dedup.representatives(dedup.exact_clusters(texts), rank).items():
        by_id[name].drop("exact_duplicate", f"same words as {original}")
        by_id[name].duplicate_of = original
    texts = {row.id: row.text for row in _kept(rows)}
    for name, original in dedup.representatives(dedup.near_clusters(texts, config.near_duplicate), rank).items():
        by_id[name].drop("near_duplicate", f"nearly the same as {original}")
        by_id[name].duplicate_of = original


def _filter(rows: list[Row], config: CorpusConfig) -> float | None:
    """Score the documents of filtered sources and draw which of them stay; returns the classifier's AUC."""
    curated = [row for row in _kept(rows) if config.sources[row.source].curated]
    raw = [row for row in _kept(rows) if config.sources[row.source].filter]
    if not any(source.filter for source in config.sources.values()):
        return None
    if not curated or not raw:
        raise UserError("The quality filter needs documents of a `curated` source and of a `filter` source; set both.")
    both = curated + raw
    judged = quality.score_texts(
        [row.id for row in both], [row.text for row in both], [True] * len(curated) + [False] * len(raw), config.seed
    )
    for row, score in zip(both, judged.scores, strict=True):
        row.quality_score = score
    for row in raw:
        row.pareto = quality.pareto(row.id, config.seed)
        if not quality.keep(row.quality_score or 0.0, row.pareto):
            row.drop("quality", f"score {row.quality_score:.3f}: Pareto draw {row.pareto:.3f} is not above 1 - score")
    return round(judged.auc, 4)


def _decontaminate(rows: list[Row], questions: list[Question]) -> list[Row]:
    """Take evaluation text out; returns rows for the pieces that documents were cut into."""
    grams = contamination.grams_of(contamination.evaluation_texts(questions))
    by_id = {row.id: row for row in rows}
    pieces = []
    for name, cut in contamination.decontaminate({row.id: row.text for row in _kept(rows)}, grams).items():
        whole = by_id[name]
        whole.drop("decontamination", cut.reason)
        for number, text in enumerate(cut.pieces, start=1):
            piece = Row(f"{name}#{number}", whole.source, whole.url, text, whole.raw_characters)
            piece.quality_score, piece.pareto, piece.piece_of = whole.quality_score, whole.pareto, name
            pieces.append(piece)
    return pieces


def _split(rows: list[Row], config: CorpusConfig) -> None:
    """Hold out documents by a key of their ids, at least one in every source of two or more; pieces go together."""
    by_source: dict[str, dict[float, list[Row]]] = {}
    for row in _kept(rows):
        key = keyed_uniform(config.seed, "heldout", row.piece_of or row.id)
        by_source.setdefault(row.source, {}).setdefault(key, []).append(row)
    if not any(len(keys) > 1 for keys in by_source.values()):
        raise UserError(
            "Fewer than two documents are left in every source of the corpus: nothing to learn from; add text."
        )
    for keys in by_source.values():
        least = min(keys) if len(keys) > 1 else -1.0
        for key, together in keys.items():
            for row in together:
                row.split = "heldout" if key < config.heldout_fraction or key == least else "train"


def _mixture(rows: list[Row], config: CorpusConfig) -> dict[str, Any]:
    """Weights of the sources that have training text, and their sizes."""
    train = [row for row in rows if row.split == "train"]
    size = Counter[str]()
    for row in train:
        size[row.source] += len(row.text.encode())
    for name in sorted(set(config.sources) - set(size)):
        say(f"[yellow]Corpus source {name} has no document left: the others share its weight.[/]")
    share = shares({name: config.sources[name].weight for name in sorted(size)})
    documents = Counter(row.source for row in train)
    return {name: {"weight": share[name], "documents": documents[name], "bytes": size[name]} for name in share}


def _count(rows: list[Row], config: CorpusConfig) -> dict[str, dict[str, int]]:
    """For each source how many documents came in, were dropped by each step, and are left in each split."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in sorted(config.sources)}
    for row in rows:
        counts[row.source]["pieces" if row.piece_of else "documents"] += 1
        counts[row.source][f"dropped_by_{row.dropped_by}" if row.dropped_by else str(row.split)] += 1
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


def _print(counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, count in counts.items():
        say(f"  {name}: " + ", ".join(f"{what.replace('_', ' ')} {number:,}" for what, number in count.items()))


STAGE = Stage(
    name="corpus",
    version=1,
    config=CorpusConfig,
    inputs=("conversations",),
    run=run,
    summary="read, clean, deduplicate, filter and decontaminate the documents, and weigh their sources",
)
