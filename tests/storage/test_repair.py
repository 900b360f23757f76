"""A database that is set aside: nothing is deleted, and the node knows that it has a past."""

import shutil
from pathlib import Path

import pytest

from storage.boots import mark_of
from storage.database import Database
from storage.errors import StorageError
from storage.repair import set_aside
from tests.storage.test_boots import Home

NAME = "aside"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def damaged(home: Home) -> None:
    """A home that has promised, whose process was killed, and whose database is damaged."""
    await home.start(promises=2)
    home.database.write_bytes(b"damaged")
    for suffix in ("-wal", "-shm"):
        home.database.with_name(home.database.name + suffix).write_bytes(suffix.encode())


async def test_all_of_the_database_is_kept_and_the_node_abstains(home: Home) -> None:
    await damaged(home)
    counter = home.counter.read_bytes()
    done = set_aside(home.database, home.counter, NAME)
    assert done.directory == home.database.with_name(NAME)
    names = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-derived")
    assert done.names == names
    kept = {path.name: path.read_bytes() for path in done.directory.iterdir()}
    assert kept.pop("ledger.db-derived")
    assert kept == {
        "ledger.db": b"damaged",
        "ledger.db-wal": b"-wal",
        "ledger.db-shm": b"-shm",
    }
    assert home.counter.read_bytes() == counter
    assert (await home.start()).restored
    assert (await home.start(promises=1)).restored
    assert not (await home.start()).restored


@pytest.mark.parametrize("counter", [None, b"", b"1 2 3"])
@pytest.mark.parametrize("is_marked", [True, False])
async def test_a_counter_that_is_lost_or_damaged_is_made_anew(
    home: Home, counter: bytes | None, is_marked: bool
) -> None:
    await damaged(home)
    home.counter.unlink()
    if counter is not None:
        home.counter.write_bytes(counter)
    if not is_marked:
        mark_of(home.counter).unlink()
    done = set_aside(home.database, home.counter, NAME)
    assert ("boots" in done.names) == (counter is not None)
    assert (await home.start()).restored


async def test_a_machine_without_any_data_is_made_to_abstain(home: Home) -> None:
    """A new machine after the old one's disk was lost: the key has a past, the home has none."""
    shutil.rmtree(home.database.parent)
    done = set_aside(home.database, home.counter, NAME)
    assert (done.directory, done.names) == (None, ())
    assert (await home.start()).restored


async def test_what_was_set_aside_can_be_put_back(home: Home) -> None:
    await home.start(promises=1)
    done = set_aside(home.database, home.counter, NAME)
    assert done.directory is not None
    (done.directory / "ledger.db").rename(home.database)
    assert not (await home.start()).restored


async def test_a_database_is_not_set_aside_over_another(home: Home) -> None:
    await home.start()
    home.database.with_name(NAME).mkdir()
    with pytest.raises(StorageError, match="cannot be set aside: File exists"):
        set_aside(home.database, home.counter, NAME)
    database = await Database.open(home.database, home.ledger.chain_id)
    await database.close()


async def test_a_wal_without_its_database_is_refused_rather_than_deleted(home: Home) -> None:
    await damaged(home)
    wal = home.database.with_name(home.database.name + "-wal")
    for prepare in (home.database.unlink, home.database.touch):
        prepare()
        with pytest.raises(StorageError, match="empty or missing, and its -wal file is not"):
            await Database.open(home.database, home.ledger.chain_id)
        assert wal.read_bytes() == b"-wal"
    set_aside(home.database, home.counter, NAME)
    assert (await home.start()).restored
