"""The service's database: SQLite, or PostgreSQL by its URL. Short reads in parallel; writers take turns on SQLite."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from chatwright.errors import UserError

DEFAULT = "sqlite:///chatwright.db"
Rows = sa.Select[*tuple[Any, ...]]  # a query of whatever columns
Statement = Rows | sa.Update | sa.Insert
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10  # how long to wait for another process that writes to the same SQLite file
Kind = Literal["read", "write"]
Watch = Callable[[Kind, float, float], None]  # of a transaction: how long it waited to begin, and how long it took
CONNECTIONS = 40  # as many as there are threads that answer requests
WRITES = {"writes": True}  # options of a connection
UPGRADING = 0x63686174  # the advisory lock that PostgreSQL upgrades under


class Prepared:
    """A statement that every turn asks: written out once, and given to the driver itself.

    SQLAlchemy's way to the driver is five times as long as SQLite's answer, and is code that an engine which keeps the
    processor's caches to itself has always pushed out of them.
    """

    def __init__(self, statement: Statement, dialect: sa.Dialect, columns: Sequence[str] | None = None) -> None:
        """columns: those that an update or an insert gives."""
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup  # None where the driver takes them by name
        types = {name: bind.type.dialect_impl(dialect) for name, bind in compiled.binds.items()}
        self._given = {name: go for name, type in types.items() if (go := type.bind_processor(dialect))}
        self._columns = statement.selected_columns if isinstance(statement, sa.Select) else ()
        self._dialect = dialect
        self._got: list[tuple[int, Callable[[Any], Any]]] | None = None  # what a column's values go through, by place

    def __call__(self, cursor: Any, values: Mapping[str, Any]) -> None:
        """Run it."""
        values = {**values, **{name: go(values[name]) for name, go in self._given.items()}}
        cursor.execute(self._text, values if self._order is None else [values[name] for name in self._order])

    def rows(self, cursor: Any, values: Mapping[str, Any]) -> list[list[Any]]:
        """What it finds, column by column as it was asked."""
        self(cursor, values)
        if self._got is None:
            self._got = list(self._readers(cursor))
        rows = [list(row) for row in cursor.fetchall()]
        for row in rows:
            for place, go in self._got:
                row[place] = go(row[place])
        return rows

    def _readers(self, cursor: Any) -> Iterator[tuple[int, Callable[[Any], Any]]]:
        for place, column in enumerate(self._columns):
            type = column.type.dialect_impl(self._dialect)
            if go := type.result_processor(self._dialect, cursor.description[place][1]):
                yield place, go


class Database:
    """A connection pool with ways in that are one transaction each: `read` and `write`, with objects, and `cursor`."""

    def __init__(self, url: str = DEFAULT) -> None:
        """Open the database at `url`; `sqlite://` alone is one that goes when it is closed. UserError: no such."""
        self._folder = None
        if url in ("sqlite://", "sqlite:///:memory:"):  # a file: threads cannot share a database in memory
            self._folder = tempfile.TemporaryDirectory(prefix="chatwright-")
            url = f"sqlite:///{self._folder.name}/service.db"
        self.url = read_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"  # else it is PostgreSQL
        self.watch: Watch = lambda kind, waited, took: None  # told of each transaction, in seconds
        self._turn = threading.Lock()
        # The connection that was used last is the next: its cache is warm, and the others need none.
        options: dict[str, Any] = {"pool_size": CONNECTIONS, "max_overflow": 10, "pool_use_lifo": True}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
            options["poolclass"] = sa.pool.QueuePool
        else:
            options["pool_pre_ping"] = True
        self.engine = sa.create_engine(self.url, **options)
        self._kept = deque[Any]()  # connections that were used last, of those for `Prepared` statements
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare)
            sa.event.listen(self.engine, "begin", _begin)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with self._watched("read") as begun, Session(self.engine, expire_on_commit=False, autoflush=False) as session:
            session.connection()
            begun()
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is on disk when the block ends well, and undone when it does not. Keep it short."""
        with (
            self._watched("write") as begun,
            self._waiting_turn(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options=WRITES)
            begun()
            yield session

    def prepare(self, statement: Statement, columns: Sequence[str] | None = None) -> Prepared:
        """A statement for `cursor`. columns: those that an update or an insert gives."""
        return Prepared(statement, self.engine.dialect, columns)

    @contextmanager
    def cursor(self, kind: Kind) -> Iterator[Any]:
        """`read` or `write` for `Prepared` statements, which takes a third of the time."""
        with self._watched(kind) as begun, self._waiting_turn() if kind == "write" else nullcontext():
            try:
                connection = self._kept.pop()
            except IndexError:
                connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                if self.is_sqlite:
                    cursor.execute("BEGIN IMMEDIATE" if kind == "write" else "BEGIN")
                begun()
                yield cursor
                connection.commit()
            except BaseException:
                connection.close()  # the pool undoes what was done
                raise
            if self.is_sqlite:
                self._kept.append(connection)
            else:  # its server may end it meanwhile, which the pool finds out
                connection.close()

    @contextmanager
    def _watched(self, kind: Kind) -> Iterator[Callable[[], None]]:
        """Times a transaction: from asking for it to where what is given is called, and from there to its end."""
        asked, began = time.perf_counter(), None

        def begun() -> None:
            nonlocal began
            began = time.perf_counter()

        try:
            yield begun
        finally:
            if began is not None:
                self.watch(kind, began - asked, time.perf_counter() - began)

    def _waiting_turn(self) -> AbstractContextManager[Any]:
        """SQLite has one writer at a time: threads of this process queue here, which is fair and does not poll."""
        return self._turn if self.is_sqlite else nullcontext()

    def upgrade(self) -> None:
        """Bring the tables to what this version needs. UserError when the database cannot be reached or is newer."""
        try:
            with self.engine.connect() as connection:
                if not self.is_sqlite:
                    connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({UPGRADING})"))
                command.upgrade(_alembic(connection), "head")
                connection.commit()
        except (DBAPIError, sqlite3.Error) as error:  # the latter from `_prepare`
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise UserError(f"The database {self} cannot be used: {reason}.") from None
        except command.util.CommandError as error:
            raise UserError(f"The database {self} is of another version of chatwright: {error}.") from None

    def check(self) -> None:
        """Raises when the database cannot be read."""
        with self.read() as session:
            session.execute(sa.text("SELECT 1"))

    def size(self) -> int | None:
        """Bytes on disk."""
        with self.read() as session:
            if self.is_sqlite:
                pages, each = (
                    session.execute(sa.text(f"PRAGMA {name}")).scalar() for name in ("page_count", "page_size")
                )
                return int(pages or 0) * int(each or 0)
            return session.execute(sa.text("SELECT pg_database_size(current_database())")).scalar()

    def close(self) -> None:
        """Close every connection."""
        while self._kept:
            self._kept.pop().close()
        self.engine.dispose()
        if self._folder is not None:
            self._folder.cleanup()

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)


