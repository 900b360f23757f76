"""Which files are ours, and which version of the schema they have."""

import sqlite3
from pathlib import Path
from typing import Final

from storage.errors import DamagedError, MismatchError

APPLICATION_ID: Final = 0x6D647063
"""What the header of every database file of this program says it is ("mdpc")."""
SCRIPTS: tuple[str, ...] = ("schema.sql", "schema2.sql", "schema3.sql")
"""Script n (from 1), a file of this package, leads from schema version n - 1 to n."""
SEALED_VERSION: Final = 2
"""The version whose script made room for the seal."""


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of an open file, 0 if it is new, at most that of this program.

    Raises MismatchError for a file of another program or of a newer version of this one.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if (version, application, tables) != (0, 0, 0) and application != APPLICATION_ID:
        raise MismatchError(
            f"The database {path} was not made by this program. Move the file away, or give the "
            "node another home."
        )
    if version == 0 and tables:
        raise DamagedError(path, "it does not say which version of this program made it")
    if version > len(SCRIPTS):
        raise MismatchError(
            f"The database {path} has schema version {version}, and this program knows versions up "
            f"to {len(SCRIPTS)}: a newer program has used it. Install that program's version again."
        )
    return int(version)


def check_ledger(connection: sqlite3.Connection, path: Path, chain_id: bytes) -> None:
    """Raise MismatchError unless an open file holds the ledger `chain_id`."""
    row = connection.execute("SELECT chain_id FROM meta").fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise DamagedError(path, "it does not say which ledger it holds")
    if row[0] != chain_id:
        raise MismatchError(
            f"The database {path} holds the ledger {row[0].hex()}, not {chain_id.hex()}. Use the "
            "genesis file of that ledger, or another home for this one."
        )
