"""Reads after writes, after a reopening, from memory and from a snapshot."""

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import storage.reader
import storage.recent
import storage.schema
from consensus.events import Persist
from consensus.messages import Certificate, Decision, Phase, Prepare, Signed
from ledger.genesis import Genesis
from ledger.receipts import Receipt
from ledger.store import (
    LedgerReader,
    StateChanges,
    Write,
    WriteBatch,
    WriteBlock,
    WriteGenesis,
    WritePromise,
)
from ledger.transactions import CheckedBatch
from primitives.block import Block, BlockHeader
from primitives.hashing import digest
from storage.database import Database, StorageError
from storage.errors import derived_path
from storage.many import KEYS_ASKED, KEYS_ASKED_MIN
from storage.places import NIBBLES_MAX, place
from storage.reader import SqliteReader
from storage.redo import redo
from tests.storage.support import Ledger, Model, make_genesis

CHAIN = bytes(32)
ABSENT = b"?" * 32


OPEN: dict[Path, Database] = {}
"""What `opened` has open: its readers see what is not in the derived file yet."""


@asynccontextmanager
async def opened(
    path: Path, chain_id: bytes = CHAIN, genesis: Genesis | None = None
) -> AsyncIterator[Database]:
    """An open database; with `genesis`, brought up to its head as a node that starts does."""
    database = OPEN[path] = await Database.open(path, chain_id)
    try:
        if genesis is not None:
            with reading(path, cached=True) as reader:
                if reader.head_height() is not None:
                    await redo(database, reader, genesis, lambda height, head: None)
        yield database
    finally:
        del OPEN[path]
        await database.close()


@contextmanager
def reading(path: Path, *, cached: bool = False) -> Iterator[SqliteReader]:
    recent = OPEN[path].recent if path in OPEN else None
    reader = SqliteReader(path, recent, cached=cached)
    try:
        yield reader
    finally:
        reader.close()


def check_equal(reader: LedgerReader, model: Model) -> None:
    """Everything that can be read is what the model says."""
    head = len(model.blocks) - 1
    assert reader.head_height() == (head if model.blocks else None)
    for height, header in enumerate(model.blocks):
        assert reader.header(height) == header
        assert reader.height_of(header.hash()) == height
        assert reader.decision(height) == model.decisions.get(height)
        assert reader.receipts(height) == model.receipts[height]
    assert reader.header(head + 1) is None
    assert reader.decision(head + 1) is None
    assert reader.receipts(head + 1) is None
    assert reader.height_of(ABSENT) is None
    for id, batch in model.batches.items():
        assert reader.batch(id) == batch.raw
        assert reader.has_batch(id)
    assert reader.batch(ABSENT) is None
    assert not reader.has_batch(ABSENT)
    assert reader.pending_batches() == model.pending()
    for id, position in model.positions.items():
        assert reader.transaction_position(id) == position
    assert reader.transaction_position(ABSENT) is None
    for chain, heights in model.chains.items():
        assert reader.chain_heights(chain, 0, 1_000) == tuple(heights)
        assert reader.chain_heights(chain, heights[0], 1) == tuple(heights[1:2])
    assert reader.chain_heights(ABSENT, 0, 10) == ()
    for height in range(head + 3):
        assert reader.promises(height) == model.promises(height)
    for block_hash, block in model.proposals().items():
        assert reader.proposal(block_hash) == block
    assert reader.proposal(ABSENT) is None
    assert reader.held([ABSENT, *model.values, ABSENT]) == model.values
    for key, value in model.values.items():
        assert reader.value(key) == value
    assert reader.held([*model.values, ABSENT]) == model.values
    assert reader.nodes_at([ABSENT, *model.nodes, ABSENT]) == model.nodes
    for path, node in model.nodes.items():
        assert reader.node(path) == node
    assert reader.nodes_at([*model.nodes, ABSENT]) == model.nodes
    assert reader.value(ABSENT) is None
    assert reader.node(ABSENT) is None


