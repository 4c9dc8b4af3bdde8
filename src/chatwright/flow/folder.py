"""The output folder of a run: whose it is, who works in it, and which of its stages are done."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chatwright
from chatwright.errors import UserError
from chatwright.flow.manifest import Manifest, read_manifest
from chatwright.flow.recipe import Recipe
from chatwright.storage import read_json, write_json

RUN = "run.json"
LOCK = ".lock"


def read_run(out: Path) -> dict[str, Any]:
    """``run.json`` of an output folder: the recipe's name, its instances, those beside them, its questions. UserError
    when it is none.
    """
    if not (out / RUN).is_file():
        raise UserError(f"{out} is not the output folder of a run; make one with: chatwright run RECIPE --out {out}")
    return read_json(out / RUN)


def finished(out: Path) -> dict[str, Manifest | None]:
    """The instances that the run in ``out`` is to have, each with its manifest, or None where it is not done."""
    run = read_run(out)
    return {name: read_manifest(out / name) for name in (*run["stages"], *run.get("beside", ()))}


def lacking(out: Path) -> list[str]:
    """The recipe's own instances that are not done; those beside them, such as rounds, may be under way."""
    return [name for name in read_run(out)["stages"] if read_manifest(out / name) is None]


@contextlib.contextmanager
def claimed(out: Path, recipe: Recipe) -> Iterator[None]:
    """Make ``out`` this recipe's and this process's while the block runs.

    Raises UserError, with nothing changed, when it belongs to another recipe, to nobody, or to a process at work.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a folder for --out.")
    if (out / RUN).is_file():
        other = read_run(out)["recipe"]
        if other != recipe.name:
            raise UserError(f"{out} holds a run of the recipe {other!r}, not of {recipe.name!r}; choose another --out.")
    elif out.exists() and any(path.name != LOCK for path in out.iterdir()):
        raise UserError(f"{out} is not empty and is not the folder of a run; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        before = read_run(out).get("beside", ()) if (out / RUN).is_file() else ()
        write_json(
            out / RUN,
            {
                "recipe": recipe.name,
                "recipe_file": str(recipe.path.absolute()),
                "chatwright": chatwright.__version__,
                "stages": [name for name in recipe.names if name not in recipe.beside],
                "beside": [name for name in dict.fromkeys((*before, *recipe.beside)) if _is_known(name, recipe, out)],
                "questions": [list(turns) for turns in recipe.questions],
            },
        )
        yield


def _is_known(name: str, recipe: Recipe, out: Path) -> bool:
    """Whether an instance beside the recipe's own is to be made now, or was begun by an earlier command."""
    return name in recipe.beside or (name not in recipe.names and (out / name).is_dir())


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold a lock that the system drops when this process ends, however it ends, and that workers do not inherit."""
    with (out / LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            process = lock.read().strip()
            raise UserError(
                f"Another run (process {process}) works in {out}; wait for it or choose another --out."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