def read_url(text: str) -> sa.URL:
    """The address of a database. UserError when it is neither SQLite's nor PostgreSQL's.

    >>> read_url("postgres://me@host/chat").drivername
    'postgresql+psycopg'
    """
    wrong = UserError(
        f"{text.partition('@')[2] or text} is not the address of a database; write sqlite:///FILE or "
        "postgresql://USER:PASSWORD@HOST/NAME."
    )
    try:
        url = sa.make_url(text)
        kind = url.drivername.partition("+")[0]
        if kind in ("postgres", "postgresql"):
            return url.set(drivername="postgresql+psycopg")
        if kind == "sqlite" and url.database:
            return url.set(drivername="sqlite+pysqlite")
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    raise wrong from None


def _prepare(connection: Any, _: Any) -> None:
    """Settings of a SQLite connection."""
    connection.isolation_level = None  # transactions begin where `_begin` says
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_SECONDS * 1000}",
        "journal_mode=WAL",  # readers and the writer do not wait for each other
        "synchronous=FULL",  # what was committed survives a killed process, and a power cut too
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.create_function(
        "lower", 1, lambda text: text.lower() if isinstance(text, str) else text, deterministic=True
    )


def _begin(connection: sa.Connection) -> None:
    """A writer takes the file's lock at once: one that reads first could not get it later."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _alembic(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
