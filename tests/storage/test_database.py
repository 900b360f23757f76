"""The writing connection: opening, all or nothing, limits, and what goes wrong with files."""

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import storage.database
import storage.hops
import storage.schema
from ledger.genesis import Genesis
from ledger.store import Write, WriteBatch
from ledger.transactions import CheckedBatch, seal_batch
from simulations.store import MemoryStore
from storage.database import Database, StorageError
from storage.reader import SqliteReader
from storage.schema import SCRIPTS
from tests.storage.support import KEYS, Ledger, Model, make_genesis
from tests.storage.test_reader import check_equal, opened, reading


def execute(path: Path, sql: str) -> None:
    """Run statements behind the node's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(sql)
    connection.close()


async def write_each(database: Database, batches: Sequence[CheckedBatch]) -> None:
    for batch in batches:
        await database.write([WriteBatch(batch)])


def adjust_writer(monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    """Run `sql` on every writing connection opened from now on."""
    original = storage.database._open

    def adjusted(path: Path, chain_id: bytes) -> sqlite3.Connection:
        writer = original(path, chain_id)
        writer.execute(sql)
        return writer

    monkeypatch.setattr(storage.database, "_open", adjusted)


# ---- opening -------------------------------------------------------------------------------------


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await database.write([Ledger().begin()])
        await database.flush()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    names = {file + end for file in ("db", "db-derived") for end in ("", "-wal", "-shm")}
    assert modes == dict.fromkeys(names, 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "db-derived"]


async def test_a_batch_that_its_author_signed_again_replaces_the_old_one(tmp_path: Path) -> None:
    """By a new key: its id is the same, and nobody would take the old signature. Once a block lists
    it, it stays.
    """
    ledger, memory, path = Ledger(), MemoryStore(), tmp_path / "db"
    batch = ledger.batch()
    old, later = (_signed_again(ledger, batch, by) for by in ("beta", "gamma"))
    assert old.id == batch.id == later.id
    steps: list[tuple[list[Write], CheckedBatch]] = [
        ([ledger.begin(), WriteBatch(old)], old),
        ([WriteBatch(batch), WriteBatch(batch)], batch),
        ([WriteBatch(old)], old),
        ([ledger.decide([batch])], batch),
        ([WriteBatch(later)], batch),
    ]
    async with opened(path, ledger.chain_id) as database:
        for writes, held in steps:
            await database.write(writes)
            memory.write(writes)
            with reading(path) as reader:
                assert reader.batch(batch.id) == memory.batch(batch.id) == held.raw


def _signed_again(ledger: Ledger, batch: CheckedBatch, by: str) -> CheckedBatch:
    return seal_batch(
        ledger.chain_id,
        KEYS[by],
        batch.author,
        batch.sequence,
        batch.valid_until_height,
        batch.transactions,
    )


async def test_every_commit_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[object, ...]] = []
    original = storage.database._open

    def spying(path: Path, chain_id: bytes) -> sqlite3.Connection:
        writer = original(path, chain_id)
        names = ("journal_mode", "synchronous", "wal_autocheckpoint")
        seen.append(tuple(writer.execute(f"PRAGMA {name}").fetchone()[0] for name in names))
        return writer

    monkeypatch.setattr(storage.database, "_open", spying)
    async with opened(tmp_path / "db"):
        full = 2
        assert seen == [("wal", full, 0)]


async def test_another_ledgers_database_is_refused(tmp_path: Path) -> None:
    one, other = make_genesis("One").chain_id, make_genesis("Other").chain_id
    async with opened(tmp_path / "db", one):
        pass
    with pytest.raises(StorageError, match=f"holds the ledger {one.hex()}, not {other.hex()}"):
        await Database.open(tmp_path / "db", other)
    async with opened(tmp_path / "db", one):
        pass


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        pass
    execute(tmp_path / "db", f"PRAGMA user_version = {len(SCRIPTS) + 1}")
    with pytest.raises(StorageError, match=r"a newer program has used it\. Install"):
        await Database.open(tmp_path / "db", bytes(32))


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    execute(tmp_path / "db", "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1);")
    before = (tmp_path / "db").read_bytes()
    with pytest.raises(StorageError, match="was not made by this program"):
        await Database.open(tmp_path / "db", bytes(32))
    assert (tmp_path / "db").read_bytes() == before


async def test_older_schemas_are_migrated_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
    scripts = [tmp_path / "2.sql", tmp_path / "3.sql"]
    scripts[0].write_text("CREATE TABLE extra (a); INSERT INTO extra VALUES (1);")
    scripts[1].write_text("INSERT INTO extra SELECT height + 2 FROM block;")
    monkeypatch.setattr(storage.schema, "SCRIPTS", (*SCRIPTS, *map(str, scripts)))
    for _ in range(2):
        async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis):
            with reading(tmp_path / "db") as reader:
                assert reader.rows("SELECT a FROM extra ORDER BY a") == [(1,), (2,)]
                assert reader.rows("PRAGMA user_version") == [(len(SCRIPTS) + 2,)]
                check_equal(reader, ledger.model)


async def test_a_migration_that_fails_leaves_the_older_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
    script = tmp_path / "2.sql"
    script.write_text("CREATE TABLE extra (a); DROP TABLE state_value; INSERT INTO nowhere;")
    with monkeypatch.context() as patch:
        patch.setattr(storage.schema, "SCRIPTS", (*SCRIPTS, str(script)))
        with pytest.raises(StorageError):
            await Database.open(tmp_path / "db", ledger.chain_id)
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis):
        with reading(tmp_path / "db") as reader:
            assert reader.rows("SELECT * FROM sqlite_master WHERE name = 'extra'") == []
            check_equal(reader, ledger.model)


# ---- all or nothing ------------------------------------------------------------------------------


@pytest.fixture(params=["on the loop", "on the thread"])
def either_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small writes are performed on the loop's thread, or on the writer's like all others."""
    if request.param == "on the thread":
        monkeypatch.setattr(storage.hops, "SMALL_BYTES_MAX", -1)


