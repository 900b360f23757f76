"""Verification passes what is sound and finds any flipped bit, whichever table holds it."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from consensus.messages import Justification, PrePrepare, ViewChange, ViewChangeSignature, sign
from ledger.changes import RotateKey, possession_digest
from ledger.operations import ApproveChange, ProposeChange
from ledger.standing import proposal_id
from ledger.state import members
from ledger.store import WriteBatch
from primitives.keys import PrivateKey
from storage.database import StorageError
from storage.errors import DamagedError, derived_path
from storage.verify import Progress, verify_chain
from tests.storage.support import KEYS, Ledger, make_genesis
from tests.storage.test_reader import opened

NEW_KEY = PrivateKey(bytes([7]) * 32)

BLOCKS = 4
TABLES = (
    "main.meta derived.meta block batch batch_body run page state_value node promise proposal "
    "sqlite_sequence"
).split()
COLUMNS = (
    "main.meta.chain_id main.meta.boots main.meta.restored main.meta.seal "
    "derived.meta.chain_id derived.meta.height derived.meta.hash "
    "block.hash block.header block.certificate block.payload block.receipts batch.id "
    "batch.author batch.sequence batch.valid_until_height batch.height batch_body.raw "
    "run.height run.rows page.run page.first page.rows state_value.key state_value.value "
    "node.place node.node promise.height promise.signed promise.prepared promise.block_hash "
    "proposal.hash proposal.height proposal.block"
).split()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ledger]:
    """A ledger with decided blocks, a height in progress and a batch that waits."""
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    ledger = Ledger()
    asyncio.run(_fill(path, ledger))
    return path, ledger


async def _fill(path: Path, ledger: Ledger) -> None:
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        for _ in range(BLOCKS):
            batches = [ledger.batch(), ledger.batch(3)]
            await database.write(ledger.round(batches))
            await database.write([ledger.decide(batches)])
        await database.write([*ledger.round([ledger.batch()]), WriteBatch(ledger.batch())])


@pytest.fixture
def copy(sound: tuple[Path, Ledger], tmp_path: Path) -> Path:
    for file in sound[0].parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / sound[0].name


def run(path: Path, ledger: Ledger, *, check_signatures: bool = True) -> list[Progress]:
    return list(verify_chain(path, ledger.genesis, check_signatures=check_signatures))


@contextmanager
def both(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the ledger's file and the derived one."""
    connection = sqlite3.connect(path)
    connection.execute("ATTACH ? AS derived", (str(derived_path(path)),))
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def change(path: Path, sql: str, *parameters: object) -> int:
    """Change the files behind the node's back; return how many rows."""
    with both(path) as connection:
        return connection.execute(sql, parameters).rowcount


def column(path: Path, sql: str) -> list[bytes]:
    with both(path) as connection:
        return [row[0] for row in connection.execute(sql)]


def dump(path: Path) -> list[object]:
    """Every row of every table."""
    with both(path) as connection:
        return [sorted(map(repr, connection.execute(f"SELECT * FROM {t}"))) for t in TABLES]


def contents(path: Path) -> dict[Path, bytes]:
    """Both files."""
    return {file: file.read_bytes() for file in (path, derived_path(path))}


def put_back(whole: dict[Path, bytes]) -> None:
    for file, content in whole.items():
        file.write_bytes(content)


@pytest.mark.parametrize("check_signatures", [True, False])
def test_a_sound_database_passes(
    copy: Path, sound: tuple[Path, Ledger], check_signatures: bool
) -> None:
    steps = run(copy, sound[1], check_signatures=check_signatures)
    assert [step.height for step in steps] == [*range(BLOCKS + 1), BLOCKS]
    assert [step.complete for step in steps] == [False] * (BLOCKS + 1) + [True]
    assert steps[-1].transactions == BLOCKS * 5
    assert all(step.head_height == BLOCKS for step in steps)


