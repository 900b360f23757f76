"""The least that a voter must do with each transaction: check its signature, hash, decode, store.

    python -m storage.floor TRANSACTIONS DIRECTORY GROUP

A process that `medpact bench` starts once for each node. TRANSACTIONS is a file of one transaction
in hex a line, after a line with the chain id. When a line comes on standard input it stores them in
DIRECTORY: GROUP transactions make one blob, one index entry each, and one transaction of SQLite
with fsync, as a block of a node does. What it prints, a JSON document, says when it started and
ended on the machine's monotonic clock and what processor time that took. The signature checks are
then made once more by themselves, to tell their share.
"""

import json
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ledger.transactions import CheckedTransaction, Envelope, Limits, check_transaction
from primitives.codec import decode, encode
from primitives.hashing import digest
from primitives.keys import verify

_TABLES: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE body (height INTEGER PRIMARY KEY, hash BLOB NOT NULL, raw BLOB NOT NULL);
CREATE TABLE place (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL)
    WITHOUT ROWID;
"""


def store(
    raws: Sequence[bytes], chain_id: bytes, path: Path, group: int
) -> list[CheckedTransaction]:
    """Check and store transactions, so many in one transaction of SQLite.

    Raises TransactionError for a bad one, sqlite3.Error if it cannot be stored.
    """
    limits = Limits()
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(_TABLES)
    kept: list[CheckedTransaction] = []
    for height, start in enumerate(range(0, len(raws), group)):
        found = [check_transaction(raw, chain_id, limits) for raw in raws[start : start + group]]
        body = encode(tuple(each.raw for each in found))
        rows = [(each.id, height, position) for position, each in enumerate(found)]
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO body VALUES (?, ?, ?)", (height, digest("floor", body), body))
        database.executemany("INSERT INTO place VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
        kept += found
    database.close()
    return kept


def main() -> int:
    """Wait for the signal, do the work, tell what it took."""
    file, directory, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    chain_id, *raws = (bytes.fromhex(line) for line in file.read_text().split())
    _say({"ready": len(raws), "sqlite": sqlite3.sqlite_version})
    if not sys.stdin.readline():
        return 1
    started, busy = time.monotonic(), time.process_time()
    kept = store(raws, chain_id, directory / "floor.db", group)
    ended, cpu_seconds = time.monotonic(), time.process_time() - busy
    signed = [
        (each.body.author, each.id, decode(each.raw, Envelope, bytes_max=len(each.raw)).signature)
        for each in kept
    ]
    busy = time.process_time()
    good = sum(verify(*each) for each in signed)
    check_seconds = time.process_time() - busy
    if good != len(raws):
        return 1
    took = {"started": started, "ended": ended}
    _say({**took, "cpu_seconds": cpu_seconds, "check_cpu_seconds": check_seconds})
    return 0


def _say(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
