"""Runs the migrations on the connection that `database.connect.migrate` has opened; loaded by Alembic."""

from alembic import context

from database.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