def test_a_backup_of_the_ledger_alone_is_checked(copy: Path, sound: tuple[Path, Ledger]) -> None:
    derived_path(copy).unlink()
    assert run(copy, sound[1])[-1] == run(sound[0], sound[1])[-1]
    assert not derived_path(copy).exists()
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("UPDATE block SET receipts = x'90' WHERE height = 3")
    with pytest.raises(DamagedError, match=r"at height 3: the receipts"):
        run(copy, sound[1])


@pytest.mark.parametrize("check_signatures", [True, False])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_flipped_bit_is_found(
    copy: Path, sound: tuple[Path, Ledger], column: str, check_signatures: bool
) -> None:
    """In the first and the last byte of some rows of every column."""
    table, _, name = column.rpartition(".")
    where = f"SELECT rowid, {name} FROM {table} WHERE {name} IS NOT NULL AND {name} <> x''"
    with both(copy) as connection:
        rows = connection.execute(where).fetchall()
    chance = random.Random(column)
    whole = contents(copy)
    for row, old in [rows[0], rows[-1], chance.choice(rows)]:
        for place in (0, -1):
            new: object
            if isinstance(old, bytes):
                changed = bytearray(old)
                # Not a lower bit of a path: that is the path of its neighbour.
                changed[place] ^= 1 << chance.randrange(4, 8)
                new = bytes(changed)
            else:
                new = old[:-1] + "z" if isinstance(old, str) else old ^ 1
            put_back(whole)
            update = f"UPDATE {table} SET {name} = ? WHERE rowid = ? AND {name} = ?"
            assert change(copy, update, new, row, old)
            kind = StorageError if column == "main.meta.chain_id" else DamagedError
            with pytest.raises(kind, match=r"is damaged|holds the ledger"):
                run(copy, sound[1], check_signatures=check_signatures)


@pytest.mark.parametrize("table", TABLES)
def test_a_lost_row_is_found(copy: Path, sound: tuple[Path, Ledger], table: str) -> None:
    whole = contents(copy)
    for extreme in ("MIN", "MAX"):
        put_back(whole)
        assert change(
            copy, f"DELETE FROM {table} WHERE rowid = (SELECT {extreme}(rowid) FROM {table})"
        )
        with pytest.raises(DamagedError):
            run(copy, sound[1])


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM run",
        "DELETE FROM page",
        "DELETE FROM state_value",
        "UPDATE node SET node = 1",
        "INSERT INTO page VALUES (NULL, 1, randomblob(25), x'00')",
        "UPDATE page SET rows = x''",
        "UPDATE derived.meta SET height = 1",
        "DROP TABLE state_value",
    ],
)
def test_what_can_be_made_anew_is_not_put_down_to_the_ledger(
    copy: Path, sound: tuple[Path, Ledger], sql: str
) -> None:
    with both(copy) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(sql)
    with pytest.raises(StorageError) as caught:
        run(copy, sound[1])
    assert str(derived_path(copy)) in str(caught.value)


def test_a_tree_that_cannot_be_followed_is_put_down_to_its_own_file(
    copy: Path, sound: tuple[Path, Ledger]
) -> None:
    whole = contents(copy)
    for file in whole:
        put_back(whole)
        spoilt = bytearray(whole[file])
        for page in range(4096, len(spoilt), 4096):
            spoilt[page : page + 8] = bytes(8)
        file.write_bytes(spoilt)
        with pytest.raises(DamagedError) as caught:
            run(copy, sound[1])
        assert caught.value.path == file


def test_a_lost_promise_is_found(copy: Path, sound: tuple[Path, Ledger]) -> None:
    whole = contents(copy)
    for number in (0, 1, 2, 3):
        put_back(whole)
        first = "(SELECT MIN(number) FROM promise)"
        assert change(copy, f"DELETE FROM promise WHERE number = {first} + {number}")
        with pytest.raises(DamagedError):
            run(copy, sound[1])


