"""The one connection that writes: on a thread of its own through aiosqlite, or on the loop's if the
write is small and the disk quick (storage/hops.py).

* WAL with synchronous=FULL: when `write` returns, its transaction is on the disk (fsync).
* All of one `write` is one BEGIN IMMEDIATE .. COMMIT, and at most one hop to the thread. aiosqlite
  runs there what it is asked call by call; a dozen statements would be a dozen hops, and an error
  in the middle would need a thirteenth. `Writer` is a sqlite3 connection whose `commit` performs
  the work that was staged for it, so a transaction is one `await connection.commit()`.
* Only this connection checkpoints: two that write or checkpoint can corrupt a WAL while it is reset
  in SQLite 3.7 to 3.51.2. Readers open the file read-only. A checkpoint is queued behind the write
  that made the WAL longer than `WAL_BYTES`, so that it delays no answer. It leaves what a reader's
  snapshot still needs; above `WAL_BYTES_MAX` it waits for readers, for at most `BUSY_MS`.
* After any failure every later write fails with the same error: a write that was refused may be
  what the next one rests on. The node stops, says why, and starts again on a file that holds
  exactly the writes that were acknowledged (and at most the one whose outcome was unknown).

What follows from a block, its changes of the state and places in the indexes, is not in this file.
Once the block is durable it is kept in memory (storage/recent.py) and written to a second file in
large steps (storage/derived.py). No write waits for that unless two steps have gathered in memory.
docs/adr/0019 has the reasons and measurements.
"""

import asyncio
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Final, Self, TypeVar

import aiosqlite

from ledger.store import Write, WriteBlock, WriteGenesis
from storage import schema
from storage.boots import BootVerdict, CounterFile, read_counts, sync_directory
from storage.derived import DerivedFile
from storage.errors import DamagedError, StorageError, derived_path, explain
from storage.hops import Hops
from storage.idle import Idle
from storage.recent import Recent, Step
from storage.seal import SealError, read_sealed, unchecked
from storage.statements import statements
from storage.writer import Locked, Writer

__all__ = ["BootVerdict", "Database", "StorageError"]

WAL_BYTES: Final = 16 * 1024 * 1024
WAL_BYTES_MAX: Final = 256 * 1024 * 1024
PAGE_BYTES_MIN: Final = 512
"""The smallest page, and so the smallest file, of SQLite."""
BUSY_MS: Final = 5_000
"""How long to wait for another program's lock."""
CACHE_KIB: Final = 8 * 1024
"""Pages that the writer keeps in memory."""
IDLE_SECONDS: Final = 1.0
"""After so long without a write what follows from the last blocks is written, without pauses: a
node that is killed while it rests has nothing to execute again.
"""

Result = TypeVar("Result")


