"""Where a file comes from and where a document went: back to the raw documents, forward to the models."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chatwright.corpus.table import read_row
from chatwright.errors import UserError
from chatwright.flow.manifest import MANIFEST, Manifest, read_manifest
from chatwright.storage import file_digest

EXPOSURES = Path("shards", "exposures.parquet")
DOCUMENTS = Path("corpus", "documents.parquet")


@dataclass(frozen=True)
class Origin:
    """A stage on the way back. ``replaced``: inputs that were made anew since it read them."""

    name: str
    key: str
    ended: str
    inputs: tuple[str, ...]
    user_files: tuple[str, ...]
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Ancestry:
    """All that a file was made from. ``changed``: its bytes are not those that its stage left.

    stages: that file's own stage first, raw input last. documents: raw documents kept, by source; empty when the file
    was not made from a corpus. table: the file that lists them one by one.
    """

    file: str
    changed: bool
    stages: tuple[Origin, ...]
    documents: dict[str, int] = field(default_factory=dict)
    table: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For a program to read."""
        return asdict(self)

    def as_text(self) -> str:
        """For a person to read."""
        lines = [self.file + (", changed since its stage made it" if self.changed else "")]
        for origin in self.stages:
            reads = ", ".join((*origin.inputs, *origin.user_files)) or "what its package or its recipe holds"
            lines.append(f"  {origin.name}  {origin.key}  {origin.ended}  made from {reads}")
            lines += [f"    of an earlier {name}, which was made anew since" for name in origin.replaced]
        lines += [f"  {count:,} documents of {source}" for source, count in self.documents.items()]
        return "\n".join(lines + ([f"  each of them: {self.table}"] if self.table else []))


@dataclass(frozen=True)
class Descent:
    """What became of a document. ``times``: how often it stands in the training shard; None before there is one.

    stages: those that were made from the corpus it is in. models: those of them whose weights learned from its text.
    """

    document: str
    split: str | None
    dropped_by: str | None
    times: int | None
    stages: tuple[str, ...]
    models: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For a program to read."""
        return asdict(self)

    def as_text(self) -> str:
        """For a person to read."""
        place = f"dropped by {self.dropped_by}" if self.dropped_by else f"in the split {self.split}"
        times = "" if self.times is None else f", {self.times} times in the training shard"
        models = ", ".join(self.models) or "none"
        return f"{self.document}: {place}{times}\n  models that learned from it: {models}"


def back(path: Path) -> Ancestry:
    """Walk from a file of a run, or a stage's folder, back to the raw documents. UserError when no stage made it."""
    folder = _stage_folder(path)
    run = folder.parent
    manifests = _finished(run)
    own = manifests[folder.name]
    changed = path.is_file() and path.name != MANIFEST and _recorded(path, folder, own) != file_digest(path)
    order = _reachable(folder.name, {name: tuple(made.inputs) for name, made in manifests.items()})
    stages = tuple(_origin(manifests[name], manifests) for name in order)
    documents: dict[str, int] = {}
    if "corpus" in order:
        table = pq.read_table(run / DOCUMENTS, columns=["source"], filters=[("split", "in", ["train", "heldout"])])
        documents = dict(sorted(Counter(table["source"].to_pylist()).items()))
    return Ancestry(str(path), changed, stages, documents, str(run / DOCUMENTS) if documents else None)


def forward(run: Path, document: str) -> Descent:
    """Walk from a raw document forward to the models that saw it. UserError when the run has no such document."""
    manifests = _finished(run)
    row = read_row(run / DOCUMENTS.parent, document)
    if row is None:
        raise UserError(f"{run / DOCUMENTS} has no document {document!r}; its column `id` lists all there are.")
    readers: dict[str, list[str]] = {}
    for name, made in manifests.items():
        for source in made.inputs:
            readers.setdefault(source, []).append(name)
    stages = _reachable("corpus", {name: tuple(found) for name, found in readers.items()})[1:]
    times = None
    if (run / EXPOSURES).is_file():
        exposed = pq.read_table(run / EXPOSURES, filters=[("id", "==", document)])["times"].to_pylist()
        times = sum(exposed)
    models = tuple(name for name in stages if times and (run / name / "model.safetensors").is_file())
    return Descent(document, row.split, row.dropped_by, times, stages, models)


def _stage_folder(path: Path) -> Path:
    """The folder of the stage that made ``path``."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    resolved = path.resolve()
    for folder in (resolved, *resolved.parents):
        if (folder / MANIFEST).is_file():
            return folder
    raise UserError(f"{path} lies in no finished stage; give a file such as runs/atlas/ppo/model.safetensors.")


def _recorded(path: Path, folder: Path, own: Manifest) -> str | None:
    """The hash that a file had when its stage ended; None for a file that came later."""
    return own.files.get(path.resolve().relative_to(folder).as_posix())


def _finished(run: Path) -> dict[str, Manifest]:
    """The manifests of a run, those of variants that its recipe no longer has too."""
    found = {path.parent.name: read_manifest(path.parent) for path in sorted(run.glob(f"*/{MANIFEST}"))}
    return {name: made for name, made in found.items() if made is not None}


def _reachable(start: str, edges: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """``start`` and all that is reached from it, near ones first."""
    found = [start]
    for name in found:
        found += [other for other in edges.get(name, ()) if other not in found]
    return tuple(found)


def _origin(made: Manifest, manifests: dict[str, Manifest]) -> Origin:
    replaced = tuple(name for name, key in made.inputs.items() if name not in manifests or manifests[name].key != key)
    return Origin(made.instance, made.key, made.ended, tuple(made.inputs), tuple(made.user_files), replaced)
