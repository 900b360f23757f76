"""The derived file: the state of the ledger, and indexes, as they follow from the blocks.

It lies beside the ledger's file and is written behind it, in large steps (storage/recent.py), on a
thread of its own: nothing waits for it but memory. Each step is one transaction, so the file always
holds what follows from the blocks up to one height, which it names. What a crash leaves out is
executed again at the next start (storage/redo.py); a file that is missing, of an older program, or
that a restored ledger does not know, is made anew. It need not be in a backup.

Rows are given to SQLite by the thousand, as one blob and a JSON array that says how to cut it. A
statement for each row would give the interpreter's lock away and ask for it again at each: beside a
busy event loop that made a row take 150 to 600 us instead of 6.
"""

import random
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final, Self

from storage.errors import DamagedError, MismatchError, StorageError
from storage.recent import Step
from storage.transaction import immediate

APPLICATION_ID: Final = 0x6D647064
"""What the header of every such file says it is ("mdpd")."""
VERSION: Final = 1
"""Of its tables. A file of another version is made anew."""
ID_BYTES: Final = 16
"""Of the ids of transactions and chains, as the indexes and the statements below have them."""
CACHE_KIB: Final = 16 * 1024
"""Pages that the writing connection keeps in memory. A step goes through each tree in order."""
CALL_ROWS: Final = 1_024
"""Rows of one statement, some 10 ms."""
PAUSE_SHARE: Final = 12.0
"""How much longer than a statement the pause after it is, about: drawn for each step from between
half and one and a half times of it, so that the nodes of one machine do not finish together. A step
is half a second of work.
"""
WAL_BYTES_MAX: Final = 256 * 1024 * 1024
BUSY_MS: Final = 5_000
"""How long to wait for another program's lock."""

_PAIRS: Final = (
    "INSERT INTO {table} ({key}, {held})"
    " SELECT substr(?1, value >> 32, value >> 24 & 255),"
    " substr(?1, (value >> 32) + (value >> 24 & 255), value & 16777215)"
    " FROM json_each(?2) WHERE true"
    " ON CONFLICT ({key}) DO UPDATE SET {held} = excluded.{held}"
)
"""A blob of keys and what they hold; of each pair where it begins (from 1), and both lengths."""
KEY_BYTES_MAX: Final = 0xFF
HELD_BYTES_MAX: Final = 0xFF_FFFF
_VALUES: Final = _PAIRS.format(table="state_value", key="key", held="value")
_NODES: Final = _PAIRS.format(table="state_node", key="path", held="node")
_POSITIONS: Final = (
    "INSERT INTO transaction_position SELECT substr(?1, key * 24 + 1, 16),"
    " value >> 32, value & 4294967295 FROM json_each(?2) WHERE true ON CONFLICT DO NOTHING"
)
_CHAINS: Final = (
    "INSERT INTO chain_height SELECT substr(?1, key * 24 + 1, 16), value"
    " FROM json_each(?2) WHERE true ON CONFLICT DO NOTHING"
)
"""Both: rows of an id and 8 bytes, of which the numbers say what they are."""
_NUMBERS: Final = struct.Struct(">II")
_META: Final = "UPDATE meta SET height = ?, hash = ?"


