"""The derived file: written behind the blocks in steps, made again where it is behind or gone."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import storage.derived
import storage.recent
from ledger.store import StateChanges, WriteBlock, WriteGenesis
from storage.checked import CheckedReader
from storage.database import Database
from storage.derived import HELD_BYTES_MAX, PAGE_BYTES, DerivedFile
from storage.errors import DamagedError, MismatchError, StorageError, derived_path
from storage.reader import SqliteReader
from storage.recent import Recent, Step
from storage.redo import redo
from storage.runs import FAN
from storage.verify import verify_chain
from tests.storage.support import Ledger, make_genesis
from tests.storage.test_reader import Random, check_equal, opened, reading


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of every two blocks."""
    monkeypatch.setattr(storage.recent, "STEP_BLOCKS", 2)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No step is written until it is set."""
    go, original = threading.Event(), DerivedFile.write

    def write(self: DerivedFile, step: Step, hurry: threading.Event) -> None:
        go.wait()
        original(self, step, hurry)

    monkeypatch.setattr(DerivedFile, "write", write)
    yield go
    go.set()


def path(number: int) -> bytes:
    """A path of nibbles for each number."""
    return bytes(int(nibble, 16) for nibble in f"{number:x}")


def damage(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(derived_path(path), isolation_level=None)) as connection:
        connection.executescript(sql)


async def fill(database: Database, ledger: Ledger, blocks: int) -> None:
    """Write genesis, if it is missing, and more blocks; each step when it is due."""
    if ledger.model.blocks == []:
        await database.write([ledger.begin()])
    for _ in range(blocks):
        await database.write([ledger.decide([ledger.batch()])])
        await database.stepped()


async def test_a_step_ends_with_many_places_though_few_values_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.recent, "STEP_PLACES", 1)
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
        assert database.derived_height == 2


async def test_pages_are_large_and_not_filled_with_zeros(tmp_path: Path) -> None:
    """Debian's SQLite does so with those of merged runs: it writes half as many pages more."""
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        execute = database._derived._connection.execute
        assert execute("PRAGMA secure_delete").fetchone() == (0,)
        # Each that a step changes is three calls of the system.
        assert execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)


async def copy_as_killed(path: Path, to: Path) -> Path:
    """The files as a process that is killed now leaves them."""
    to.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        (to / file.name).write_bytes(file.read_bytes())
    return to / path.name


# ---- steps ---------------------------------------------------------------------------------------


