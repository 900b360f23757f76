"""What storing costs: processor time per transaction, by part, as the ledger grows.

    python -m storage.cost [--sizes 10000,100000,1000000] [--block 500] [--directory DIR]

Each transaction is what a RegisterRecord makes of the state: a new chain for the record, new heads
for the chains of one of 10,000 persons and of one of four institutions. Nothing is signed or
executed. The trie, its reads, receipts and batches are the real ones, and so are the rows. A
ledger is filled in large blocks; then blocks of the size asked for are measured, and the step that
writes what follows from them. docs/adr/0019 holds the figures and what they led to.

Processor time depends on who else uses the machine's caches: compare within one run, or runs that
alternate.
"""

import argparse
import asyncio
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consensus.messages import Certificate, Decision, Phase
from ledger.operations import Labels
from ledger.receipts import Receipt
from ledger.state import ChainHead, Entity, Member, Person, Record, chain_key
from ledger.store import Write, WriteBatch, WriteBlock, WriteGenesis
from ledger.transactions import CheckedBatch
from ledger.trie import foresee, update
from primitives.block import Block, BlockHeader
from primitives.codec import encode
from storage.database import Database
from storage.reader import SqliteReader

CHAIN_ID: Final = bytes(32)
PERSONS: Final = 10_000
INSTITUTIONS: Final = 4
TRANSACTION_BYTES: Final = 300
BATCH_TRANSACTIONS: Final = 100
FILLING_TRANSACTIONS: Final = 10_000
"""In a block that only makes the ledger longer."""
MEASURED_TRANSACTIONS: Final = 24_000
"""About what one step holds that is written to the derived file."""
LABELS: Final = Labels("imaging", "normal", "CN", "pacs", "checked")


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor time per transaction once there are `transactions`."""

    transactions: int
    write: float
    """Of the whole process while it writes, checkpoints included."""
    loop: float
    """What part of `write` the thread of the event loop pays."""
    read: float
    """For what the memory of the cached reader does not hold."""
    slowest_write_ms: float
    """Time on the wall of a block with its promised batches, without checkpoint."""
    disk_bytes: float
    """Bytes of the files per transaction."""


class Load:
    """Makes blocks, one on the other."""

    def __init__(self) -> None:
        self.count = 0
        """Transactions so far."""
        self._height = -1
        self._batches = 0

    def genesis(self, reader: SqliteReader) -> WriteGenesis:
        """The block that enrols everybody."""
        values: dict[bytes, bytes] = {}
        for number in range(PERSONS):
            id = _hash("person", number)
            values[chain_key(id)] = encode(ChainHead(1, bytes(32), Person(id, "patient", "h")))
        changes = update(reader, values)
        return WriteGenesis(self._header(changes.root), changes)

    def block(self, reader: SqliteReader, transactions: int) -> tuple[list[Write], list[Write]]:
        """What the next block writes: its batches first, then the block."""
        numbers = range(self.count, self.count + transactions)
        heads: dict[bytes, Entity] = {}
        for number in numbers:
            custodian = f"hospital-{number % INSTITUTIONS}"
            subject = _hash("person", int.from_bytes(_hash("draw", number)[:8], "big") % PERSONS)
            commitment = _hash("commitment", number)
            heads[_hash("record", number)] = Record(commitment, LABELS, custodian, subject)
            heads[subject] = Person(subject, "patient", custodian)
            heads[_hash(custodian, 0)] = Member(custodian)
        accumulated = _hash("accumulated", self._height)
        values = {chain_key(c): encode(ChainHead(1, accumulated, e)) for c, e in heads.items()}
        with reader.steady():
            foreseen = foresee(reader, list(values))
            reader.held(foreseen.present)
            changes = update(reader, values, foreseen)
        batches = [self._batch(n) for n in range(0, transactions, BATCH_TRANSACTIONS)]
        block = Block(self._header(changes.root), encode(tuple(batch.id for batch in batches)))
        height = block.header.height
        certificate = Certificate(int(Phase.COMMIT), height, 0, block.hash, ())
        ids = [_hash("transaction", number) for number in numbers]
        self.count += transactions
        write = WriteBlock(
            Decision(block, certificate),
            batches,
            [Receipt(id, 0, 0) for id in ids],
            ids,
            range(transactions),
            sorted(heads),
            changes,
        )
        return [WriteBatch(batch) for batch in batches], [write]

    def _header(self, root: bytes) -> BlockHeader:
        self._height += 1
        return BlockHeader(1, CHAIN_ID, self._height, CHAIN_ID, 0, "", 0, root, *[CHAIN_ID] * 4)

    def _batch(self, salt: int) -> CheckedBatch:
        self._batches += 1
        id = _hash(f"batch {salt}", self._batches)
        raw = id * (TRANSACTION_BYTES * BATCH_TRANSACTIONS // len(id))
        return CheckedBatch(id, raw, "hospital-0", self._batches, 1 << 40, CHAIN_ID, ())


class TimedReader(SqliteReader):
    """A cached reader that adds up what its queries cost its thread."""

    seconds = 0.0

    def _row(self, sql: str, *parameters: object) -> Any:
        begun = time.thread_time()
        try:
            return super()._row(sql, *parameters)
        finally:
            self.seconds += time.thread_time() - begun

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return all rows of a query."""
        begun = time.thread_time()
        try:
            return super().rows(sql, *parameters)
        finally:
            self.seconds += time.thread_time() - begun


