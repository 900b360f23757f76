"""A process that writes until it is killed: `python -m tests.storage.writer DIRECTORY`.

It says "w <n>" after each write that was acknowledged, n counting from the empty store.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ledger.store import Write
from storage.database import Database
from storage.reader import SqliteReader
from storage.redo import redo
from tests.storage.support import Ledger

STEPS = 400


def script(ledger: Ledger) -> Iterator[Sequence[Write]]:
    """The same writes in every process: the promises of a height, then its block."""
    yield [ledger.begin()]
    for _ in range(STEPS):
        batches = [ledger.batch(4), ledger.batch(1)]
        yield ledger.round(batches)
        yield [ledger.decide(batches)]


def position(reader: SqliteReader) -> int:
    """How many writes of the script a store holds."""
    height = reader.head_height()
    if height is None:
        return 0
    return 1 + 2 * height + bool(reader.promises(height + 1))


async def main(directory: Path) -> None:
    ledger = Ledger()
    database = await Database.open(directory / "ledger.db", ledger.chain_id)
    verdict = await database.boot(directory / "boots")
    print("restored" if verdict.restored else "sound", flush=True)
    reader = SqliteReader(directory / "ledger.db", database.recent, cached=True)
    done = position(reader)
    if done:
        await redo(database, reader, ledger.genesis, lambda height, head: None)
    reader.close()
    for number, writes in enumerate(script(ledger), 1):
        if number > done:
            await database.write(writes)
            print(f"w {number}", flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
