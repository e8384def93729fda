"""Connections to PostgreSQL that wait for no answer for longer than a bound, also where the server hangs.

A server that hangs still has its kernel accept what is sent, so that only the client's own clock tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import OperationalError
from sqlalchemy import Connection, Engine, event

ANSWER_SECONDS = 10.0


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed once the server has not answered for `patience` seconds."""

    patience = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does. Raises OperationalError where there is no answer in time."""
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # its state is unknown: the pool makes another
            raise OperationalError("the server does not answer") from error


def bound(engine: Engine) -> None:
    """Have the engine's connections give up; the server ends a statement that takes too long, unless the URL says."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> BoundedConnection:
        made = BoundedConnection.connect(*arguments, **parameters)
        if "statement_timeout" not in str(parameters.get("options", "")):
            made.execute(f"SET statement_timeout = {int(ANSWER_SECONDS * 1000)}")
            made.commit()
        return made


@contextmanager
def waiting_for(connection: Connection, seconds: float) -> Iterator[None]:
    """Let each statement of a transaction take so many seconds."""
    own: Any = connection.connection.driver_connection
    own.patience = seconds
    try:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
        yield
    finally:
        own.patience = ANSWER_SECONDS