async def test_a_ledger_is_read_back_at_every_step_and_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        with reading(path) as plain, reading(path, cached=True) as cached:
            steps: list[list[Write]] = [[ledger.begin()]]
            for _ in range(3):
                batches = [ledger.batch(), ledger.batch(3)]
                steps += [ledger.round(batches), [ledger.decide(batches)]]
            replayed = Model()
            for writes in steps:
                await database.write(writes)
                cached.written(writes)
                replayed.apply(writes)
                check_equal(plain, replayed)
                check_equal(cached, replayed)
            for height in range(4):
                # Two batches a block, numbered as they were made.
                listed = (("alpha", 2 * height - 1), ("alpha", 2 * height)) if height else ()
                assert cached.sequences(height) == plain.sequences(height) == listed
            assert plain.sequences(4) is None
    async with opened(path, ledger.chain_id):
        with reading(path) as reader:
            check_equal(reader, ledger.model)


async def test_an_empty_store_holds_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        with reading(tmp_path / "db") as reader:
            check_equal(reader, Model())


async def test_a_batch_is_kept_until_its_last_height(tmp_path: Path) -> None:
    ledger = Ledger()
    writes: list[Write] = [ledger.begin()]
    batches = [ledger.batch(valid_until_height=height) for height in (1, 2, 900)]
    writes += map(WriteBatch, batches)
    async with opened(tmp_path / "db", ledger.chain_id) as database:
        with reading(tmp_path / "db") as reader:
            await database.write(writes)
            assert len(reader.pending_batches()) == 3
            await database.write([ledger.decide([ledger.batch()])])
            assert reader.pending_batches() == (batches[1].raw, batches[2].raw)
            assert reader.batch(batches[0].id) is None
            await database.write([ledger.decide([batches[2]])])
            assert reader.pending_batches() == ()
            assert reader.batch(batches[1].id) is None
            assert reader.batch(batches[2].id) == batches[2].raw


async def test_a_decided_batch_that_arrives_again_stays_decided(tmp_path: Path) -> None:
    ledger = Ledger()
    first = ledger.begin()
    batch = ledger.batch()
    async with opened(tmp_path / "db", ledger.chain_id) as database:
        await database.write([first, ledger.decide([batch]), WriteBatch(batch)])
        with reading(tmp_path / "db") as reader:
            assert reader.pending_batches() == ()
            assert reader.batch(batch.id) == batch.raw


# ---- any writes ----------------------------------------------------------------------------------

keys = st.binary(min_size=0, max_size=1)
paths = st.binary(max_size=1).map(lambda nibble: bytes(n % 3 for n in nibble)) | st.just(b"\2" * 40)
values = st.binary(min_size=1, max_size=3)
changes = st.builds(
    StateChanges,
    st.dictionaries(keys, values, max_size=4),
    st.dictionaries(paths, values, max_size=4),
    st.just(b""),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.integers(0, 5), st.integers(1, 6)),
        st.tuples(st.just("promise"), st.booleans(), st.integers(0, 2)),
        st.tuples(st.just("block"), changes, st.integers(0, 2)),
        st.tuples(st.just("commit"), st.none(), st.none()),
    ),
    max_size=30,
)


class Random:
    """Turns drawn steps into writes that the port allows; nothing in them need make sense."""

    def __init__(self) -> None:
        self.model = Model()
        self._made = 0

    def header(self, root: bytes) -> BlockHeader:
        return BlockHeader(1, CHAIN, len(self.model.blocks), CHAIN, 0, "", 0, root, *[CHAIN] * 4)

    def write(self, kind: str, first: object, second: object) -> Write:
        self._made += 1
        id = digest("tests", self._made.to_bytes(8, "big"))
        match kind, first, second:
            case "batch", int(number), int(height):
                # Few numbers, so that one batch comes again.
                id = digest("tests-batch", bytes([number]))
                write: Write = WriteBatch(CheckedBatch(id, id, "a", number, height, CHAIN, ()))
                if id in self.model.batches:
                    write = WriteBatch(self.model.batches[id])
            case "promise", bool(with_block), int(above):
                height = len(self.model.blocks) + above
                block = Block(self.header(id), id) if with_block else None
                certificate = None if with_block else Certificate(2, height, 0, id, ())
                signed = Signed("a", Prepare(height, 0, id), bytes(64))
                write = WritePromise(height, Persist(signed, certificate, block))
            case "block", StateChanges() as changed, int(count):
                write = self._block(id, changed, count)
            case _:
                raise AssertionError(kind)
        self.model.apply([write])
        return write

    def _block(self, id: bytes, changed: StateChanges, count: int) -> Write:
        header = self.header(id)
        if not self.model.blocks:
            return WriteGenesis(header, changed)
        certificate = Certificate(int(Phase.COMMIT), header.height, 0, header.hash(), ())
        listed = [self.model.batches[id] for id in list(self.model.undecided)[:count]]
        ids = [digest("tests-transaction", id + bytes([n])) for n in range(3)]
        return WriteBlock(
            Decision(Block(header, id), certificate),
            listed,
            [Receipt(i, n, 0) for n, i in enumerate(ids)],
            ids,
            range(count + 1),
            sorted(digest("tests-chain", bytes([n])) for n in range(count)),
            changed,
        )


