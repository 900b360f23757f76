"""What can go wrong with a database file, in sentences that say what to do."""

import sqlite3
from pathlib import Path
from typing import Final

_PRIMARY: Final = 0xFF
"""SQLite's extended result codes hold the primary one in their lowest byte."""
_DAMAGED: Final = {
    sqlite3.SQLITE_CORRUPT: "SQLite cannot follow its structure",
    sqlite3.SQLITE_NOTADB: "it is not a database",
}
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
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        (
            "Check that it is a file, that its directory exists, and that the node's user may read "
            "and write both."
        ),
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
_OTHER: Final = (
    "SQLite refuses",
    (
        "Run `medpact verify`; if it finds no damage, this is a defect of the program: report it "
        "with this message."
    ),
)


_REPAIR: Final = (
    "Then run `medpact repair`: it sets the database aside, and the node fetches the ledger from "
    "the others again at its next start. It abstains from voting until they have gone on without "
    "it."
)
_REMAKE: Final = (
    "Then delete this file and those that begin with its name, and start the node again: it makes "
    "the file anew from the ledger, and nothing is lost."
)
DERIVED_SUFFIX: Final = "-derived"
"""What the name of the derived file adds to that of the ledger's file."""


def derived_path(ledger: Path) -> Path:
    """The derived file (storage/derived.py) beside the ledger's file."""
    return ledger.with_name(ledger.name + DERIVED_SUFFIX)


class StorageError(Exception):
    """The store cannot be relied on: the node must stop. The message says why and what to do."""


class MismatchError(StorageError):
    """The file is sound but not for this program or ledger; a restart will not mend it."""


class DamagedError(StorageError):
    """The file holds something else than was written. `height` is that of the block, if known."""

    def __init__(self, path: Path, what: str, height: int | None = None) -> None:
        """`what` is a clause that says what was found."""
        where = "" if height is None else f" at height {height}"
        advice = _REMAKE if path.name.endswith(DERIVED_SUFFIX) else _REPAIR
        super().__init__(
            f"The database {path} is damaged{where}: {what}. Stop the node and check the disk. "
            f"{advice}"
        )
        self.path = path
        self.what = what
        self.height = height


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, SQLITE_ERROR where it is Python's own error."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY


def explain(error: sqlite3.Error, path: Path) -> StorageError:
    """Return the StorageError that says what SQLite's `error` means for the database at `path`."""
    code = code_of(error)
    if code in _DAMAGED:
        return DamagedError(path, f"{_DAMAGED[code]} ({error})")
    problem, advice = _ADVICE.get(code, _OTHER)
    return StorageError(f"The database {path} cannot be used: {problem} ({error}). {advice}")
