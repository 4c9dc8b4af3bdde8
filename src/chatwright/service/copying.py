"""Copies a whole database into an empty one of either kind: from SQLite to PostgreSQL when a service outgrows it."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from chatwright.errors import UserError
from chatwright.service.database import Database
from chatwright.service.tables import MessageRow, Table

ROWS = 1000  # read and written at a time


def copy(
    source: Database, target: Database, progress: Callable[[str, int], None] = lambda _, __: None
) -> dict[str, int]:
    """Copy every row in one transaction of the target; returns how many rows of each table.

    UserError when the target is not empty. The source is read as it is at one moment, and brought up to date before.
    progress: told of each table and how many of its rows are copied.
    """
    source.upgrade()
    target.upgrade()
    counts: dict[str, int] = {}
    with source.engine.connect() as reading, target.write() as session:
        if not source.is_sqlite:
            reading.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        writing = session.connection()
        for table in Table.metadata.sorted_tables:
            if writing.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
                raise UserError(f"{target} is not empty: its table {table.name} has rows. Copy into a new database.")
        for table in Table.metadata.sorted_tables:
            counts[table.name] = 0
            for rows in reading.execute(sa.select(table).order_by(*_order(table))).partitions(ROWS):
                writing.execute(table.insert(), [dict(row._mapping) for row in rows])
                counts[table.name] += len(rows)
                progress(table.name, counts[table.name])
    return counts


def _order(table: sa.Table) -> list[sa.Column]:
    """Parents before their children, in the one table whose rows name each other."""
    if table is MessageRow.__table__:
        return [table.c.conversation_id, table.c.position]
    return list(table.primary_key.columns)
