"""The derived file: the state of the ledger, and indexes, as they follow from the blocks.

It lies beside the ledger's file and is written behind it, in large steps (storage/recent.py), on a
thread of its own: nothing waits for it but memory. Each step is one transaction, so the file always
holds what follows from the blocks up to one height, which it names. What a crash leaves out is
executed again at the next start (storage/redo.py); a file that is missing, of an older program, or
that a restored ledger does not know, is made anew. It need not be in a backup.

Values and nodes are rows of tables. Where transactions and entries of chains are, which nobody asks
for to execute a block, is kept in sorted runs (storage/runs.py).

Rows are given to SQLite by the thousand, as one blob and a JSON array that says how to cut it. A
statement for each row would give the interpreter's lock away and ask for it again at each: beside a
busy event loop that made a row take 150 to 600 us instead of 6.
"""

import random
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from itertools import accumulate, islice
from pathlib import Path
from typing import Final, Self

from storage.errors import DamagedError, MismatchError, StorageError
from storage.places import NIBBLES_MAX, place
from storage.recent import Step
from storage.runs import CHAIN, TRANSACTION, PageError, append, row, write_run
from storage.transaction import immediate

APPLICATION_ID: Final = 0x6D647064
"""What the header of every such file says it is ("mdpd")."""
SCRIPTS: Final = ("derived.sql", "derived2.sql")
"""Script n (from 1), a file of this package, leads from version n - 1 of the tables to n."""
VERSION: Final = len(SCRIPTS)
"""Of its tables. A file of a newer version is made anew."""
PAGE_BYTES: Final = 16 * 1024
"""Of a new file. At a million transactions a step changes nearly every page of the nodes and of
the index of values: larger pages are then fewer calls of the system, for as many bytes.
"""
CACHE_KIB: Final = 16 * 1024
"""Pages that the writing connection keeps in memory. A step goes through each tree in order."""
CALL_ROWS: Final = 1_024
"""Rows of one statement, some 10 ms."""
PORTION_ROWS: Final = 10_000
"""Of former indexes, in memory at a time."""
PAUSE_SHARE: Final = 12.0
"""How much longer than a statement the pause after it is, about: drawn for each step from between
half and one and a half times of it, so that the nodes of one machine do not finish together. A step
is half a second of work.
"""
WAL_BYTES: Final = 8 * 1024 * 1024
"""Steps of an idle node are small: they wait in the WAL until it is longer than this."""
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
_DEEP_NODES: Final = _PAIRS.format(table="deep_node", key="path", held="node")
_NODES: Final = (
    "INSERT OR REPLACE INTO node SELECT CAST(key AS INTEGER),"
    " substr(?1, value >> 24, value & 16777215) FROM json_each(?2)"
)
"""A blob of nodes; by the place of each, where it begins (from 1), and its length."""
_FORMER_NODES: Final = (
    "INSERT INTO node SELECT place(path), node FROM state_node"
    " WHERE length(path) <= ? ORDER BY path"
)
_FORMER_DEEP_NODES: Final = (
    "INSERT INTO deep_node SELECT path, node FROM state_node WHERE length(path) > ? ORDER BY path"
)
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
            found = _found(connection, path, chain_id, block_hash)
            if found is None:
                connection.close()
                for file in files(path):
                    file.unlink(missing_ok=True)
                connection = _connect(path)
                found = (0, -1)
            version, height = found
            if version < VERSION:
                _update(connection, path, chain_id, version)
            connection.execute("PRAGMA journal_mode = WAL")
            # What is in the WAL after a power failure is whole: no step waits for the disk.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX // 4}")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            # Some builds of SQLite would fill the pages of a merged run with zeros, and write them.
            connection.execute("PRAGMA secure_delete = OFF")
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
            for _ in self._pieces(step):
                hurry.wait((time.monotonic() - begun) * pause_share)
                begun = time.monotonic()
            execute(_META, (last.height, last.hash))
        self.height = last.height
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Bring what is in the WAL into the file, and cut it: a start after a crash reads it whole.

        A reader's snapshot holds part of it back; it is not waited for unless it must be.
        """
        try:
            size = self._wal.stat().st_size
        except FileNotFoundError:
            raise DamagedError(self.path, "its -wal file was removed under the node") from None
        if size > WAL_BYTES:
            execute = self._connection.execute
            execute(f"PRAGMA busy_timeout = {0 if size <= WAL_BYTES_MAX else BUSY_MS}")
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _pieces(self, step: Step) -> Iterator[None]:
        """Write what a step changed, a piece at a time."""
        shallow, deep = _by_depth(step.nodes)
        for sql, calls in (
            (_VALUES, _pairs(step.values)),
            (_NODES, _nodes(shallow)),
            (_DEEP_NODES, _pairs(deep)),
        ):
            for parameters in calls:
                self._connection.execute(sql, parameters)
                yield
        try:
            yield from append(self._connection, step.blocks[-1].height, _places(step))
        except PageError as error:
            raise DamagedError(self.path, str(error)) from error

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
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False
    )
    # A file that has tables keeps the size that it has.
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    return connection


def _update(connection: sqlite3.Connection, path: Path, chain_id: bytes, version: int) -> None:
    """Bring the tables from `version`, 0 if there are none, to this program's, or change nothing.

    From version 1 that takes about a microsecond for each transaction and entry of a chain.
    """
    read = resources.files("storage").joinpath
    script = "".join(read(name).read_text("utf-8") for name in SCRIPTS[version:])
    try:
        connection.executescript("BEGIN IMMEDIATE;\n" + script)
        if version == 0:
            connection.execute("INSERT INTO meta VALUES (1, ?, -1, x'')", (chain_id,))
        (height,) = connection.execute("SELECT height FROM meta").fetchone()
        for _ in write_run(connection, height, _portions(_former_rows(connection))):
            pass
        connection.create_function("place", 1, place, deterministic=True)
        connection.execute(_FORMER_NODES, (NIBBLES_MAX,))
        connection.execute(_FORMER_DEEP_NODES, (NIBBLES_MAX,))
        for table in ("transaction_position", "chain_height", "state_node"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except PageError as error:
        raise DamagedError(path, str(error)) from error
    except (TypeError, struct.error) as error:
        raise DamagedError(path, "a row of the former indexes cannot be read") from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _former_rows(connection: sqlite3.Connection) -> Iterator[bytes]:
    """What version 1 had in two tables, sorted."""
    sql = "SELECT chain_id, height FROM chain_height ORDER BY chain_id, height"
    for id, height in connection.execute(sql):
        yield row(CHAIN, id, height)
    sql = "SELECT id, height, position FROM transaction_position ORDER BY id"
    for id, height, position in connection.execute(sql):
        yield row(TRANSACTION, id, height << 32 | position)


def _portions(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    rows = iter(rows)
    while portion := list(islice(rows, PORTION_ROWS)):
        yield portion


def _found(
    connection: sqlite3.Connection,
    path: Path,
    chain_id: bytes,
    block_hash: Callable[[int], bytes | None],
) -> tuple[int, int] | None:
    """Of which version the file is, and up to which height it follows from the ledger's blocks.

    None if it does not.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise MismatchError(
            f"The file {path} was not made by this program. Move it away, or give the node another "
            "home."
        )
    if not 0 < version <= VERSION or not tables:
        return None
    found = connection.execute("SELECT chain_id, height, hash FROM meta").fetchone()
    if found is None or found[0] != chain_id or not isinstance(found[1], int):
        return None
    height, last = found[1:]
    return (version, height) if height == -1 or block_hash(height) == last else None


