"""The simulated disk is the real one: the same writes leave the same things to read."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ledger.genesis import genesis_state
from ledger.store import Write, WriteBlock, WriteGenesis
from simulations import faults
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.host import Host
from simulations.store import MemoryStore
from storage.database import Database
from storage.reader import SqliteReader

SEED = 2
CHECKED_EVERY = 10


class Recording(Host):
    """Keeps a list of its transactions on disk."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.written: list[Sequence[Write]] = []
        self.store = _Recorder(self.written, self.store)


class _Recorder(MemoryStore):
    def __init__(self, written: list[Sequence[Write]], store: MemoryStore) -> None:
        super().__init__()
        vars(self).update(vars(store))
        self._written = written

    def write(self, writes: Sequence[Write]) -> None:
        super().write(writes)
        self._written.append(list(writes))


def everything(reader: MemoryStore | SqliteReader, writes: Sequence[Write]) -> dict[str, object]:
    """All that the reader says of what these writes touch."""
    head = reader.head_height() or 0
    found: dict[str, object] = {"head": head, "pending": reader.pending_batches()}
    for height in range(head + 2):
        found[f"header {height}"] = reader.header(height)
        found[f"decision {height}"] = reader.decision(height)
        found[f"receipts {height}"] = reader.receipts(height) or ()
        found[f"sequences {height}"] = reader.sequences(height)
        found[f"promises {height}"] = reader.promises(height)
    for write in writes:
        if isinstance(write, WriteGenesis | WriteBlock):
            for key in write.changes.values:
                found[f"value {key.hex()}"] = reader.value(key)
            for path in write.changes.nodes:
                found[f"node {path.hex()}"] = reader.node(path)
        if isinstance(write, WriteBlock):
            block_hash = write.decision.block.hash
            found[f"height of {block_hash.hex()}"] = reader.height_of(block_hash)
            found[f"proposal {block_hash.hex()}"] = reader.proposal(block_hash)
            for identity in write.transaction_ids:
                found[f"place {identity.hex()}"] = reader.transaction_position(identity)
            for chain in write.chains:
                found[f"chain {chain.hex()}"] = reader.chain_heights(chain, 1, 3)
            for batch in write.batches:
                found[f"batch {batch.id.hex()}"] = reader.batch(batch.id)
    return found


async def test_it_reads_like_the_database(tmp_path: Path) -> None:
    scenario = draw(SEED, kinds=(faults.Crash, faults.CrashAll, faults.Partition), byzantine=())
    cluster = Cluster(scenario, host_class=Recording)
    cluster.run()
    host = max(cluster.correct, key=lambda host: len(_written(host)))
    memory = MemoryStore()
    database = await Database.open(tmp_path / "ledger.db", cluster.genesis.chain_id)
    reader = SqliteReader(tmp_path / "ledger.db", database.recent)
    done: list[Write] = []
    try:
        for number, writes in enumerate([_genesis(host), *_written(host)]):
            memory.write(writes)
            await database.write(writes)
            reader.written(writes)
            done += writes
            if number % CHECKED_EVERY == 0:
                assert everything(memory, done) == everything(reader, done)
        assert everything(memory, done) == everything(reader, done)
        assert memory.head_height() == host.store.head_height()
        assert (memory.head_height() or 0) > 5
    finally:
        reader.close()
        await database.close()


def _written(host: Host) -> list[Sequence[Write]]:
    assert isinstance(host, Recording)
    return host.written


def _genesis(host: Host) -> list[Write]:
    return [WriteGenesis(*genesis_state(host.world.genesis))]


def test_a_backup_stays_as_it_was() -> None:
    cluster = Cluster(draw(SEED, kinds=(), byzantine=()))
    before = cluster.hosts[0].store.copy()
    cluster.run()
    assert before.head_height() == 0
    assert (cluster.hosts[0].store.head_height() or 0) > 0
    assert before.values != cluster.hosts[0].store.values


def test_blocks_out_of_order_are_refused() -> None:
    cluster = Cluster(draw(SEED, kinds=(), byzantine=()))
    cluster.run()
    with pytest.raises(ValueError, match="does not follow the head"):
        cluster.hosts[0].store.write([cluster.watch.chain[1]])
