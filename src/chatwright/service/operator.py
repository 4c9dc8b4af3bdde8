"""What an operator does at the command line: the first admin, and the database's upkeep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from chatwright.errors import UserError
from chatwright.records import Record
from chatwright.service import copying, exports
from chatwright.service.accounts import Accounts, clean_name
from chatwright.service.admin import Admin
from chatwright.service.audit import Actor
from chatwright.service.database import Database
from chatwright.service.exports import Choice, Kind
from chatwright.service.passwords import Passwords, check_new
from chatwright.service.refusal import Refusal
from chatwright.service.settings import SettingsStore
from chatwright.storage import write_jsonl

COMMAND_LINE = Actor(None, "command line")


def create_admin(url: str, name: str, password: str) -> None:
    """Make an admin's account. UserError when the name is taken, or either will not do."""
    try:
        clean_name(name)
        check_new(password, name)
    except Refusal as refusal:
        raise UserError(str(refusal)) from None
    with opened(url) as database:
        kept = Passwords().hash_now(password)
        if Accounts(database).create(name, kept, role="admin", actor=COMMAND_LINE) is None:
            raise UserError(f"The name {name} is taken in {database}; an admin can change the role at /admin.")


def upgrade(url: str) -> None:
    """Bring a database up to date."""
    with opened(url):
        pass


def copy_database(source: str, target: str) -> dict[str, int]:
    """Copy a database into an empty one; returns how many rows of each table. UserError when it cannot be."""
    origin = Database(source)
    if origin.is_sqlite and not Path(origin.url.database or "").is_file():
        raise UserError(f"{origin.url.database} does not exist.")
    with opened(target) as empty:
        try:
            return copying.copy(origin, empty)
        finally:
            origin.close()


def export_records(url: str, kind: str, out: Path, per_user: int | None, model: str | None) -> int:
    """Write the records of a kind into a file; returns how many. UserError when there is no such kind."""
    if kind not in exports.KINDS:
        raise UserError(f"{kind} cannot be exported; choose one of {', '.join(exports.KINDS)}.")
    with opened(url) as database:
        choice = Choice(model=model, per_user=per_user or SettingsStore(database).current.export_per_user)
        records: list[Record] = list(exports.export(database, cast(Kind, kind), choice))
        Admin(database).note(COMMAND_LINE, "exported", kind, per_user=choice.per_user)
        write_jsonl(out, records)
    return len(records)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database, up to date."""
    database = Database(url)
    try:
        database.upgrade()
        yield database
    finally:
        database.close()