@pytest.mark.usefixtures("either_thread")
async def test_a_write_that_fails_leaves_nothing_and_is_final(tmp_path: Path) -> None:
    ledger = Ledger()
    begin = ledger.begin()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([begin])
        before = Model()
        before.apply([begin])
        round_ = ledger.round([ledger.batch()])
        ledger.decide([ledger.batch()])
        gap = ledger.decide([ledger.batch()])
        with pytest.raises(StorageError, match="contradicts what should be written") as first:
            await database.write([*round_, gap])
        with pytest.raises(StorageError) as second:
            await database.write(round_)
        assert second.value is first.value
        with reading(tmp_path / "db") as reader:
            check_equal(reader, before)
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write(round_)
        before.apply(round_)
        with reading(tmp_path / "db") as reader:
            check_equal(reader, before)


async def test_a_block_is_applied_once(tmp_path: Path) -> None:
    ledger = Ledger()
    begin, block = ledger.begin(), ledger.decide([ledger.batch()])
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([begin, block])
        with pytest.raises(StorageError, match="a block must follow the head"):
            await database.write([block])


async def test_nothing_to_write_is_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await database.write([])
        with reading(tmp_path / "db") as reader:
            check_equal(reader, Model())


@pytest.mark.usefixtures("either_thread")
async def test_writes_that_wait_are_performed_in_order(tmp_path: Path) -> None:
    ledger = Ledger()
    writes: list[Write] = [ledger.begin()]
    writes += [ledger.decide([ledger.batch()]) for _ in range(10)]
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await asyncio.gather(*(database.write([write]) for write in writes))
        with reading(tmp_path / "db") as reader:
            check_equal(reader, ledger.model)


@pytest.mark.usefixtures("either_thread")
async def test_nothing_is_performed_behind_a_write_that_failed(tmp_path: Path) -> None:
    ledger = Ledger()
    begin, block = ledger.begin(), ledger.decide([ledger.batch()])
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        results = await asyncio.gather(
            database.write([block]), database.write([begin]), return_exceptions=True
        )
        assert [type(result) for result in results] == [StorageError, StorageError]
        with reading(tmp_path / "db") as reader:
            check_equal(reader, Model())


async def test_a_cancelled_write_is_performed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.hops, "SMALL_BYTES_MAX", -1)
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        task = asyncio.create_task(database.write([ledger.begin()]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await database.write([ledger.decide([ledger.batch()])])
        with reading(tmp_path / "db") as reader:
            check_equal(reader, ledger.model)


# ---- the WAL -------------------------------------------------------------------------------------


async def test_the_wal_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.database, "WAL_BYTES", 64 * 1024)
    wal = tmp_path / "db-wal"
    ledger = Ledger()
    sizes = []
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        with reading(tmp_path / "db") as reader:
            await database.write([ledger.begin()])
            for _ in range(30):
                await database.write([ledger.decide([ledger.batch(8)])])
                sizes.append(wal.stat().st_size)
                assert reader.head_height() == ledger.height
            assert max(sizes) < 512 * 1024
            check_equal(reader, ledger.model)
    assert not wal.exists()


async def test_a_wal_that_a_snapshot_held_is_cut_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.database, "WAL_BYTES", 64 * 1024)
    monkeypatch.setattr(storage.database, "WAL_BYTES_MAX", 256 * 1024)
    monkeypatch.setattr(storage.database, "BUSY_MS", 1)
    wal = tmp_path / "db-wal"
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        with reading(tmp_path / "db") as reader:
            with reader.snapshot():
                while wal.stat().st_size < 512 * 1024:
                    await database.write([ledger.decide([ledger.batch(8)])])
                assert reader.head_height() == 0
            for _ in range(3):
                await database.write([ledger.decide([ledger.batch()])])
            assert wal.stat().st_size <= 256 * 1024
            check_equal(reader, ledger.model)


