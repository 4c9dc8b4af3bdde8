"""Files that appear whole: atomic writes, JSON and JSON lines with errors that name the place, content hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatwright.errors import UserError

RecordT = TypeVar("RecordT", bound=BaseModel)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; it takes ``path``'s place when the block ends well, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; it becomes ``path`` when the block ends well, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. UserError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from None


def write_jsonl(path: Path, records: Iterable[BaseModel | dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as lines:
        for record in records:
            value = record.model_dump(mode="json", exclude_defaults=False) if isinstance(record, BaseModel) else record
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, record: type[RecordT]) -> list[RecordT]:
    """Read a JSON-lines file of ``record``. UserError names the first bad line and what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    records = []
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    records.append(_parse(line, record, path, number))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error}).") from None
    return records


def _parse(line: str, record: type[RecordT], path: Path, number: int) -> RecordT:
    try:
        return record.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{path}, line {number}: {first_problem(error)}.") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error in a few words: where, what."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{place}: {message}" if place else message


def digest(value: Any) -> str:
    """A 16-digit hash of a JSON-like value; equal values, whatever the order of keys, have equal hashes."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """A 16-digit hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def keyed_uniform(*key: object) -> float:
    """A number in [0, 1) that depends on ``key`` alone, so that no order or number of workers changes it."""
    raw = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(raw[:8], "big") / 2**64