# ---- rows ----------------------------------------------------------------------------------------


def _places(step: Step) -> list[bytes]:
    """The rows of a step in the indexes."""
    rows = [
        row(TRANSACTION, id, height << 32 | place) for id, (height, place) in step.positions.items()
    ]
    for block in step.blocks:
        rows += [row(CHAIN, chain, block.height) for chain in block.chains]
    return rows


def _by_depth(nodes: Mapping[bytes, bytes]) -> tuple[Mapping[bytes, bytes], dict[bytes, bytes]]:
    """Nodes that have a place, and those whose paths are too long."""
    deep = {path: node for path, node in nodes.items() if len(path) > NIBBLES_MAX}
    return (dict(nodes.items() - deep.items()) if deep else nodes), deep


def _nodes(nodes: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, str]]:
    """Blobs of nodes, with the numbers that say what is in them, in the order of their places."""
    paths = sorted(nodes)
    for start in range(0, len(paths), CALL_ROWS):
        some = paths[start : start + CALL_ROWS]
        held = [nodes[path] for path in some]
        ends = accumulate(map(len, held), initial=1)
        numbers = (begin << 24 | len(node) for begin, node in zip(ends, held, strict=False))
        pairs = zip(map(place, some), numbers, strict=True)
        yield b"".join(held), "{" + ",".join([f'"{key}":{number}' for key, number in pairs]) + "}"


def _pairs(entries: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, str]]:
    """Blobs of keys and what they hold, with the numbers that say what is in them.

    In the order of their keys, so that rows of one page follow each other.
    """
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
        yield b"".join(parts), str(numbers)
