"""What commits cost on this machine: the writes of a node, one transaction after another.

For the cost model of `medpact simulate --capacity`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ledger.store import Write, WriteBlock
from storage.database import Database


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction: processor time, and what passed besides while the disk made it durable."""

    cpu_us: float
    wait_us: float


async def measure_commits(
    directory: Path, chain_id: bytes, groups: Sequence[Sequence[Write]]
) -> list[Commit]:
    """Commit each group in a new database in `directory`. Raises StorageError.

    What follows from the blocks is written once at the end, and counted to the groups by their
    transactions.
    """
    database = await Database.open(directory / "measure.db", chain_id)
    commits: list[Commit] = []
    try:
        for group in groups:
            began, busy = time.perf_counter(), time.process_time()
            await database.write(group)
            cpu_us = (time.process_time() - busy) * 1_000_000
            passed_us = (time.perf_counter() - began) * 1_000_000
            commits.append(Commit(cpu_us, max(passed_us - cpu_us, 0.0)))
        busy = time.process_time()
        await database.flush()
        step_us = (time.process_time() - busy) * 1_000_000
    finally:
        await database.close()
    counts = [
        sum(len(write.transaction_ids) for write in group if isinstance(write, WriteBlock))
        for group in groups
    ]
    share_us = step_us / max(sum(counts), 1)
    return [
        replace(commit, cpu_us=commit.cpu_us + share_us * count)
        for commit, count in zip(commits, counts, strict=True)
    ]