@pytest.mark.parametrize(
    "insertion",
    [
        "INSERT INTO page SELECT NULL, run, randomblob(25), rows FROM page",
        "INSERT INTO page SELECT NULL, 99, first, rows FROM page",
        "UPDATE page SET rows = CAST(rows || substr(rows, -25) AS BLOB)",
        "INSERT INTO state_value VALUES (NULL, randomblob(32), x'00')",
        "INSERT INTO node VALUES (1 << 50, x'00')",
        "INSERT INTO deep_node VALUES (randomblob(19), x'00')",
        "INSERT INTO deep_node VALUES (randomblob(9), x'00')",
        "INSERT INTO batch_body VALUES (1000, x'00')",
        "INSERT INTO batch VALUES (1000, randomblob(32), 'alpha', 1, 1, 1)",
        "INSERT INTO batch VALUES (1000, randomblob(32), 'alpha', 1, 1, NULL)",
        "INSERT INTO promise SELECT number + 10, height, signed, prepared, block_hash FROM promise",
        "INSERT INTO promise SELECT number + 10, 1, signed, prepared, block_hash FROM promise",
        "INSERT INTO proposal SELECT randomblob(32), height, block FROM proposal",
        (
            "INSERT INTO block SELECT 5, x'00', header, certificate, payload, receipts FROM block"
            " WHERE height = 4"
        ),
        "UPDATE sqlite_sequence SET seq = 0",
    ],
)
def test_a_row_too_many_is_found(copy: Path, sound: tuple[Path, Ledger], insertion: str) -> None:
    assert change(copy, insertion)
    with pytest.raises(DamagedError):
        run(copy, sound[1])


def test_the_height_of_the_damage_is_named(copy: Path, sound: tuple[Path, Ledger]) -> None:
    change(copy, "UPDATE block SET receipts = x'90' WHERE height = 3")
    with pytest.raises(DamagedError, match=r"at height 3: the receipts .* Stop") as caught:
        run(copy, sound[1])
    assert caught.value.height == 3


def test_a_forged_certificate_is_found(copy: Path, sound: tuple[Path, Ledger]) -> None:
    """A certificate of another height is well signed, but not for this block."""
    change(
        copy,
        "UPDATE block SET certificate = (SELECT certificate FROM block WHERE height = 1)"
        " WHERE height = 2",
    )
    with pytest.raises(DamagedError, match="at height 2: the certificate"):
        run(copy, sound[1])


def test_a_block_without_certificate_is_found(copy: Path, sound: tuple[Path, Ledger]) -> None:
    change(copy, "UPDATE block SET certificate = NULL WHERE height = 2")
    with pytest.raises(DamagedError, match="at height 2: the block has no certificate"):
        run(copy, sound[1])


async def test_the_reasons_for_a_later_view_are_checked(tmp_path: Path) -> None:
    """A PRE-PREPARE's signature does not cover its justification."""
    path = tmp_path / "db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        block = ledger.execute([ledger.batch()]).block
        asked = [
            sign(ledger.chain_id, name, key, ViewChange(1, 1, None))
            for name, key in sorted(KEYS.items())
        ]
        justification = Justification(
            tuple(ViewChangeSignature(s.signer, None, s.signature) for s in asked), None
        )
        await database.write(
            [
                ledger.promise(ViewChange(1, 1, None)),
                ledger.promise(PrePrepare(1, 1, block, justification)),
            ]
        )
    assert run(path, ledger)[-1].complete
    (signed,) = column(path, "SELECT signed FROM promise ORDER BY number DESC LIMIT 1")
    place = signed.index(asked[1].signature)
    spoilt = signed[:place] + bytes(64) + signed[place + 64 :]
    change(path, "UPDATE promise SET signed = ? WHERE signed = ?", spoilt, signed)
    with pytest.raises(DamagedError, match="signature of beta does not verify"):
        run(path, ledger)