@settings(max_examples=40)
@given(steps)
async def test_readers_equal_a_model_in_dictionaries(
    drawn: list[tuple[str, object, object]],
) -> None:
    random = Random()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.recent, "STEP_BLOCKS", 2)
        # Memory for fewer keys than there are.
        patch.setattr(storage.reader, "VALUES_CACHED_MAX", 3)
        patch.setattr(storage.reader, "NODES_CACHED_MAX", 2)
        patch.setattr(storage.reader, "KEYS_ASKED_MIN", 1)
        path = Path(directory) / "db"
        async with opened(path) as database:
            with reading(path) as plain, reading(path, cached=True) as cached:
                waiting: list[Write] = []
                for kind, first, second in [*drawn, ("commit", None, None)]:
                    if kind != "commit":
                        waiting.append(random.write(kind, first, second))
                        continue
                    await database.write(waiting)
                    cached.written(waiting)
                    waiting = []
                    check_equal(plain, random.model)
                    check_equal(cached, random.model)
                    for key in (b"", b"a", b"\x00", b"\x01"):
                        assert cached.value(key) == random.model.value(key)
                    for path_ in (b"", b"\x00", b"\x01", b"\2" * 40):
                        assert cached.node(path_) == random.model.node(path_)
                    several = [b"", b"\x00", b"\x01", b"\2" * 40]
                    assert cached.nodes_at(several) == random.model.nodes_at(several)


# ---- memory --------------------------------------------------------------------------------------


async def test_a_cached_reader_answers_from_memory_and_never_with_what_was(tmp_path: Path) -> None:
    path = tmp_path / "db"
    random = Random()
    async with opened(path) as database:
        with reading(path, cached=True) as reader:
            first = random.write("block", StateChanges({b"a": b"1"}, {b"\1": b"1"}, b""), 0)
            await database.write([first])
            assert (reader.value(b"a"), reader.node(b"\1")) == (b"1", b"1")
            assert (reader.value(b"b"), reader.node(b"\2")) == (None, None)
            # A change behind its back shows that it remembers, absence too.
            await database.flush()
            with sqlite3.connect(derived_path(path)) as other:
                other.execute("UPDATE state_value SET value = x'ff'")
                other.execute("UPDATE node SET node = x'ff'")
                other.execute("INSERT INTO state_value VALUES (NULL, CAST('b' AS BLOB), x'ff')")
                other.execute("INSERT INTO node VALUES (?, x'ff')", (place(b"\2"),))
            other.close()
            assert (reader.value(b"a"), reader.node(b"\1")) == (b"1", b"1")
            assert (reader.value(b"b"), reader.node(b"\2")) == (None, None)
            both = {b"a": b"2", b"b": b"2"}, {b"\1": b"2", b"\2": b"2"}
            second = random.write("block", StateChanges(*both, b""), 0)
            await database.write([second])
            reader.written([second])
            assert (reader.value(b"a"), reader.node(b"\1")) == (b"2", b"2")
            assert (reader.value(b"b"), reader.node(b"\2")) == (b"2", b"2")


async def test_a_reader_without_memory_sees_every_commit_unasked(tmp_path: Path) -> None:
    path = tmp_path / "db"
    random = Random()
    async with opened(path) as database:
        with reading(path) as reader:
            for number in (b"1", b"2"):
                changed = StateChanges({b"a": number}, {b"\1": number}, b"")
                await database.write([random.write("block", changed, 0)])
                assert (reader.value(b"a"), reader.node(b"\1")) == (number, number)


