"""The connection that writes, as aiosqlite's thread and the event loop's use it in turn."""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from storage.errors import code_of
from storage.seal import Sealed
from storage.statements import Statement
from storage.transaction import immediate

_META: Final = "UPDATE meta SET boots = ?, restored = ?, seal = ?"


class Locked(Exception):
    """Another program has the file's lock, and nothing was done."""


class Writer(sqlite3.Connection):
    """On the thread `commit` performs what was staged; see storage/database.py."""

    staged: deque[Callable[[], None]]
    """What the thread has to do, and is doing: while it is not empty the connection is its own."""
    busy_ms: int
    """How long the thread waits for another program's lock. The loop does not wait at all."""
    sealed: Sealed
    """What the last commit has sealed."""
    commit_seconds: float = 0.0
    """What the last commit took to be on the disk."""
    _waits: bool = False

    def commit(self) -> None:
        """Perform the oldest staged work."""
        try:
            self._wait_for_locks(self.busy_ms)
            self.staged[0]()
            self._wait_for_locks(0)
        finally:
            self.staged.popleft()

    def _wait_for_locks(self, ms: int) -> None:
        self._waits = ms > 0
        self.execute(f"PRAGMA busy_timeout = {ms}")

    def transact(self, transaction: Sequence[Statement]) -> None:
        """Run all statements or none. Raises sqlite3.Error, or Locked on the loop's thread."""
        try:
            with immediate(self):
                for sql, rows in transaction:
                    self.executemany(sql, rows)
                began = time.perf_counter()
        except sqlite3.OperationalError as error:
            if code_of(error) == sqlite3.SQLITE_BUSY and not self._waits:
                raise Locked from error
            raise
        self.commit_seconds = time.perf_counter() - began

    def put(self, sealed: Sealed, transaction: Sequence[Statement] = ()) -> None:
        """Run all statements or none, and seal what comes of them with it."""
        if sealed != self.sealed:
            meta = (sealed.counts.boots, int(sealed.restored), sealed.seal())
            transaction = [*transaction, (_META, [meta])]
        self.transact(transaction)
        self.sealed = sealed
