"""Building and checking blocks: once, on our head, and exactly as their headers say."""

from ledger.transactions import CheckedBatch
from node.events import BatchArrived, Submitted
from node.judging import listed_batches
from node.wire import BlockWanted
from primitives.block import Block
from primitives.codec import encode
from simulations.store import MemoryStore
from tests.node.support import (
    START_MS,
    Bench,
    make_batch,
    make_chain,
    make_genesis,
    make_transaction,
    synced,
)

GENESIS = make_genesis(4)
BATCH = make_batch(GENESIS, "recorder-3", 1)


def proposed() -> Block:
    """The block of BATCH that recorder-2 proposes at height 1."""
    primary = Bench(GENESIS, "recorder-2")
    primary.start()
    primary.step(BatchArrived("recorder-3", BATCH))
    (block,) = [p.block for p in primary.store.promises(1) if p.block is not None]
    return block


def with_clock(bench: Bench) -> Bench:
    """As at the beginning of a step."""
    bench.core._outbox.open(bench.now, bench.wall)
    return bench


def test_there_is_nothing_to_build_of_nothing() -> None:
    bench = with_clock(Bench(GENESIS, "recorder-2"))
    assert bench.core._judging.build(0) is None
    assert bench.core.counters["nothing_to_propose"] == 1


def test_a_block_is_dated_after_its_parent_whatever_our_clock_says() -> None:
    bench = Bench(GENESIS, "recorder-2")
    bench.skew_ms = -(10**9)
    with_clock(bench)
    bench.core.mempool.add(BATCH, 0)
    block = bench.core._judging.build(3)
    assert block is not None
    assert block.header.time_ms == START_MS + 1
    assert (block.header.view, block.header.proposer) == (3, "recorder-2")
    assert bench.core.undecided_block(block.hash) == block


def test_a_block_is_executed_once() -> None:
    bench = with_clock(Bench(GENESIS, "recorder-1"))
    judging, block = bench.core._judging, proposed()
    first = judging.execute(block, [BATCH])
    assert first is not None
    assert judging.execute(block, [BATCH]) is first
    assert judging.want(block.hash, None, False, ()) == [block]
    judging.clear()
    assert judging.executed(block.hash) is None


def test_a_block_that_was_refused_is_not_wanted_again_at_this_height() -> None:
    bench = with_clock(Bench(GENESIS, "recorder-1"))
    judging, block = bench.core._judging, proposed()
    assert judging.execute(block, []) is None
    assert bench.core.counters["block_invalid"] == 1
    assert judging.want(block.hash, block, False, ("recorder-2",)) == []
    assert judging.deadline is None
    judging.clear()
    assert judging.want(block.hash, block, False, ("recorder-2",)) == []
    assert judging.deadline is not None


def test_a_body_that_nobody_asked_for_is_nothing() -> None:
    bench = with_clock(Bench(GENESIS, "recorder-1"))
    assert bench.core._judging.arrived("recorder-2", proposed()) == []
    assert bench.core._judging.offer(BATCH) == []


def test_what_is_here_already_completes_a_block_at_once() -> None:
    bench = with_clock(Bench(GENESIS, "recorder-1"))
    bench.core.mempool.add(BATCH, 0)
    block = proposed()
    assert bench.core._judging.want(block.hash, block, False, ()) == [block]
    assert bench.asked() == []


class Rotten(MemoryStore):
    """A disk on which batches rot."""

    def batch(self, batch_id: bytes) -> bytes | None:
        """Found, but not as it was."""
        raw = super().batch(batch_id)
        return None if raw is None else raw[:-1] + bytes([raw[-1] ^ 1])


def promised(batch: CheckedBatch, store: MemoryStore) -> Bench:
    """A voter that restarts after a promise, with an empty mempool."""
    before = Bench(GENESIS, "recorder-2", store)
    before.start()
    before.step(BatchArrived("recorder-3", batch))
    assert before.store.promises(1)
    return with_clock(Bench(GENESIS, "recorder-2", store, now=2_000))


def test_our_own_store_comes_first_for_a_block_that_we_have_promised() -> None:
    bench = promised(BATCH, MemoryStore())
    (block,) = [p.block for p in bench.store.promises(1) if p.block is not None]
    assert bench.core._judging.want(block.hash, None, False, ("recorder-3",)) == [block]


def test_a_stored_batch_that_is_missing_or_rotten_is_asked_for() -> None:
    for store in (Rotten(), MemoryStore()):
        bench = promised(BATCH, store)
        if not isinstance(store, Rotten):
            del store._batches[BATCH.id]
        (block,) = [p.block for p in bench.store.promises(1) if p.block is not None]
        assert bench.core._judging.want(block.hash, None, False, ("recorder-3",)) == []
        assert bench.core._judging.deadline == bench.now + 100
        assert bench.core._judging.offer(BATCH) == [block]


def test_a_block_that_is_not_here_is_asked_for() -> None:
    bench = Bench(GENESIS, "recorder-1")
    bench.core._outbox.connect("recorder-3")
    with_clock(bench)
    block = proposed()
    assert bench.core._judging.want(block.hash, None, False, ("recorder-3",)) == []
    bench.effects = bench.core._outbox.effects
    assert bench.asked() == [("recorder-3", BlockWanted(block.hash))]
    bench.core.mempool.add(BATCH, 0)
    assert bench.core._judging.arrived("recorder-2", block) == [block]


def test_a_payload_is_that_of_its_header_or_none() -> None:
    block = proposed()
    assert listed_batches(block) == (BATCH.id,)
    for payload in (b"", b"\xff", encode(()), encode((BATCH.id, BATCH.id))):
        assert listed_batches(Block(block.header, payload)) is None
    genesis = make_genesis(1, heartbeat_ms=100)
    bench = Bench(genesis, "recorder-1")
    bench.start()
    decision = bench.store.decision(1)
    assert decision is not None
    assert listed_batches(decision.block) == ()


def test_a_block_of_another_height_is_not_valid_on_our_head() -> None:
    genesis = make_genesis(1, observers=1)
    second = synced(genesis, make_chain(genesis, 2), 2)[0]
    bench = with_clock(Bench(genesis, "observer-1"))
    assert bench.core._judging.execute(second.decision.block, second.batches) is None


def test_a_transaction_that_is_submitted_is_in_the_block() -> None:
    bench = Bench(make_genesis(1), "recorder-1")
    bench.start()
    transaction = make_transaction(bench.genesis, "recorder-1", 1)
    bench.step(Submitted((transaction,)))
    bench.expire(bench.now + 5)
    assert bench.store.transaction_position(transaction.id) == (1, 0)
