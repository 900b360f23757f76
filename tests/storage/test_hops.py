"""Which writes are performed on the loop's thread, and which on the writer's."""

import asyncio
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.database import Database
from storage.hops import SMALL_BYTES_MAX, STILL_SECONDS_MAX, Hops
from storage.statements import Statement
from storage.writer import Writer
from tests.storage.support import Ledger
from tests.storage.test_reader import check_equal, opened, reading


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread of each transaction. However slow the disk is, it counts as quick."""
    found: list[int] = []
    original = Writer.transact

    def transact(writer: Writer, transaction: Sequence[Statement]) -> None:
        found.append(threading.get_ident())
        original(writer, transaction)

    monkeypatch.setattr(Writer, "transact", transact)
    monkeypatch.setattr("storage.hops.STILL_SECONDS_MAX", math.inf)
    return found


@pytest.fixture
async def begun(tmp_path: Path, threads: list[int]) -> AsyncIterator[tuple[Database, Ledger]]:
    """A database that has its genesis and no transaction in `threads`, and its ledger; at the end
    it must hold what the ledger does.
    """
    ledger = Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        threads.clear()
        yield database, ledger
        with reading(tmp_path / "db") as reader:
            check_equal(reader, ledger.model)


async def test_small_writes_need_no_hop_and_large_ones_do(
    begun: tuple[Database, Ledger], threads: list[int]
) -> None:
    here, (database, ledger) = threading.get_ident(), begun
    await database.write([ledger.decide([ledger.batch()])])
    assert threads == [here]
    large = ledger.batch(SMALL_BYTES_MAX // 100)
    assert len(large.raw) > SMALL_BYTES_MAX
    await database.write([ledger.decide([large])])
    assert len(threads) == 2
    assert here not in threads[1:]


async def test_a_small_write_behind_a_large_one_keeps_its_turn(
    begun: tuple[Database, Ledger], threads: list[int]
) -> None:
    here, (database, ledger) = threading.get_ident(), begun
    large = [ledger.decide([ledger.batch(SMALL_BYTES_MAX // 100)])]
    small = [ledger.decide([ledger.batch()])]
    await asyncio.gather(database.write(large), database.write(small))
    assert len(threads) == 2
    assert here not in threads


async def test_a_small_write_waits_for_a_checkpoint_on_the_thread(
    tmp_path: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.WAL_BYTES", 0)
    here, ledger = threading.get_ident(), Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        await database.checkpointed()
        threads.clear()
        await database.write([ledger.decide([ledger.batch()])])
        # The checkpoint is queued, and has not begun.
        await database.write([ledger.decide([ledger.batch()])])
        assert len(threads) == 2
        assert threads[0] == here != threads[1]
        with reading(tmp_path / "db") as reader:
            check_equal(reader, ledger.model)


async def test_each_commit_is_timed_on_both_threads(
    tmp_path: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, ledger = threading.get_ident(), Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        threads.clear()
        monkeypatch.setattr("storage.hops.STILL_SECONDS_MAX", 0.0)
        await database.write([ledger.decide([ledger.batch()])])
        slow = database._hops._usual_s
        monkeypatch.setattr("storage.writer.time", SimpleNamespace(perf_counter=lambda: 1.0))
        await database.write([ledger.decide([ledger.batch()])])
        assert here not in threads
        assert 0 < database._hops._usual_s < slow


async def test_the_loop_waits_for_no_other_programs_lock(
    tmp_path: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, ledger = threading.get_ident(), Ledger()
    async with opened(tmp_path / "db", ledger.chain_id, ledger.genesis) as database:
        await database.write([ledger.begin()])
        other = sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False)
        original = Writer.commit

        def commit(writer: Writer) -> None:
            if other.in_transaction:
                other.execute("ROLLBACK")
            original(writer)

        monkeypatch.setattr(Writer, "commit", commit)
        # What the thread has waited for, the loop does not wait for the next time either.
        for _ in range(2):
            threads.clear()
            other.execute("BEGIN IMMEDIATE")
            await database.write([ledger.decide([ledger.batch()])])
            await database.write([ledger.decide([ledger.batch()])])
            assert len(threads) == 3
            assert threads[0] == threads[2] == here != threads[1]
        with reading(tmp_path / "db") as reader:
            check_equal(reader, ledger.model)
    other.close()


def test_a_slow_disk_is_left_to_the_thread_until_it_is_quick_again() -> None:
    hops = Hops()
    assert not hops.needed([])
    while not hops.needed([]):
        hops.took(STILL_SECONDS_MAX * 2)
    while hops.needed([]):
        hops.took(STILL_SECONDS_MAX / 10)


def test_one_slow_commit_is_forgiven() -> None:
    hops = Hops()
    hops.took(STILL_SECONDS_MAX * 4)
    assert not hops.needed([])