class DerivedFile:
    """The one connection that writes the file. Make it with `open`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, height: int) -> None:
        self.path = path
        self.height = height
        """Up to which the file holds what follows; -1 if nothing."""
        self._connection = connection
        self._wal = path.with_name(path.name + "-wal")

    @classmethod
    def open(cls, path: Path, chain_id: bytes, block_hash: Callable[[int], bytes | None]) -> Self:
        """Open the file at `path`; make it anew unless it fits the blocks of `block_hash`.

        `block_hash` says which hash the ledger's block at a height has. Raises MismatchError for a
        file of another program, sqlite3.Error if it is damaged or cannot be used.
        """
        connection = _connect(path)
        try:
            height = _height(connection, path, chain_id, block_hash)
            if height is None:
                connection.close()
                for file in files(path):
                    file.unlink(missing_ok=True)
                connection = _connect(path)
                _make(connection, chain_id)
                height = -1
            connection.execute("PRAGMA journal_mode = WAL")
            # What is in the WAL after a power failure is whole: no step waits for the disk.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX // 4}")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, height)

    def write(self, step: Step, hurry: threading.Event) -> None:
        """Write one step; after sqlite3.Error the file holds nothing of it.

        Until there is a `hurry`, most of the time is left to the rest of the node. Raises
        StorageError if the files were removed, or for a row that is too long.
        """
        execute, last = self._connection.execute, step.blocks[-1]
        with immediate(self._connection):
            pause_share = PAUSE_SHARE * random.uniform(0.5, 1.5)  # noqa: S311
            begun = time.monotonic()
            for sql, blob, numbers in _calls(step):
                execute(sql, (blob, numbers))
                hurry.wait((time.monotonic() - begun) * pause_share)
                begun = time.monotonic()
            execute(_META, (last.height, last.hash))
        self.height = last.height
        try:
            size = self._wal.stat().st_size
        except FileNotFoundError:
            raise DamagedError(self.path, "its -wal file was removed under the node") from None
        # A reader's snapshot holds part of the WAL back; it is not waited for unless it must be.
        mode = "PASSIVE" if size <= WAL_BYTES_MAX else "TRUNCATE"
        execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def close(self) -> None:
        """Close the connection. Raises sqlite3.Error."""
        self._connection.close()


def files(path: Path) -> tuple[Path, ...]:
    """A database file and those that SQLite keeps beside it."""
    return (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, make it if there is none."""
    path.touch(mode=0o600)
    # Used by one thread at a time, but not by this one.
    return sqlite3.connect(
        path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False
    )


def _make(connection: sqlite3.Connection, chain_id: bytes) -> None:
    script = resources.files("storage").joinpath("derived.sql").read_text("utf-8")
    try:
        connection.executescript("BEGIN IMMEDIATE;\n" + script)
        connection.execute("INSERT INTO meta VALUES (1, ?, -1, x'')", (chain_id,))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _height(
    connection: sqlite3.Connection,
    path: Path,
    chain_id: bytes,
    block_hash: Callable[[int], bytes | None],
) -> int | None:
    """Up to which height the file follows from the ledger's blocks; None if it does not."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise MismatchError(
            f"The file {path} was not made by this program. Move it away, or give the node another "
            "home."
        )
    if version != VERSION or not tables:
        return None
    row = connection.execute("SELECT chain_id, height, hash FROM meta").fetchone()
    if row is None or row[0] != chain_id or not isinstance(row[1], int):
        return None
    return row[1] if row[1] == -1 or block_hash(row[1]) == row[2] else None


# ---- rows ----------------------------------------------------------------------------------------

_Call = tuple[str, bytes, str]


def _calls(step: Step) -> Iterator[_Call]:
    """The statements that write a step, each with a blob and the numbers that say what is in it.

    Rows come in the order of their table, so that those of one page follow each other.
    """
    yield from _pairs(_VALUES, step.values)
    yield from _pairs(_NODES, step.nodes)
    places = [id[:ID_BYTES] + _NUMBERS.pack(*position) for id, position in step.positions.items()]
    yield from _fixed(_POSITIONS, places)
    for_block = ((_NUMBERS.pack(0, block.height), block.chains) for block in step.blocks)
    heights = [chain[:ID_BYTES] + height for height, chains in for_block for chain in chains]
    yield from _fixed(_CHAINS, heights)


def _fixed(sql: str, rows: list[bytes]) -> Iterator[_Call]:
    """Rows of an id and a number of 8 bytes."""
    rows.sort()
    for start in range(0, len(rows), CALL_ROWS):
        some = rows[start : start + CALL_ROWS]
        numbers = [int.from_bytes(row[ID_BYTES:], "big") for row in some]
        yield sql, b"".join(some), str(numbers)


def _pairs(sql: str, entries: Mapping[bytes, bytes]) -> Iterator[_Call]:
    keys = sorted(entries)
    for start in range(0, len(keys), CALL_ROWS):
        parts: list[bytes] = []
        numbers = []
        begin = 1
        for key in keys[start : start + CALL_ROWS]:
            held = entries[key]
            if len(key) > KEY_BYTES_MAX or len(held) > HELD_BYTES_MAX:
                raise StorageError(
                    f"A row of the state, of {len(key)} and {len(held)} bytes, is too long to "
                    "store. This is a defect of the program: report it with this message."
                )
            numbers.append(begin << 32 | len(key) << 24 | len(held))
            parts += (key, held)
            begin += len(key) + len(held)
        yield sql, b"".join(parts), str(numbers)