async def measure(directory: Path, sizes: Sequence[int], block: int) -> list[Cost]:
    """Fill a database in `directory` and measure at each of `sizes`, ascending."""
    path = directory / "ledger.db"
    load = Load()
    database = await Database.open(path, CHAIN_ID)
    reader = TimedReader(path, database.recent, cached=True)
    try:
        await _write(database, reader, [load.genesis(reader)])
        costs = []
        for size in sizes:
            blocks = max(1, min(MEASURED_TRANSACTIONS, size - load.count) // block)
            begin = size - blocks * block
            while load.count < begin:
                some = min(FILLING_TRANSACTIONS, begin - load.count)
                batches, write = load.block(reader, some)
                await _write(database, reader, [*batches, *write])
            await database.flush()
            costs.append(await _cost(directory, database, reader, load, blocks, block))
        return costs
    finally:
        reader.close()
        await database.close()


async def _cost(
    directory: Path,
    database: Database,
    reader: TimedReader,
    load: Load,
    blocks: int,
    block: int,
) -> Cost:
    write = loop = read = slowest = 0.0
    for _ in range(blocks):
        reader.seconds = 0.0
        batches, writes = load.block(reader, block)
        read += reader.seconds
        process, thread, wall = _processor(), time.thread_time(), time.perf_counter()
        for some in (batches, writes):
            await database.write(some)
            reader.written(some)
        slowest = max(slowest, time.perf_counter() - wall)
        loop += time.thread_time() - thread
        await database.checkpointed()
        await database.stepped()
        write += _processor() - process
    process = _processor()
    await database.flush()
    write += _processor() - process
    micro = 1e6 / (blocks * block)
    disk = sum(file.stat().st_size for file in directory.iterdir()) / load.count
    return Cost(load.count, write * micro, loop * micro, read * micro, slowest * 1e3, disk)


async def _write(database: Database, reader: SqliteReader, writes: Sequence[Write]) -> None:
    await database.write(writes)
    reader.written(writes)
    await database.checkpointed()
    await database.stepped()


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _hash(what: str, number: int) -> bytes:
    return hashlib.sha256(f"{what} {number}".encode()).digest()


def main() -> None:
    """Measure and print a line for each size."""
    parser = argparse.ArgumentParser(description="Processor time of storing, per transaction.")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="transactions, ascending")
    parser.add_argument("--block", type=int, default=500, help="transactions of a block")
    parser.add_argument("--directory", type=Path, help="where to put the file, about 1 KB each")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for cost in asyncio.run(measure(Path(directory), sizes, arguments.block)):
            sys.stdout.write(
                f"{cost.transactions:>9,} transactions: write {cost.write:.0f} us (loop"
                f" {cost.loop:.1f}), read {cost.read:.0f} us; slowest block"
                f" {cost.slowest_write_ms:.0f} ms; {cost.disk_bytes:.0f} bytes on disk\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
