"""A restored backup is found out, whatever was lost, and nothing else is taken for one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus.messages import Prepare, ViewChange
from ledger.store import Write
from storage.boots import BootVerdict, CounterFile, Counts, Seen, mark_of, read_counts
from storage.database import Database, StorageError
from tests.storage.support import Ledger


class Home:
    """A database and the counter beside it, started and stopped."""

    def __init__(self, directory: Path) -> None:
        self.database = directory / "ledger.db"
        self.counter = directory / "boots"
        self.ledger = Ledger()
        self._view = 0

    async def start(self, promises: int = 0) -> BootVerdict:
        database = await Database.open(self.database, self.ledger.chain_id)
        try:
            verdict = await database.boot(self.counter)
            for _ in range(promises):
                await database.write([self.promise()])
        finally:
            await database.close()
        return verdict

    def promise(self) -> Write:
        self._view += 1
        return self.ledger.promise(ViewChange(1, self._view, None))

    def back_up(self) -> Path:
        return Path(shutil.copy(self.database, self.database.with_name("backup")))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_starts_are_counted(home: Home) -> None:
    assert await home.start() == BootVerdict(1, restored=False)
    assert await home.start(promises=2) == BootVerdict(2, restored=False)
    assert await home.start(promises=1) == BootVerdict(3, restored=False)
    assert read_counts(home.counter) == Seen(Counts(boots=3, promises=3), copied=False)
    assert home.counter.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in home.counter.parent.iterdir()) == [
        "boots",
        "boots.mark",
        "ledger.db",
        "ledger.db-derived",
    ]


async def test_a_backup_from_an_earlier_start_is_restored(home: Home) -> None:
    await home.start()
    backup = home.back_up()
    await home.start()
    shutil.copy(backup, home.database)
    assert await home.start() == BootVerdict(3, restored=True)


async def test_a_backup_made_since_the_last_start_is_restored(home: Home) -> None:
    ledger = home.ledger
    database = await Database.open(home.database, ledger.chain_id)
    await database.boot(home.counter)
    await database.write([home.promise()])
    backup = home.back_up()
    shutil.copy(f"{home.database}-wal", f"{backup}-wal")
    await database.write([home.promise()])
    await database.close()
    shutil.copy(backup, home.database)
    shutil.copy(f"{backup}-wal", f"{home.database}-wal")
    assert await home.start() == BootVerdict(2, restored=True)


async def test_an_older_database_whose_promises_are_dropped_is_restored(home: Home) -> None:
    """Deciding a height drops its promises; the count of those ever made stays."""
    ledger = home.ledger
    await home.start()
    backup = home.back_up()
    database = await Database.open(home.database, ledger.chain_id)
    await database.boot(home.counter)
    batch = ledger.batch()
    first = ledger.begin()
    await database.write([first, *ledger.round([batch]), ledger.decide([batch])])
    await database.close()
    assert await home.start() == BootVerdict(3, restored=False)
    shutil.copy(backup, home.database)
    assert (await home.start()).restored


async def test_a_database_made_anew_is_restored(home: Home) -> None:
    await home.start(promises=1)
    home.database.unlink()
    assert await home.start() == BootVerdict(2, restored=True)
    home.database.write_bytes(b"")
    assert await home.start() == BootVerdict(3, restored=True)


async def test_the_verdict_stays_until_the_node_promises_again(home: Home) -> None:
    await home.start()
    backup = home.back_up()
    await home.start(promises=1)
    shutil.copy(backup, home.database)
    assert (await home.start()).restored
    assert (await home.start()).restored
    assert (await home.start(promises=1)).restored
    assert await home.start() == BootVerdict(6, restored=False)


async def test_a_promise_that_fails_leaves_the_verdict(home: Home) -> None:
    await home.start(promises=1)
    home.database.unlink()
    database = await Database.open(home.database, home.ledger.chain_id)
    assert (await database.boot(home.counter)).restored
    home.ledger.begin()
    follower = home.ledger.decide([home.ledger.batch()])
    with pytest.raises(StorageError, match="contradicts"):
        await database.write([home.promise(), follower])
    await database.close()
    assert (await home.start()).restored


async def test_a_lost_counter_file_is_a_restored_backup(home: Home) -> None:
    await home.start()
    await home.start()
    home.counter.unlink()
    assert await home.start() == BootVerdict(3, restored=True)


async def test_a_counter_file_lost_before_the_second_start_shows_in_the_promises(
    home: Home,
) -> None:
    await home.start(promises=1)
    home.counter.unlink()
    assert await home.start() == BootVerdict(2, restored=True)


async def test_a_crash_between_database_and_file_is_no_backup(home: Home) -> None:
    """The database counts first, so that a crash in between leaves the file behind, never ahead."""
    await home.start()
    kept = home.counter.read_bytes()
    await home.start(promises=2)
    home.counter.write_bytes(kept)
    assert await home.start() == BootVerdict(3, restored=False)


async def test_a_crash_in_the_very_first_start_is_no_backup(home: Home) -> None:
    await home.start()
    home.counter.unlink()
    assert await home.start() == BootVerdict(2, restored=False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1 2 3\n",
        b"\xff" * 63,
        b" ".join([b"0" * 20] * 2),
        b"9" + b"0" * 19 + (b" " + b"0" * 20) * 2,
        b"-" * 20 + (b" " + b"0" * 20) * 2,
    ],
)
async def test_a_damaged_counter_file_is_refused(home: Home, text: bytes) -> None:
    await home.start()
    home.counter.write_bytes(text)
    with pytest.raises(StorageError, match="Delete the file; the node then abstains"):
        await home.start()


async def test_a_counter_that_cannot_be_kept_stops_the_node(home: Home) -> None:
    home.counter.mkdir()
    with pytest.raises(StorageError, match=r"boot counter .* cannot be kept"):
        await home.start()
    home.counter.rmdir()
    (home.counter.parent / "boots.new").mkdir()
    with pytest.raises(StorageError, match=r"boot counter .* cannot be kept"):
        await home.start()


def test_a_counter_that_the_disk_takes_in_part_is_not_kept(
    tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    counter = CounterFile(tmp_path / "boots", Counts(1, 2))
    for size in (10, 0):
        small_files(size)
        with pytest.raises(StorageError, match=r"cannot be kept: (No space|File too large)"):
            counter.promised(3)
        with pytest.raises(StorageError, match=r"cannot be kept: (No space|File too large)"):
            CounterFile(tmp_path / "other", Counts())
    counter.close()
    assert not (tmp_path / "other").exists()


async def test_each_promise_counts_once_it_is_durable(home: Home) -> None:
    database = await Database.open(home.database, home.ledger.chain_id)
    await database.boot(home.counter)
    ledger = home.ledger
    first = ledger.begin()
    batch = ledger.batch()
    block = ledger.execute([batch]).block
    both = [home.promise(), ledger.promise(Prepare(1, 0, block.hash), block)]
    await database.write([first])
    assert read_counts(home.counter) == Seen(Counts(1, 0), copied=False)
    await database.write(both)
    assert read_counts(home.counter) == Seen(Counts(1, 2), copied=False)
    await database.write([ledger.decide([batch]), home.promise()])
    assert read_counts(home.counter) == Seen(Counts(1, 3), copied=False)
    await database.close()


async def test_a_copy_of_the_whole_directory_is_a_restored_backup(home: Home) -> None:
    """Whether it goes elsewhere or comes back where it was: the mark in it is a copy."""
    await home.start(promises=1)
    directory = home.counter.parent
    backup = directory.with_name("backup")
    shutil.copytree(directory, backup)
    await home.start(promises=1)
    assert not (await home.start()).restored

    shutil.rmtree(directory)
    shutil.copytree(backup, directory)
    assert (await home.start()).restored
    assert (await home.start(promises=1)).restored
    assert not (await home.start()).restored

    shutil.rmtree(directory)
    backup.rename(directory)
    assert (await home.start()).restored


async def test_a_directory_that_is_moved_is_no_copy(home: Home, tmp_path: Path) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    first = Home(inner)
    await first.start(promises=1)
    inner.rename(tmp_path / "b")
    assert not (await Home(tmp_path / "b").start()).restored


async def test_a_lost_mark_is_a_restored_backup(home: Home) -> None:
    await home.start(promises=1)
    mark_of(home.counter).unlink()
    assert (await home.start()).restored
    assert (await home.start(promises=1)).restored
    assert not (await home.start()).restored


async def test_a_mark_that_cannot_be_looked_at_stops_the_node(home: Home) -> None:
    await home.start()
    mark = mark_of(home.counter)
    mark.unlink()
    mark.symlink_to(mark)
    with pytest.raises(StorageError, match=r"boot counter .* cannot be kept: Too many levels"):
        await home.start()


async def test_a_new_database_of_a_known_node_is_restored(home: Home) -> None:
    """Where both the database and the counter are gone, the home may still know."""
    database = await Database.open(home.database, home.ledger.chain_id)
    assert (await database.boot(home.counter, known=True)).restored
    await database.close()


async def test_the_second_start_of_a_known_node_is_no_backup(home: Home) -> None:
    """The first may have crashed before its counter was there."""
    await home.start()
    home.counter.unlink()
    database = await Database.open(home.database, home.ledger.chain_id)
    assert not (await database.boot(home.counter, known=True)).restored
    await database.close()
