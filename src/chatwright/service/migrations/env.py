"""Runs the migrations on the connection that `Database.upgrade` gives."""

from alembic import context

from chatwright.service.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
