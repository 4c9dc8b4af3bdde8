"""The manifest of a finished stage: what it was made from, by what, how, and what it left. Its presence means done."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import chatwright
from chatwright.errors import UserError
from chatwright.stage import EVENTS
from chatwright.storage import file_digest, first_problem, read_json, write_json

RecordT = TypeVar("RecordT", bound=BaseModel)

MANIFEST = "manifest.json"
IN_PROGRESS = "in_progress.json"
LIBRARIES = ("torch", "numpy", "safetensors", "tokenizers", "pyarrow", "pydantic")  # those whose change can change bits


class Manifest(BaseModel):
    """``manifest.json``. ``inputs`` holds the key of every instance that was read, ``files`` a hash of every file left.

    user_files: the hash of every file of the user's that the config names, by its path. seconds: working time, over
    all the attempts that it took. peak_memory_mib: of the last attempt's process while the stage ran.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    instance: str
    version: int
    key: str
    config: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    user_files: dict[str, str]
    versions: dict[str, str]
    hardware: dict[str, Any]
    started: str
    ended: str
    seconds: float
    attempts: int
    peak_memory_mib: int
    headline: dict[str, Any]
    files: dict[str, str]


class InProgress(BaseModel):
    """``in_progress.json``, while a stage runs and after it broke: what it makes, and the time spent before now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    started: str
    attempt: int
    attempt_began: float
    seconds_before: float


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage's folder, or None when the stage is not done. UserError when it cannot be read."""
    return _read(folder / MANIFEST, Manifest)


def read_in_progress(folder: Path) -> InProgress | None:
    """What the stage was making when it broke, or None."""
    return _read(folder / IN_PROGRESS, InProgress)


def write(folder: Path, record: Manifest | InProgress) -> None:
    """Write a record into a stage's folder, whole or not at all."""
    name = MANIFEST if isinstance(record, Manifest) else IN_PROGRESS
    write_json(folder / name, record.model_dump(mode="json"))


def _read(path: Path, record: type[RecordT]) -> RecordT | None:
    if not path.is_file():
        return None
    try:
        return record.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path} is not one that this version of chatwright wrote ({first_problem(error)}); "
            f"remove {path.parent} to make it anew."
        ) from None


def file_hashes(folder: Path) -> dict[str, str]:
    """A hash of every file that a stage left, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, IN_PROGRESS) and EVENTS not in path.parts
    }


def versions() -> dict[str, str]:
    """The versions of Python, of chatwright and of the libraries that the numbers depend on."""
    found = {"python": platform.python_version(), "chatwright": chatwright.__version__}
    for library in LIBRARIES:
        found[library] = metadata.version(library)
    return found


def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GiB, and the GPU if there is one."""
    import torch  # takes seconds to import, and who only reads manifests does not need it

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "cores": os.cpu_count(), "memory_gib": round(memory_bytes() / 2**30, 1), "gpu": gpu}


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    """The processor's name, or at least its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def forget_peak_memory() -> None:
    """Let the peak be measured anew from here on, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_memory_mib() -> int:
    """The most memory that this process has held since `forget_peak_memory`, or since its start."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20