class Database:
    """The database file of one node, open for writing. Make it with `open`."""

    def __init__(
        self,
        path: Path,
        connection: aiosqlite.Connection,
        writer: Writer,
        derived: DerivedFile,
    ) -> None:
        self.path = path
        self._derived = derived
        self._step: asyncio.Task[None] | None = None
        self._hops = Hops()
        self._hurry = threading.Event()
        """Set while somebody waits for a step, or soon will."""
        self._idle = Idle(IDLE_SECONDS, self._rest)
        self.recent = Recent(derived.height)
        """What readers in this process need beside the files."""
        self._wal = path.with_name(path.name + "-wal")
        self._connection = connection
        self._writer = writer
        self._failure: StorageError | None = None
        self._counter: CounterFile | None = None
        self._checkpoint: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, chain_id: bytes) -> Self:
        """Open the database of the ledger `chain_id`; make it if there is none, with mode 0600.

        Raises StorageError for a file that is damaged, not of this program, of another ledger or of
        a newer version of this program, and if it cannot be opened and written.
        """
        # Opened before aiosqlite has it, which does not wait for its thread if that fails.
        try:
            writer = await asyncio.to_thread(_open, path, chain_id)
        except sqlite3.Error as error:
            raise explain(error, path) from error
        try:
            derived = await asyncio.to_thread(_open_derived, path, chain_id, writer)
        except BaseException:
            writer.close()
            raise
        connection = await aiosqlite.Connection(lambda: writer, iter_chunk_size=1)
        return cls(path, connection, writer, derived)

    @property
    def derived_height(self) -> int:
        """Up to which block the derived file holds what follows; -1 if nothing."""
        return self._derived.height

    async def boot(self, counter_file: Path, *, known: bool = False) -> BootVerdict:
        """Count a start, here and in `counter_file`, and tell whether the two fit together.

        Called once, before anything is promised. A database that knows of fewer starts or promises
        than the file was restored from a backup (storage/boots.py); so was one that has promised,
        or was started twice, whose file is gone or a copy, and a new one of a node that is `known`
        to have been started before. The verdict is kept in the database until the node promises
        again: its first promise, which it makes only when it may, ends it in the same transaction.
        Raises StorageError.
        """
        seen = read_counts(counter_file)

        def count() -> BootVerdict:
            writer, counts = self._writer, self._writer.sealed.counts
            if seen is None:
                # A first start may have crashed before its file was there.
                lost = counts.boots > 1 or counts.promises > 0 or (known and counts.boots == 0)
            else:
                lost = seen.copied or counts.behind(seen.counts)
                counts = replace(counts, boots=max(counts.boots, seen.counts.boots))
            counts = replace(counts, boots=counts.boots + 1)
            restored = writer.sealed.restored or lost
            writer.put(replace(writer.sealed, counts=counts, restored=restored))
            self._counter = CounterFile(counter_file, counts)
            return BootVerdict(counts.boots, restored)

        return await self._run(count)

    async def write(self, writes: Sequence[Write]) -> None:
        """Perform `writes` in order, durably, in one transaction: all of them or none.

        If the caller is cancelled they are performed nevertheless, or never, if they were still to
        wait for a step. Raises StorageError, after which nothing more can be written (see the
        module).
        """
        if not writes:
            return
        transaction = statements(writes)
        await self._bound_recent()

        def perform() -> None:
            before = self._writer.sealed.counts.promises
            self._writer.put(self._writer.sealed.after(writes), transaction)
            promises = self._writer.sealed.counts.promises
            if promises > before and self._counter is not None:
                self._counter.promised(promises)
            for write in writes:
                if isinstance(write, WriteBlock | WriteGenesis):
                    self.recent.take(write)

        await self._perform(writes, perform)
        self._hops.took(self._writer.commit_seconds)
        self._bound_wal()
        self._begin_step()
        self._idle.happened()

    async def derive(self, write: WriteBlock | WriteGenesis) -> None:
        """Take what follows from a block that is in the ledger's file; see storage/redo.py.

        Raises StorageError.
        """
        await self._bound_recent()
        await self._run(lambda: self.recent.take(write))
        self._begin_step()
        self._idle.happened()

    async def stepped(self) -> None:
        """Wait until no step is being written to the derived file."""
        while self._step is not None and not self._step.done():
            self._hurry.set()
            await asyncio.wait([self._step])

    async def _bound_recent(self) -> None:
        """Wait for the step that is being written if the next one is complete."""
        if self.recent.gathering.is_due:
            await self.stepped()

    def _begin_step(self) -> None:
        """Write the closed step, if nobody does; without pauses once it is late."""
        if self.recent.gathering.is_nearly_due:
            self._hurry.set()
        if self.recent.closed is None:
            return
        if self._step is not None:
            if not self._step.done():
                return
            # What nobody foresaw is raised here rather than tried again for ever.
            self._step.result()
        self._hurry.clear()
        self._step = asyncio.create_task(self._write_step(self.recent.closed))

    async def _rest(self) -> None:
        """Write what follows from the last blocks, since no other comes."""
        if not self.recent.blocks():
            return
        with suppress(StorageError):
            # Kept as the failure that the next write raises.
            await self.flush()

    async def _write_step(self, step: Step) -> None:
        if self._failure is not None:
            return
        try:
            await asyncio.to_thread(self._derived.write, step, self._hurry)
        except sqlite3.Error as error:
            # Kept as the failure that the next write raises.
            self._failure = explain(error, self._derived.path)
        except StorageError as error:
            self._failure = error
        else:
            self.recent.written()

    async def close(self) -> None:
        """Finish what was begun, checkpoint, and close. Raises StorageError."""
        await self._idle.stop()
        await self.checkpointed()
        try:
            await self.flush()
        finally:
            await self._close_files()

    async def _close_files(self) -> None:
        try:
            try:
                await asyncio.to_thread(self._derived.close)
            finally:
                await self._connection.close()
        except sqlite3.Error as error:
            raise explain(error, self.path) from error
        finally:
            if self._counter is not None:
                self._counter.close()
                self._counter = None

    async def flush(self) -> None:
        """Write all that follows from blocks, so that a start has nothing to execute again.

        After a failure it writes nothing. Raises StorageError for one that comes to light here.
        """
        before = self._failure
        for _ in range(2):
            await self.stepped()
            if self._failure is None:
                # Behind a write whose caller was cancelled: it may still be taking a block in.
                await self._run(self._close_step)
            self._begin_step()
        await self.stepped()
        if self._step is not None:
            self._step.result()
        if self._failure is not None and self._failure is not before:
            raise self._failure

    def _close_step(self) -> None:
        if self.recent.closed is None and self.recent.blocks():
            self.recent.close_step()

    async def checkpointed(self) -> None:
        """Wait for the checkpoint that may have been queued behind the last write."""
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])

    def _bound_wal(self) -> None:
        """Queue a checkpoint if the WAL has grown long."""
        if self._checkpoint is not None and not self._checkpoint.done():
            return
        try:
            size = self._wal.stat().st_size
        except FileNotFoundError:
            self._failure = DamagedError(self.path, "its -wal file was removed under the node")
            raise self._failure from None
        # A WAL that was checkpointed is cut to journal_size_limit when it is next written to.
        if size > WAL_BYTES:
            mode = "PASSIVE" if size <= WAL_BYTES_MAX else "TRUNCATE"
            self._checkpoint = asyncio.create_task(self._run_checkpoint(mode))

    async def _run_checkpoint(self, mode: str) -> None:
        try:
            await self._run(
                lambda: self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            )
        except StorageError:
            # Kept as the failure that the next write raises.
            return

    async def _perform(self, writes: Sequence[Write], work: Callable[[], None]) -> None:
        """Perform a write on this thread if that is sooner, and nothing waits for the other."""
        checkpoints = self._checkpoint is not None and not self._checkpoint.done()
        if not (self._writer.staged or checkpoints) and not self._hops.needed(writes):
            with suppress(Locked):
                return self._attempt(work)
        return await self._run(work)

    async def _run(self, work: Callable[[], Result]) -> Result:
        """Perform `work` on the writer's thread in one hop. Any failure is final."""
        results: list[Result] = []
        self._writer.staged.append(lambda: results.append(self._attempt(work)))
        await self._connection.commit()
        return results[0]

    def _attempt(self, work: Callable[[], Result]) -> Result:
        """Perform `work` on this thread, which alone uses the connection now."""
        if self._failure is not None:
            raise self._failure
        try:
            return work()
        except sqlite3.Error as error:
            self._failure = explain(error, self.path)
            raise self._failure from error
        except StorageError as error:
            self._failure = error
            raise