async def test_a_wal_removed_under_the_node_is_noticed(tmp_path: Path) -> None:
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        Path(f"{tmp_path}/db-wal").unlink()
        for _ in range(2):
            with pytest.raises(StorageError, match="was removed under the node"):
                await database.write([WriteBatch(ledger.batch())])


async def test_a_torn_wal_ends_with_a_whole_write(tmp_path: Path) -> None:
    """What a power failure may leave of the last writes: some bytes of the WAL, or wrong ones."""
    ledger = Ledger()
    models = [Model()]
    steps: list[list[Write]] = [[ledger.begin()]]
    for _ in range(4):
        batches = [ledger.batch()]
        steps += [ledger.round(batches), [ledger.decide(batches)]]
    path, torn = tmp_path / "db", tmp_path / "torn"
    torn.mkdir()
    async with opened(path, ledger.chain_id, ledger.genesis) as database:
        for number, writes in enumerate(steps, 1):
            await database.write(writes)
            models.append(Model())
            for done in steps[:number]:
                models[-1].apply(done)
        files = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    chance = random.Random(7)
    found: list[int] = []
    for attempt in range(30):
        cut = chance.randrange(len(files[1]))
        wal = bytearray(files[1])
        if attempt % 2:
            del wal[cut:]
        else:
            wal[cut] ^= 1 << chance.randrange(8)
        (torn / "db").write_bytes(files[0])
        (torn / "db-wal").write_bytes(wal)
        await _count_writes(torn / "db", ledger.genesis, models, found)
        shutil.rmtree(torn)
        torn.mkdir()
    assert len(set(found)) > 3


async def _count_writes(
    path: Path, genesis: Genesis, models: Sequence[Model], found: list[int]
) -> None:
    async with opened(path, genesis.chain_id, genesis):
        with reading(path) as reader:
            height = reader.head_height()
            promises = 0 if height is None else len(reader.promises(height + 1))
            number = 0 if height is None else 1 + 2 * height + (1 if promises else 0)
            check_equal(reader, models[number])
            found.append(number)


# ---- what goes wrong with files ------------------------------------------------------------------


@pytest.mark.usefixtures("either_thread")
async def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    begin = ledger.begin()
    with monkeypatch.context() as patch:
        adjust_writer(patch, "PRAGMA max_page_count = 100")
        async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
            await database.write([begin])
            with pytest.raises(StorageError, match=r"its disk is full .* Free space"):
                await write_each(database, [ledger.batch(40) for _ in range(50)])
            with reading(tmp_path / "db") as reader:
                kept = reader.pending_batches()
                assert kept
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.decide([ledger.batch()])])
        with reading(tmp_path / "db") as reader:
            assert reader.pending_batches() == kept
            assert reader.head_height() == 1


async def test_a_disk_that_fails_to_write_loses_nothing(
    tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    ledger = Ledger()
    begin, round_ = ledger.begin(), ledger.round([ledger.batch()])
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([begin, *round_])
        small_files(Path(f"{tmp_path}/db-wal").stat().st_size + 10_000)
        with pytest.raises(StorageError, match=r"failed to read or write .* full quotas"):
            await database.write([WriteBatch(ledger.batch(100))])
        small_files(resource.RLIM_INFINITY)
        with pytest.raises(StorageError, match="failed to read or write"):
            await database.write([WriteBatch(ledger.batch())])
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis):
        with reading(tmp_path / "db") as reader:
            model = Model()
            model.apply([begin, *round_])
            check_equal(reader, model)


async def test_a_checkpoint_that_fails_stops_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Callable[[int], None]
) -> None:
    monkeypatch.setattr(storage.database, "WAL_BYTES", 0)
    ledger = Ledger()
    begin = ledger.begin()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([begin])
        batches = [ledger.batch(100) for _ in range(20)]
        # Room for the WAL of a batch, not for all of them in the database.
        small_files(400_000)
        with pytest.raises(StorageError, match="failed to read or write"):
            await write_each(database, batches)
        small_files(resource.RLIM_INFINITY)
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis):
        with reading(tmp_path / "db") as reader:
            kept = reader.pending_batches()
            assert kept == tuple(batch.raw for batch in batches[: len(kept)])
            assert reader.head_height() == 0


