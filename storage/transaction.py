"""All or nothing on a connection that is left to begin and end its transactions itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end of the context, or leave nothing of it. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        # SQLite has rolled back by itself after the worst errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
