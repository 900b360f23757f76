"""A simulated node on a real disk: SQLite files, the boot counter, and what a crash leaves of them.

Whenever its process dies, the next one starts from an image of the files. What had not been waited
for may be missing from it, whole or in part: the WAL's tail cut anywhere or with sectors missing, a
checkpoint that has written some of its pages, a boot counter as it was at the last start.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from ledger.genesis import Genesis
from ledger.store import Write
from node.events import Effect
from simulations.host import Host
from simulations.store import MemoryStore
from simulations.world import Backup
from storage.checked import CheckedReader
from storage.database import Database
from storage.places import path_at
from storage.redo import redo
from storage.verify import verify_chain

SECTOR_BYTES = 512
FRAME_HEADER_BYTES = 24
PAGE_BYTES = 4096
WAL_HEADER_BYTES = 32


class SqliteStore(MemoryStore):
    """The files of one life of a disk, open or not; in memory is nothing."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.staged: Sequence[Write] = ()
        """Writes that were begun and not waited for."""
        self._loop = loop
        self._database: Database | None = None
        self._reader: CheckedReader | None = None

    @property
    def wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    @property
    def reader(self) -> CheckedReader:
        if self._reader is None:
            # The checkers look at disks whose machines are down, too.
            self._reader = CheckedReader(self.path)
        return self._reader

    def open(self, genesis: Genesis, counter: Path) -> bool:
        """Start as the daemon does; whether the database is found to be restored."""

        async def start() -> bool:
            self._database = database = await Database.open(self.path, genesis.chain_id)
            restored = (await database.boot(counter)).restored
            self._reader = CheckedReader(self.path, database.recent, cached=True)
            await redo(database, self._reader, genesis, lambda height, head: None)
            return restored

        self.close()
        return self._loop.run_until_complete(start())

    def close(self) -> None:
        """Let go of the files; the image has been taken."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._database is not None:
            self._loop.run_until_complete(self._database.close())
            self._database = None

    def write(self, writes: Sequence[Write]) -> None:
        assert self._database is not None, "the disk is not in use"
        database = self._database

        async def write() -> None:
            await database.write(writes)
            # An image of a file that is being written is no image of a crash.
            await database.stepped()

        self._loop.run_until_complete(write())
        self.reader.written(writes)
        self.staged = ()

    def settle(self) -> None:
        """Finish the checkpoint that was begun behind the last write."""
        if self._database is not None:
            self._loop.run_until_complete(self._database.checkpointed())

    def checkpoint(self) -> None:
        assert self._database is not None
        self._loop.run_until_complete(self._database._run_checkpoint("PASSIVE"))

    def image(self, path: Path) -> "SqliteStore":
        """A copy of the files as they are."""
        path.parent.mkdir()
        for source in self.path.parent.glob(f"{self.path.name}*"):
            shutil.copy(source, path.parent)
        return SqliteStore(path, self._loop)

    def __getattribute__(self, name: str) -> Any:
        if name in _READS:
            # A backup may be of a disk that was not in use yet.
            return getattr(self.reader if self.path.exists() else MemoryStore(), name)
        if name in ("values", "nodes"):
            return self._all(name)
        return super().__getattribute__(name)

    def _all(self, name: str) -> dict[bytes, bytes]:
        """Every value, or every node."""
        if name == "values":
            found = dict(self.reader.rows("SELECT key, value FROM state_value"))
        else:
            found = dict(self.reader.rows("SELECT path, node FROM deep_node"))
            for number, node in self.reader.rows("SELECT place, node FROM node"):
                path = path_at(number)
                assert path is not None
                found[path] = node
        if self._database is not None:
            for step in reversed(self._database.recent.steps()):
                found |= getattr(step, name)
        return found


_READS = frozenset(
    "value held node head_height header height_of decision receipts sequences batch has_batch"
    " transaction_position chain_heights promises proposal pending_batches".split()
)


class SqliteHost(Host):
    """Host with a SqliteStore. The test sets the class variables on a subclass."""

    disks: ClassVar[Path]
    loop: ClassVar[asyncio.AbstractEventLoop]
    crashes: ClassVar[dict[str, int]]
    """What was left by crashes, and how often."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._home = self.disks / self.name
        self._home.mkdir()
        self._numbers = count(1)
        self.counter = self._home / "boot"
        self._counter_at_start = b""
        self._most = (0, 0)
        self._replaced = False
        self.store: SqliteStore = SqliteStore(self._next(), self.loop)
        self.store.path.parent.mkdir()

    def _next(self) -> Path:
        return self._home / str(next(self._numbers)) / "ledger.db"

    def start(self) -> None:
        if not self._replaced and self._counter_at_start and self.chance.random() < 0.3:
            self._note("counter set back")
            self.counter.write_bytes(self._counter_at_start)
        if self._counter_at_start and self.chance.random() < 0.2:
            self._note("derived file lost")
            for file in self.store.path.parent.glob(f"{self.store.path.name}-derived*"):
                file.unlink()
        self._replaced = False
        boots, promises, flagged = _known(self.store.path)
        forgot = flagged or boots < self._most[0] or promises < self._most[1]
        restored = self.store.open(self.world.genesis, self.counter)
        assert restored == forgot, f"knows {boots, promises, flagged} of {self._most}"
        self._forgot = forgot
        self._counter_at_start = self.counter.read_bytes()
        super().start()

    def stop(self) -> None:
        if self.core is None:
            return
        super().stop()
        image = self._crash()
        boots, promises, _ = _known(image.path)
        self._most = max(self._most[0], boots), max(self._most[1], promises)
        self.store.close()
        shutil.rmtree(self.store.path.parent)
        self.store = image

    def backup(self) -> Backup:
        return Backup(self.store.image(self._next()), 0, 0)

    def restore(self, backup: Backup) -> None:
        self._replaced = True
        assert isinstance(backup.store, SqliteStore)
        self.store = backup.store.image(self._next())
        self.tell("is restored from a backup")

    def _perform(self, effects: Sequence[Effect]) -> None:
        self.store.staged = [effect for effect in effects if isinstance(effect, Write)]
        super()._perform(effects)

    def _note(self, what: str) -> None:
        self.crashes[what] = self.crashes.get(what, 0) + 1

    # ---- what a crash leaves ---------------------------------------------------------------------

    def _crash(self) -> SqliteStore:
        store, chance = self.store, self.chance
        staged = store.staged
        if staged:
            store.settle()
            before, counter = _content(store.wal), self.counter.read_bytes()
            image = store.image(self._next())
            store.write(staged)
            # It is written once a promise is durable, so not yet.
            self.counter.write_bytes(counter)
            image.wal.write_bytes(self._torn(before, _content(store.wal)))
            image.wal.with_name(image.path.name + "-shm").unlink(missing_ok=True)
        elif chance.random() < 0.3:
            self._note("checkpoint torn")
            image = store.image(self._next())
            old = image.path.read_bytes()
            store.checkpoint()
            image.path.write_bytes(self._mixed(old, store.path.read_bytes(), PAGE_BYTES))
        else:
            self._note("between two writes")
            image = store.image(self._next())
        return image

    def _torn(self, before: bytes, after: bytes) -> bytes:
        """What of a write that was not waited for may be in the WAL."""
        if not after.startswith(before):
            # SQLite waits for the header of a log that begins anew before it writes frames.
            self._note("overwritten WAL torn")
            mixed = self._mixed(before, after, SECTOR_BYTES)
            return after[:WAL_HEADER_BYTES] + mixed[WAL_HEADER_BYTES:]
        tail = len(after) - len(before)
        way = self.chance.choice(("nothing written", "cut", "cut at a frame", "sectors missing"))
        self._note(way)
        match way:
            case "nothing written":
                return before
            case "cut":
                return after[: len(before) + self.chance.randint(0, tail)]
            case "cut at a frame":
                frame = FRAME_HEADER_BYTES + PAGE_BYTES
                frames = (len(after) - WAL_HEADER_BYTES) // frame
                done = max(len(before) - WAL_HEADER_BYTES, 0) // frame
                return after[: WAL_HEADER_BYTES + frame * self.chance.randint(done, frames)]
            case _:
                return self._mixed(before + bytes(tail), after, SECTOR_BYTES)

    def _mixed(self, old: bytes, new: bytes, unit: int) -> bytes:
        """Some units of the new content, the others of the old, where it had them."""
        mixed = bytearray(old.ljust(len(new), b"\0"))
        for start in range(0, len(new), unit):
            if self.chance.random() < 0.5:
                mixed[start : start + unit] = new[start : start + unit]
        return bytes(mixed)

    def verify(self) -> int:
        """Check everything on the disk, that of a node that has started; the height of its head."""
        steps = list(verify_chain(self.store.path, self.world.genesis, check_signatures=False))
        return steps[-1].height


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _known(path: Path) -> tuple[int, int, bool]:
    """What a disk knows of starts and promises, and whether it was found to be restored."""
    if not path.exists():
        return 0, 0, False
    probe = path.parent / "probe"
    probe.mkdir()
    try:
        for suffix in ("", "-wal"):
            if path.with_name(path.name + suffix).exists():
                shutil.copy(path.with_name(path.name + suffix), probe)
        with closing(sqlite3.connect(probe / path.name)) as connection:
            boots, restored = connection.execute("SELECT boots, restored FROM meta").fetchone()
            made = connection.execute("SELECT seq FROM sqlite_sequence").fetchone()
            return boots, made[0] if made else 0, bool(restored)
    finally:
        shutil.rmtree(probe)