async def test_blocks_are_read_back_before_within_and_after_a_step(
    tmp_path: Path, short_steps: None, held: threading.Event
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        with reading(path) as plain, reading(path, cached=True) as cached:
            for height in range(4):
                writes = [ledger.decide([ledger.batch()])] if height else [ledger.begin()]
                await database.write(writes)
                cached.written(writes)
                # A step is due and one is being written from height 3 on; nothing is in the file.
                check_equal(plain, ledger.model)
                check_equal(cached, ledger.model)
                with plain.snapshot():
                    check_equal(plain, ledger.model)
            assert database.derived_height == -1
            held.set()
            await database.stepped()
            assert database.derived_height == 1
            check_equal(plain, ledger.model)
            await database.flush()
            assert (database.derived_height, database.recent.blocks()) == (3, ())
            check_equal(plain, ledger.model)
            check_equal(cached, ledger.model)


async def test_a_snapshot_holds_still_while_steps_are_written(
    tmp_path: Path, short_steps: None
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
        model = {key: ledger.model.values[key] for key in ledger.model.values}
        chain, heights = next(iter(ledger.model.chains.items()))
        with reading(path) as reader, reading(path) as other:
            with reader.snapshot():
                await fill(database, ledger, 6)
                await database.flush()
                assert (reader.head_height(), reader.state_height()) == (2, 2)
                assert {key: reader.value(key) for key in model} == model
                later = next(i for i, at in ledger.model.positions.items() if at[0] == 8)
                assert reader.transaction_position(later) is None
                assert reader.chain_heights(chain, 0, 100) == tuple(heights[:2])
            check_equal(reader, ledger.model)
            check_equal(other, ledger.model)


async def test_a_snapshot_shows_what_was_in_memory_when_it_began(tmp_path: Path) -> None:
    """Its view of the file does not have it, and memory has it no more."""
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
        with reading(path) as reader, reader.snapshot():
            await database.flush()
            assert database.recent.blocks() == ()
            check_equal(reader, ledger.model)


async def test_no_more_than_two_steps_are_in_memory(
    tmp_path: Path, short_steps: None, held: threading.Event
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        for _ in range(3):
            await database.write([ledger.decide([ledger.batch()])])
        waiting = asyncio.create_task(fill(database, ledger, 1))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        held.set()
        await waiting
        check = ledger.model
        with reading(path) as reader:
            check_equal(reader, check)


async def test_rows_of_any_size_are_stored(tmp_path: Path) -> None:
    random = Random()
    values = {b"": b"", b"k" * 255: b"v" * 70_000, b"a": bytes(1)}
    nodes = {path(n): bytes([n % 256]) * (n % 900 + 1) for n in range(9_000)}
    nodes |= {b"\7" * n: bytes([n]) for n in range(65)}
    async with opened(tmp_path / "db") as database:
        await database.write([random.write("block", StateChanges(values, nodes, b""), 0)])
        await database.write([random.write("block", StateChanges({}, {}, b""), 2)])
        await database.flush()
        with reading(tmp_path / "db") as reader:
            check_equal(reader, random.model)


async def test_a_row_that_is_too_long_stops_the_node(tmp_path: Path) -> None:
    random = Random()
    changes = StateChanges({b"k": bytes(HELD_BYTES_MAX + 1)}, {}, b"")
    async with opened(tmp_path / "db") as database:
        await database.write([random.write("block", changes, 0)])
        with pytest.raises(StorageError, match="too long to store"):
            await database.flush()
        with pytest.raises(StorageError, match="too long to store"):
            await database.write([random.write("block", StateChanges({}, {}, b""), 0)])


async def test_a_block_cannot_be_left_out(tmp_path: Path) -> None:
    ledger = Ledger()
    recent = Recent(-1)
    recent.take(ledger.begin())
    ledger.decide([ledger.batch()])
    with pytest.raises(RuntimeError, match="block 2 was to follow 0"):
        recent.take(ledger.decide([ledger.batch()]))


def test_work_of_a_step_is_a_statement_for_thousands_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a busy event loop is not asked for the interpreter's lock at every row."""
    nodes = {path(n): bytes(100) for n in range(10_000)}
    step = Step()
    step.take(WriteGenesis(Ledger().begin().header, StateChanges({}, nodes, b"")))
    derived = DerivedFile.open(tmp_path / "derived", bytes(32), lambda height: None)
    seen: list[str] = []
    derived._connection.set_trace_callback(seen.append)
    derived.write(step, threading.Event())
    derived.close()
    assert len([sql for sql in seen if sql.startswith("INSERT")]) == 10


def test_a_step_leaves_time_to_others_until_there_is_a_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.derived, "PAUSE_SHARE", 1e9)
    hurry, step = threading.Event(), Step()
    step.take(Ledger().begin())
    derived = DerivedFile.open(tmp_path / "derived", bytes(32), lambda height: None)
    writing = threading.Thread(target=derived.write, args=(step, hurry))
    writing.start()
    writing.join(0.05)
    assert writing.is_alive()
    hurry.set()
    writing.join()
    assert derived.height == 0
    derived.close()


def rests(monkeypatch: pytest.MonkeyPatch, height: int) -> asyncio.Event:
    """Let databases rest after a moment; set once a step that ends at `height` has been tried."""
    monkeypatch.setattr("storage.database.IDLE_SECONDS", 0.01)
    tried, original = asyncio.Event(), Database._write_step

    async def write_step(self: Database, step: Step) -> None:
        await original(self, step)
        if step.blocks[-1].height == height:
            tried.set()

    monkeypatch.setattr(Database, "_write_step", write_step)
    return tried


async def test_a_node_that_rests_writes_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever kills it then leaves nothing to be executed again."""
    path, ledger = tmp_path / "db", Ledger()
    written = rests(monkeypatch, 3)
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 3)
        await written.wait()
        assert (database.derived_height, database.recent.blocks()) == (3, ())
        with reading(path) as reader:
            check_equal(reader, ledger.model)


async def test_a_rest_that_fails_stops_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    failed = rests(monkeypatch, 0)
    async with opened(path, ledger.chain_id) as database:
        damage(path, "DROP TABLE node")
        await database.write([ledger.begin()])
        await failed.wait()
        with pytest.raises(StorageError, match="no such table"):
            await database.write([ledger.decide([ledger.batch()])])


def test_a_log_is_cut_once_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after a crash reads all of it."""
    wal = tmp_path / "derived-wal"
    derived = DerivedFile.open(tmp_path / "derived", bytes(32), lambda height: None)
    ledger, sizes = Ledger(), list[int]()
    writes: list[WriteBlock | WriteGenesis] = [ledger.begin()]
    writes += [ledger.decide([ledger.batch()]) for _ in range(3)]
    for write in writes:
        step = Step()
        step.take(write)
        derived.write(step, threading.Event())
        sizes.append(wal.stat().st_size)
        if len(sizes) == 2:
            monkeypatch.setattr(storage.derived, "WAL_BYTES", sizes[1])
    assert sizes[0] < sizes[1]
    assert sizes[2:] == [0, sizes[3]]
    with closing(sqlite3.connect(tmp_path / "derived")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        monkeypatch.setattr(storage.derived, "WAL_BYTES", 0)
        step = Step()
        step.take(ledger.decide([ledger.batch()]))
        # A reader's snapshot is not waited for.
        derived.write(step, threading.Event())
        assert wal.stat().st_size > 0
        assert reader.execute("SELECT height FROM meta").fetchone() == (3,)
    derived.close()


async def test_a_page_that_is_damaged_stops_the_merge_and_the_node(
    tmp_path: Path, short_steps: None
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2 * FAN - 2)
        damage(path, "UPDATE page SET rows = x'00'")
        says = pytest.raises(DamagedError, match=r"-derived is damaged: a page .*delete this file")
        with says:
            await fill(database, ledger, 3)
    with reading(path) as reader, says:
        reader.transaction_position(next(iter(ledger.model.positions)))


async def test_a_step_that_is_cut_off_leaves_nothing(
    tmp_path: Path, short_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is killed while it writes and merges."""
    path, ledger = tmp_path / "db", Ledger()
    images: list[Path] = []
    original = DerivedFile._pieces

    def pieces(self: DerivedFile, step: Step) -> Iterator[None]:
        # So that pages reach the WAL before the end.
        self._connection.execute("PRAGMA cache_size = 1")
        for _ in original(self, step):
            if step.blocks[-1].height == 2 * FAN - 1:
                images.append(tmp_path / f"image{len(images)}" / "db")
                images[-1].parent.mkdir()
                for file in path.parent.glob(f"{path.name}*"):
                    (images[-1].parent / file.name).write_bytes(file.read_bytes())
            yield

    with monkeypatch.context() as watched:
        watched.setattr(DerivedFile, "_pieces", pieces)
        async with opened(path, ledger.chain_id) as database:
            await fill(database, ledger, 2 * FAN - 1)
    assert len(images) > FAN
    for image in images:
        async with opened(image, ledger.chain_id) as database:
            assert database.derived_height == 2 * FAN - 3
        async with opened(image, ledger.chain_id, ledger.genesis):
            with reading(image) as reader:
                check_equal(reader, ledger.model)
        assert list(verify_chain(image, ledger.genesis))[-1].complete


# ---- starts --------------------------------------------------------------------------------------


async def test_a_false_value_is_put_down_to_the_file_that_holds_it(tmp_path: Path) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
    key = next(iter(ledger.model.values))
    with closing(sqlite3.connect(derived_path(path), isolation_level=None)) as connection:
        connection.execute("UPDATE state_value SET value = x'00' WHERE key = ?", (key,))
    says = pytest.raises(DamagedError, match=r"db-derived is damaged.*delete this file")
    with closing(CheckedReader(path)) as reader, says:
        reader.value(key)


async def test_a_killed_node_executes_again_what_its_state_lacks(
    tmp_path: Path, short_steps: None
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 4)
        left = await copy_as_killed(path, tmp_path / "left")
    told: list[tuple[int, int]] = []
    async with opened(left, ledger.chain_id) as database:
        assert database.derived_height == 3
        with reading(left, cached=True) as reader:
            window = await redo(
                database, reader, ledger.genesis, lambda height, head: told.append((height, head))
            )
            check_equal(reader, ledger.model)
            assert vars(window) == vars(ledger.replay)
    assert told == [(4, 4)]
    assert list(verify_chain(left, ledger.genesis))[-1].complete


@pytest.mark.parametrize(
    "sql",
    [
        None,
        "PRAGMA user_version = 99",
        "UPDATE meta SET height = 1",
        "UPDATE meta SET height = 9",
        "UPDATE meta SET hash = x'00'",
        "UPDATE meta SET chain_id = zeroblob(32)",
        "DELETE FROM meta",
    ],
)
async def test_a_file_that_does_not_fit_is_made_anew(tmp_path: Path, sql: str | None) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 3)
    if sql is None:
        derived_path(path).unlink()
    else:
        damage(path, sql)
    async with opened(path, ledger.chain_id) as database:
        assert database.derived_height == -1
    async with opened(path, ledger.chain_id, ledger.genesis):
        with reading(path) as reader:
            check_equal(reader, ledger.model)
    assert list(verify_chain(path, ledger.genesis))[-1].complete


async def test_a_restored_ledger_makes_the_state_of_its_own_head(tmp_path: Path) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
    backup = path.read_bytes()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
    path.write_bytes(backup)
    async with opened(path, ledger.chain_id, ledger.genesis):
        with reading(path) as reader, reader.snapshot():
            assert (reader.head_height(), reader.state_height()) == (2, 2)
    steps = list(verify_chain(path, ledger.genesis))
    assert (steps[-1].height, steps[-1].complete) == (2, True)


def make_former(path: Path, ledger: Ledger) -> None:
    """Put what the derived file holds into the tables of version 1."""
    file = derived_path(path)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for table in ("run", "page", "node", "deep_node"):
            connection.execute(f"DROP TABLE {table}")
        connection.executescript(
            """
            CREATE TABLE state_node (path BLOB PRIMARY KEY, node BLOB NOT NULL) WITHOUT ROWID;
            CREATE TABLE transaction_position (id BLOB PRIMARY KEY, height, position) WITHOUT ROWID;
            CREATE TABLE chain_height (chain_id, height, PRIMARY KEY (chain_id, height))
                WITHOUT ROWID;
            PRAGMA user_version = 1;
            """
        )
        model = ledger.model
        put = connection.executemany
        put("INSERT INTO state_node VALUES (?, ?)", model.nodes.items())
        places = [(id[:16], *place) for id, place in model.positions.items()]
        put("INSERT INTO transaction_position VALUES (?, ?, ?)", places)
        chains = [(id[:16], height) for id, heights in model.chains.items() for height in heights]
        put("INSERT INTO chain_height VALUES (?, ?)", chains)


async def test_a_file_of_version_1_is_taken_over(tmp_path: Path) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 3)
    make_former(path, ledger)
    async with opened(path, ledger.chain_id) as database:
        assert database.derived_height == 3
        with reading(path) as reader:
            check_equal(reader, ledger.model)
        await fill(database, ledger, 2)
        await database.flush()
        with reading(path) as reader:
            check_equal(reader, ledger.model)
    assert list(verify_chain(path, ledger.genesis))[-1].complete


async def test_a_file_of_version_1_is_taken_over_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 3)
    make_former(path, ledger)
    with monkeypatch.context() as broken:
        broken.setattr(storage.derived, "_FORMER_DEEP_NODES", "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(StorageError, match="no such table: nowhere"):
            await Database.open(path, ledger.chain_id)
    async with opened(path, ledger.chain_id) as database:
        assert database.derived_height == 3
        with reading(path) as reader:
            check_equal(reader, ledger.model)


@pytest.mark.parametrize(
    "spoilt",
    [
        "chain_height SET chain_id = substr(chain_id, 2)",
        "chain_height SET chain_id = hex(chain_id)",
        "chain_height SET height = -1",
        "transaction_position SET height = 'two'",
    ],
)
async def test_a_file_of_version_1_with_a_spoilt_index_is_damaged(
    tmp_path: Path, spoilt: str
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 3)
    make_former(path, ledger)
    damage(path, f"UPDATE {spoilt} WHERE height = 2")
    with pytest.raises(DamagedError, match=r"-derived is damaged: a row .*delete this file"):
        await Database.open(path, ledger.chain_id)


async def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "db"
    damage(path, "CREATE TABLE theirs (a)")
    before = derived_path(path).read_bytes()
    with pytest.raises(MismatchError, match="was not made by this program"):
        await Database.open(path, make_genesis().chain_id)
    assert derived_path(path).read_bytes() == before


async def test_a_state_that_is_wrong_is_found_when_it_is_executed_on(
    tmp_path: Path, short_steps: None
) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 4)
        left = await copy_as_killed(path, tmp_path / "left")
    damage(left, "UPDATE node SET node = x'00000000' WHERE place = 0")
    with pytest.raises(DamagedError, match=r"-derived is damaged at height 4.*delete this file"):
        async with opened(left, ledger.chain_id, ledger.genesis):
            pass


@pytest.mark.parametrize("table", ["batch", "block"])
async def test_blocks_that_are_lost_are_not_executed(tmp_path: Path, table: str) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
    derived_path(path).unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"DELETE FROM {table} WHERE height = 1")
    with pytest.raises(DamagedError, match=r"db is damaged at height 1: the \w+ .*missing"):
        async with opened(path, ledger.chain_id, ledger.genesis):
            pass


async def test_what_is_wrong_in_the_ledger_is_not_put_down_to_a_state_made_from_it(
    tmp_path: Path,
) -> None:
    """First the state is suspected, as it is cheap to make anew; then the ledger."""
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 1)
        await database.flush()
        await fill(database, ledger, 1)
        left = await copy_as_killed(path, tmp_path / "left")
    with closing(sqlite3.connect(left, isolation_level=None)) as connection:
        # A batch ends with its signature, which no hash covers.
        cut = "CAST(substr(raw, 1, length(raw) - 8) || zeroblob(8) AS BLOB)"
        connection.execute(f"UPDATE batch_body SET raw = {cut} WHERE number = 2")
    for file in (derived_path(left), left):
        with pytest.raises(DamagedError) as caught:
            async with opened(left, ledger.chain_id, ledger.genesis):
                pass
        assert caught.value.path == file
        derived_path(left).unlink()


async def test_a_lost_block_of_the_window_is_damage_of_the_ledger(tmp_path: Path) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM block WHERE height = 1")
    with pytest.raises(DamagedError, match=r"db is damaged: the store has lost block 1"):
        async with opened(path, ledger.chain_id, ledger.genesis):
            pass


@pytest.mark.parametrize("left", [None, b""])
def test_a_reader_says_what_makes_a_missing_file(tmp_path: Path, left: bytes | None) -> None:
    path = tmp_path / "db"
    asyncio.run(_make(path))
    derived_path(path).unlink()
    if left is not None:
        derived_path(path).write_bytes(left)
    with pytest.raises(StorageError, match=r"db-derived is missing, or .* Start the node once"):
        SqliteReader(path)


async def _make(path: Path) -> None:
    async with opened(path):
        pass


# ---- what goes wrong with the file ---------------------------------------------------------------


async def test_a_close_waits_for_a_write_whose_caller_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's thread may be in the middle of taking its block in."""
    path, ledger = tmp_path / "db", Ledger()
    taking, go, original = threading.Event(), threading.Event(), Step.take

    def take(self: Step, write: WriteBlock | WriteGenesis) -> None:
        taking.set()
        go.wait()
        original(self, write)

    database = await Database.open(path, ledger.chain_id)
    await fill(database, ledger, 1)
    monkeypatch.setattr(Step, "take", take)
    monkeypatch.setattr("storage.hops.SMALL_BYTES_MAX", -1)
    writing = asyncio.create_task(database.write([ledger.decide([ledger.batch()])]))
    await asyncio.to_thread(taking.wait)
    writing.cancel()
    closing_down = asyncio.create_task(database.close())
    await asyncio.wait([closing_down], timeout=0.1)
    go.set()
    await closing_down
    async with opened(path, ledger.chain_id) as database:
        assert database.derived_height == 2
    assert list(verify_chain(path, ledger.genesis))[-1].complete


async def test_what_nobody_foresaw_is_not_lost(
    tmp_path: Path, short_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: DerivedFile, step: Step, hurry: threading.Event) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(DerivedFile, "write", write)
    path, ledger = tmp_path / "db", Ledger()
    database = await Database.open(path, ledger.chain_id)
    await fill(database, ledger, 1)
    with pytest.raises(MemoryError, match="no room"):
        await database.write([ledger.decide([ledger.batch()])])
    with pytest.raises(MemoryError, match="no room"):
        await database.close()


async def test_a_step_that_fails_at_the_end_is_told(tmp_path: Path) -> None:
    path, ledger = tmp_path / "db", Ledger()
    database = await Database.open(path, ledger.chain_id)
    await database.write([ledger.begin()])
    damage(path, "DROP TABLE node")
    with pytest.raises(StorageError, match="-derived cannot be used"):
        await database.close()


async def test_a_step_that_fails_stops_the_next_write(tmp_path: Path, short_steps: None) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        damage(path, "DROP TABLE node")
        await database.write([ledger.decide([ledger.batch()])])
        await database.stepped()
        with pytest.raises(StorageError, match="-derived cannot be used"):
            await database.write([ledger.decide([ledger.batch()])])


async def test_a_wal_removed_under_the_node_is_noticed(tmp_path: Path, short_steps: None) -> None:
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 2)
        Path(f"{derived_path(path)}-wal").unlink()
        await fill(database, ledger, 1)
        with pytest.raises(StorageError, match="was removed under the node"):
            await database.write([ledger.decide([ledger.batch()])])


async def test_verify_counts_what_the_file_may_lack(tmp_path: Path, short_steps: None) -> None:
    """Beside a node whose last blocks are in memory alone."""
    path, ledger = tmp_path / "db", Ledger()
    async with opened(path, ledger.chain_id) as database:
        await fill(database, ledger, 4)
        assert database.derived_height == 3
        last = list(verify_chain(path, ledger.genesis))[-1]
        assert (last.height, last.transactions, last.complete) == (4, 8, True)