@pytest.mark.parametrize("count", [KEYS_ASKED_MIN - 1, KEYS_ASKED_MIN, 2 * KEYS_ASKED + 1])
async def test_many_values_are_read_in_few_statements(tmp_path: Path, count: int) -> None:
    path = tmp_path / "db"
    random = Random()
    keys = [b"%d" % number for number in range(count)]
    values = {key: b"held " + key for key in keys[::2]}
    async with opened(path) as database:
        await database.write([random.write("block", StateChanges(values, {b"\1": b"1"}, b""), 0)])
        await database.flush()
        with reading(path, cached=True) as reader:
            statements: list[str] = []
            reader._connection.set_trace_callback(statements.append)
            assert reader.held(keys) == values
            assert len(statements) == (count if count < KEYS_ASKED_MIN else 1 + count // KEYS_ASKED)
            statements.clear()
            assert {key: reader.value(key) for key in values} == values
            assert statements == []


@pytest.mark.parametrize("count", [KEYS_ASKED_MIN - 1, KEYS_ASKED_MIN, 2 * KEYS_ASKED + 1])
async def test_many_nodes_are_read_in_few_statements(tmp_path: Path, count: int) -> None:
    path = tmp_path / "db"
    random = Random()
    paths = [bytes(int(nibble, 16) for nibble in f"{number:05x}") for number in range(count)]
    nodes = {at: b"at " + at for at in paths[::2]} | {bytes(NIBBLES_MAX + 1): b"deep"}
    async with opened(path) as database:
        await database.write([random.write("block", StateChanges({b"a": b"1"}, nodes, b""), 0)])
        await database.flush()
        with reading(path, cached=True) as reader:
            statements: list[str] = []
            reader._connection.set_trace_callback(statements.append)
            assert reader.nodes_at([*paths, *nodes]) == nodes
            alone = count if count < KEYS_ASKED_MIN else 1 + count // KEYS_ASKED
            assert len(statements) <= 1 + alone
            statements.clear()
            assert {at: reader.node(at) for at in nodes} == nodes
            assert statements == []


async def test_a_node_of_another_type_is_damage_among_many(tmp_path: Path) -> None:
    path = tmp_path / "db"
    random = Random()
    nodes = {bytes([number % 16, number // 16]): b"1" for number in range(KEYS_ASKED_MIN)}
    async with opened(path) as database:
        await database.write([random.write("block", StateChanges({b"a": b"1"}, nodes, b""), 0)])
        await database.flush()
        with sqlite3.connect(derived_path(path)) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute("UPDATE node SET node = 7 WHERE place = ?", (place(b"\1\1"),))
        other.close()
        with (
            reading(path, cached=True) as reader,
            pytest.raises(StorageError, match="bytes of a row cannot be read"),
        ):
            reader.nodes_at(list(nodes))


async def test_a_value_of_another_type_is_damage_among_many(tmp_path: Path) -> None:
    path = tmp_path / "db"
    random = Random()
    values = {b"%d" % number: b"1" for number in range(KEYS_ASKED_MIN)}
    async with opened(path) as database:
        await database.write([random.write("block", StateChanges(values, {b"\1": b"1"}, b""), 0)])
        await database.flush()
        with sqlite3.connect(derived_path(path)) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute("UPDATE state_value SET value = 7 WHERE key = CAST('9' AS BLOB)")
        other.close()
        with (
            reading(path, cached=True) as reader,
            pytest.raises(StorageError, match="bytes of a row cannot be read"),
        ):
            reader.held(list(values))


async def test_reads_of_one_turn_share_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "db"
    random = Random()
    async with opened(path) as database:
        first = random.write("block", StateChanges({b"a": b"1"}, {b"\1": b"1"}, b""), 0)
        await database.write([first])
        await database.flush()
        with reading(path, cached=True) as reader:
            statements: list[str] = []
            reader._connection.set_trace_callback(statements.append)
            with reader.steady():
                assert (reader.value(b"a"), reader.node(b"\1")) == (b"1", b"1")
                assert (reader.value(b"b"), reader.node(b"\2")) == (None, None)
            begun = [each.split()[0] for each in statements]
            assert begun == ["BEGIN", "SELECT", "SELECT", "SELECT", "SELECT", "ROLLBACK"]
            statements.clear()
            with reader.steady():
                assert (reader.value(b"a"), reader.value(b"b")) == (b"1", None)
            assert statements == []
            second = random.write("block", StateChanges({b"c": b"2"}, {b"\2": b"2"}, b""), 0)
            await database.write([second])
            reader.written([second])
            with reader.steady():
                assert (reader.value(b"c"), reader.node(b"\2")) == (b"2", b"2")


# ---- snapshots -----------------------------------------------------------------------------------


async def test_a_snapshot_holds_still_while_blocks_are_committed(tmp_path: Path) -> None:
    path = tmp_path / "db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        with reading(path) as reader:
            before = {key: reader.value(key) for key in ledger.model.values}
            with reader.snapshot() as held:
                await database.write([ledger.decide([ledger.batch()])])
                assert held.head_height() == 0
                assert {key: held.value(key) for key in before} == before
                assert reader.node(b"") != ledger.model.nodes[b""]
            check_equal(reader, ledger.model)
            with reader.snapshot() as held:
                check_equal(held, ledger.model)


async def test_a_snapshot_ends_with_an_error_inside_it(tmp_path: Path) -> None:
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id) as database:
        with reading(tmp_path / "db") as reader:
            with pytest.raises(KeyError), reader.snapshot():
                raise KeyError
            await database.write([ledger.begin()])
            assert reader.head_height() == 0


async def test_snapshots_are_neither_nested_nor_cached(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        with (
            reading(tmp_path / "db") as plain,
            plain.snapshot(),
            pytest.raises(RuntimeError, match="in a snapshot"),
            plain.snapshot(),
        ):
            pass
        with (
            reading(tmp_path / "db", cached=True) as cached,
            pytest.raises(RuntimeError, match="a cached reader"),
            cached.snapshot(),
        ):
            pass


# ---- errors --------------------------------------------------------------------------------------


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "db"):
        with reading(tmp_path / "db") as reader:
            for sql in ("DELETE FROM meta", "PRAGMA query_only = OFF; DELETE FROM meta"):
                with pytest.raises((StorageError, sqlite3.Warning)):
                    reader.rows(sql)
            reader.rows("PRAGMA query_only = OFF")
            with pytest.raises(StorageError, match="cannot be written"):
                reader.rows("DELETE FROM meta")


async def test_only_files_of_this_program_and_version_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "theirs")
    other.execute("CREATE TABLE meta (chain_id)")
    other.close()
    with pytest.raises(StorageError, match="was not made by this program"):
        SqliteReader(tmp_path / "theirs")
    (tmp_path / "nonsense").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StorageError, match="is not a database"):
        SqliteReader(tmp_path / "nonsense")
    async with opened(tmp_path / "db"):
        monkeypatch.setattr(storage.schema, "SCRIPTS", (*storage.schema.SCRIPTS, "next.sql"))
        with pytest.raises(StorageError, match=r"by an older version .* Start the node once"):
            SqliteReader(tmp_path / "db")


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        SqliteReader(tmp_path / "db")
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    "column", ["block.header", "block.certificate", "block.receipts", "promise.signed"]
)
@pytest.mark.parametrize("spoilt", ["x'c1'", "7"])
async def test_what_cannot_be_decoded_is_damage(tmp_path: Path, column: str, spoilt: str) -> None:
    path = tmp_path / "db"
    ledger = Ledger(make_genesis())
    table, name = column.split(".")
    async with opened(path, ledger.chain_id) as database:
        writes: list[Write] = [ledger.begin()]
        batch = ledger.batch()
        writes.append(ledger.decide([batch]))
        writes += ledger.round([ledger.batch()])
        await database.write(writes)
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute(f"UPDATE {table} SET {name} = {spoilt}")
        other.close()
        with reading(path) as reader, pytest.raises(StorageError, match=r"damaged: the .* cannot"):
            (reader.header(1), reader.decision(1), reader.receipts(1), reader.promises(2))


async def test_a_promise_whose_block_is_lost_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin(), *ledger.round([ledger.batch()])])
        with sqlite3.connect(path) as other:
            other.execute("DELETE FROM proposal")
        other.close()
        with reading(path) as reader, pytest.raises(StorageError, match="is lost"):
            reader.promises(1)