async def test_another_programs_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.database, "BUSY_MS", 1)
    async with opened(tmp_path / "db") as database:
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another program holds it locked"):
            await database.write([Ledger().begin()])
        other.close()


@pytest.fixture
def as_a_guest() -> Iterator[Path]:
    """A directory that this process, whoever runs it, may read but not write."""
    directory = Path(tempfile.mkdtemp())
    user = os.geteuid()
    yield directory
    if os.geteuid() != user:
        os.seteuid(user)
    directory.chmod(0o700)
    shutil.rmtree(directory)


async def test_a_directory_that_cannot_be_written(as_a_guest: Path) -> None:
    ledger = Ledger()
    begin = ledger.begin()
    async with opened(as_a_guest / "db", ledger.chain_id) as database:
        await database.write([begin])
    (as_a_guest / "db").chmod(0o444)
    as_a_guest.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65_534)
    with pytest.raises(StorageError, match=r"Let the node's user write|may read and write both"):
        await Database.open(as_a_guest / "db", ledger.chain_id)
    with pytest.raises(StorageError, match="cannot be made: Permission denied"):
        await Database.open(as_a_guest / "new", ledger.chain_id)


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be made: No such file or directory"):
        await Database.open(tmp_path / "no" / "db", bytes(32))
    with pytest.raises(StorageError, match="cannot be opened"):
        await Database.open(tmp_path, bytes(32))


@pytest.mark.parametrize("content", [b"not a database" * 100, bytes(range(256)) * 32])
async def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(StorageError, match=r"it is not a database .* run `medpact repair`"):
        await Database.open(tmp_path / "db", bytes(32))
    assert (tmp_path / "db").read_bytes() == content


async def _make(path: Path) -> Ledger:
    ledger = Ledger()
    async with opened(path, ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        for _ in range(3):
            await database.write([ledger.decide([ledger.batch(20)])])
    return ledger


async def test_a_database_that_does_not_say_whose_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        pass
    for sql in ("UPDATE meta SET chain_id = 7", "DELETE FROM meta"):
        execute(tmp_path / "db", f"PRAGMA ignore_check_constraints = ON; {sql}")
        with pytest.raises(StorageError, match="does not say which ledger"):
            await Database.open(tmp_path / "db", bytes(32))


async def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "db"
    ledger = await _make(path)
    whole = path.read_bytes()
    for length in (1, 100, 4096, len(whole) // 2, len(whole) - 4096):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError, match=r"damaged|not a database"):
            await Database.open(path, ledger.chain_id)


async def test_a_bad_page(tmp_path: Path) -> None:
    """Every page spoiled in turn: reads and writes that meet it raise StorageError and no other."""
    path = tmp_path / "db"
    ledger = await _make(path)
    whole = path.read_bytes()
    block = ledger.decide([ledger.batch()])
    met = 0
    for start in range(0, len(whole), 4096):
        path.write_bytes(whole[:start] + bytes(b"\xa5" * 4096) + whole[start + 4096 :])
        try:
            async with opened(path, ledger.chain_id, ledger.genesis) as database:
                await database.write([block])
                with reading(path) as reader:
                    _read_all(reader, ledger)
        except StorageError:
            met += 1
        Path(f"{path}-wal").unlink(missing_ok=True)
        Path(f"{path}-shm").unlink(missing_ok=True)
    assert met > len(whole) // 4096 // 2


def _read_all(reader: SqliteReader, ledger: Ledger) -> None:
    for height in range(ledger.height + 1):
        (reader.header(height), reader.decision(height), reader.receipts(height))
    for id in ledger.model.batches:
        reader.batch(id)
    for id in ledger.model.positions:
        reader.transaction_position(id)
    for chain in ledger.model.chains:
        reader.chain_heights(chain, 0, 10)
    for key in ledger.model.values:
        reader.value(key)
    for path in ledger.model.nodes:
        reader.node(path)
    (reader.promises(4), reader.pending_batches())


async def test_a_disk_that_turns_read_only_stops_the_node_and_loses_nothing(
    tmp_path: Path,
) -> None:
    ledger = Ledger()
    begin = ledger.begin()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([begin])
        # What SQLite says of a file system that was mounted anew because of its errors.
        await database._run(lambda: database._writer.execute("PRAGMA query_only = ON"))
        for _ in range(2):
            with pytest.raises(StorageError, match=r"it cannot be written .* start the node again"):
                await database.write([WriteBatch(ledger.batch())])
        with reading(tmp_path / "db") as reader:
            assert (reader.head_height(), reader.pending_batches()) == (0, ())
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([WriteBatch(ledger.batch())])


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(StorageError, match=r"it cannot be opened .* Check that it is a file"):
        await Database.open(tmp_path / "db", bytes(32))