def test_another_ledgers_database_is_refused(copy: Path) -> None:
    with pytest.raises(StorageError, match=r"holds the ledger .* Use the genesis file"):
        run(copy, Ledger(make_genesis("Another")))


def test_a_file_that_is_no_database(tmp_path: Path, sound: tuple[Path, Ledger]) -> None:
    (tmp_path / "db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StorageError, match="it is not a database"):
        run(tmp_path / "db", sound[1])
    with pytest.raises(StorageError, match="it cannot be opened"):
        run(tmp_path / "none", sound[1])


async def test_an_empty_database_holds_no_ledger(tmp_path: Path) -> None:
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id):
        with pytest.raises(DamagedError, match="no block, not even"):
            run(tmp_path / "db", ledger)


async def test_it_runs_beside_the_node(tmp_path: Path) -> None:
    """Blocks that are decided meanwhile are verified too."""
    path = tmp_path / "db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        await database.write([ledger.decide([ledger.batch()])])
        heights = []
        for step in verify_chain(path, ledger.genesis):
            heights.append(step.height)
            if ledger.height < 3:
                await database.write([ledger.decide([ledger.batch()])])
                await database.write(ledger.round([ledger.batch()]))
        assert heights == [0, 1, 2, 3, 3]


def test_any_damage_to_the_file_is_found_or_changes_nothing(
    copy: Path, sound: tuple[Path, Ledger]
) -> None:
    """Bits flipped anywhere in the file: where any row reads otherwise, verification fails."""
    whole = contents(copy)
    before = dump(copy)
    chance = random.Random(11)
    found = 0
    for _ in range(80):
        put_back(whole)
        file = chance.choice(list(whole))
        spoilt = bytearray(whole[file])
        place = chance.randrange(len(spoilt))
        spoilt[place] ^= 1 << chance.randrange(8)
        file.write_bytes(spoilt)
        try:
            run(copy, sound[1], check_signatures=False)
        except StorageError:
            found += 1
        else:
            assert dump(copy) == before, f"a bit of byte {place} of {file} was not found"
    assert found > 10


async def test_a_rotated_key_does_not_make_old_blocks_wrong(tmp_path: Path) -> None:
    """Blocks and waiting batches from before belong to their author's key of then."""
    path = tmp_path / "ledger.db"
    ledger = Ledger()
    async with opened(path, ledger.chain_id) as database:
        await database.write([ledger.begin()])
        alpha = members(ledger.model)[0]
        renewed = msgspec.structs.replace(alpha, key=NEW_KEY.public)
        possession = NEW_KEY.sign(possession_digest(ledger.chain_id, renewed))
        change = RotateKey("alpha", NEW_KEY.public, possession)
        proposed = ledger.transaction(ProposeChange(change, 3))
        approval = ApproveChange(proposal_id(proposed.id, 0))
        approvals = [ledger.transaction(approval, author=name) for name in ("beta", "gamma")]
        waiting = ledger.batch()
        await database.write([WriteBatch(waiting)])
        for transactions in ([proposed], approvals):
            await database.write([ledger.decide([ledger.seal(transactions)])])
        ledger.keys["alpha"] = NEW_KEY
        batches = [ledger.batch()]
        await database.write(ledger.round(batches))
        await database.write([ledger.decide(batches), WriteBatch(ledger.batch())])
    assert members(ledger.model)[0].key == NEW_KEY.public
    for check_signatures in (True, False):
        *_, last = verify_chain(path, ledger.genesis, check_signatures=check_signatures)
        assert last.complete
    # What nobody ever had the key for is not waiting: it is damage.
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM batch WHERE id = ?", (waiting.id,))
    ledger.keys["alpha"] = PrivateKey(bytes([8]) * 32)
    async with opened(path, ledger.chain_id) as database:
        await database.write([WriteBatch(ledger.batch())])
    with pytest.raises(DamagedError, match="not signed with the key of alpha"):
        list(verify_chain(path, ledger.genesis))
