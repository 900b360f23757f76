"""What can go wrong with a database file, in sentences that say what to do."""

import sqlite3
from pathlib import Path
from typing import Final

_PRIMARY: Final = 0xFF
"""SQLite's extended result codes hold the primary one in their lowest byte."""
_DAMAGED: Final = (
    "Stop the node and keep the file. Check the disk, then restore the database from a backup, or "
    "move it away so that the node fetches the ledger from the others again; either way the node "
    "abstains from voting until they have gone on without it."
)
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: (
        "its disk is full",
        (
            "Nothing of the last write was kept, all before it is safe. Free space on that disk, "
            "then start the node again."
        ),
    ),
    sqlite3.SQLITE_IOERR: (
        "its disk failed to read or write",
        (
            "All that was acknowledged before is safe. Look for disk errors and full quotas in the "
            "system's log, put them right, then start the node again."
        ),
    ),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", _DAMAGED),
    sqlite3.SQLITE_NOTADB: ("it is not a database", _DAMAGED),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        "Check that its directory exists and that the node's user may read and write there.",
    ),
    sqlite3.SQLITE_READONLY: (
        "it cannot be written",
        "Let the node's user write to the file and to its directory, then start the node again.",
    ),
    sqlite3.SQLITE_BUSY: (
        "another program holds it locked",
        "Close whatever else has this file open, then start the node again.",
    ),
    sqlite3.SQLITE_CONSTRAINT: (
        "it contradicts what should be written next",
        (
            "Nothing was written. Run `medpact verify`; if it finds no damage, this is a defect of "
            "the program: report it with this message."
        ),
    ),
}


class StorageError(Exception):
    """The store cannot be relied on: the node must stop. The message says why and what to do."""


def explain(error: sqlite3.Error, path: Path) -> StorageError:
    """Return the StorageError that says what SQLite's `error` means for the database at `path`."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    problem, advice = _ADVICE.get(
        code & _PRIMARY,
        (
            "SQLite reports an error",
            "Run `medpact verify`, and report this message if it is not the file.",
        ),
    )
    return StorageError(f"The database {path} cannot be used: {problem} ({error}). {advice}")


def damaged(path: Path, what: str) -> StorageError:
    """Return the StorageError for a database file of which `what` (a clause) was found."""
    return StorageError(f"The database {path} is damaged: {what}. {_DAMAGED}")