def _open(path: Path, chain_id: bytes) -> Writer:
    """Open and prepare the writing connection."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            sync_directory(path.parent)
        size = path.stat().st_size
    except OSError as error:
        raise StorageError(
            f"The database {path} cannot be made: {error.strerror}. Check that its directory "
            "exists and that the node's user may write there."
        ) from error
    if 0 < size < PAGE_BYTES_MIN:
        # SQLite would take it for a new one.
        raise DamagedError(path, f"it has only {size} bytes")
    wal = path.with_name(path.name + "-wal")
    if size == 0 and wal.exists() and wal.stat().st_size > 0:
        # SQLite would delete the -wal file.
        raise DamagedError(path, "it is empty or missing, and its -wal file is not")
    # Used by one thread at a time, but not by this one.
    writer = sqlite3.connect(
        path,
        factory=Writer,
        isolation_level=None,
        timeout=0,
        check_same_thread=False,
    )
    writer.staged, writer.busy_ms = deque(), BUSY_MS
    try:
        writer.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        _migrate(writer, path, chain_id)
        mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                f"The database {path} is on a file system without shared memory. Put the node's "
                "home on a local disk."
            )
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        writer.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        writer.sealed = read_sealed(writer)
        writer.execute("PRAGMA busy_timeout = 0")
    except SealError as error:
        writer.close()
        raise DamagedError(path, str(error)) from error
    except BaseException:
        writer.close()
        raise
    return writer


def _open_derived(path: Path, chain_id: bytes, writer: sqlite3.Connection) -> DerivedFile:
    """Open the derived file beside the ledger's file `path`. Raises StorageError."""

    def block_hash(height: int) -> bytes | None:
        row = writer.execute("SELECT hash FROM block WHERE height = ?", (height,)).fetchone()
        return None if row is None else row[0]

    beside = derived_path(path)
    try:
        return DerivedFile.open(beside, chain_id, block_hash)
    except sqlite3.Error as error:
        raise explain(error, beside) from error
    except OSError as error:
        raise StorageError(
            f"The file {beside} cannot be made: {error.strerror}. Let the node's user write there."
        ) from error


def _migrate(writer: Writer, path: Path, chain_id: bytes) -> None:
    """Bring the schema to this program's version, each step in a transaction of its own."""
    version = schema.schema_version(writer, path)
    for number, script in enumerate(schema.SCRIPTS[version:], version + 1):
        sql = resources.files("storage").joinpath(script).read_text("utf-8")
        try:
            writer.executescript("BEGIN IMMEDIATE;\n" + sql)
            if number == 1:
                writer.execute("INSERT INTO meta VALUES (1, ?, 0, 0)", (chain_id,))
            if number == schema.SEALED_VERSION:
                writer.execute("UPDATE meta SET seal = ?", (unchecked(writer).seal(),))
            writer.execute(f"PRAGMA user_version = {number}")
            writer.execute("COMMIT")
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
    schema.check_ledger(writer, path, chain_id)
