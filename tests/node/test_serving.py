"""Answers to peers: what is there, within bounds."""

import pytest

from ledger.execution import payload_batches
from node import serving
from node.events import BatchArrived, Submitted
from node.wire import (
    WANTED_BLOCKS_MAX,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Request,
    Response,
)
from tests.node.support import (
    START_MS,
    Bench,
    make_batch,
    make_chain,
    make_genesis,
    make_transaction,
)

GENESIS = make_genesis(1)
STORE = make_chain(GENESIS, 5)
UNKNOWN = b"\x07" * 32


def ask(request: Request) -> Response:
    """What the single recorder answers."""
    return Bench(GENESIS, "recorder-1", STORE).core.answer(request)


def blocks(response: Response) -> list[int]:
    """The heights of an answer."""
    assert isinstance(response, BlocksFound)
    return [block.decision.block.header.height for block in response.blocks]


def raw_of(height: int) -> bytes:
    """The one batch of a block."""
    found = ask(BlocksWanted(height, 1))
    assert isinstance(found, BlocksFound)
    return found.blocks[0].batches[0]


def id_of(height: int) -> bytes:
    """The id of the one batch of a block."""
    decision = STORE.decision(height)
    assert decision is not None
    (batch_id,) = payload_batches(decision.block.payload)
    return batch_id


def test_blocks_are_served_ascending_up_to_the_head() -> None:
    assert blocks(ask(BlocksWanted(2, 3))) == [2, 3, 4]
    assert blocks(ask(BlocksWanted(4, 64))) == [4, 5]
    assert blocks(ask(BlocksWanted(0, 3))) == [1, 2]
    assert blocks(ask(BlocksWanted(6, 64))) == []
    assert blocks(ask(BlocksWanted(1, 0))) == []
    found = ask(BlocksWanted(6, 1))
    assert isinstance(found, BlocksFound)
    assert found.head_height == 5


def test_no_more_blocks_are_served_than_one_may_ask_for_even_if_they_weigh_nothing() -> None:
    genesis = make_genesis(1, heartbeat_ms=100)
    bench = Bench(genesis, "recorder-1")
    bench.start()
    bench.expire(bench.now + 100 * (WANTED_BLOCKS_MAX + 5))
    assert bench.core.head.height > WANTED_BLOCKS_MAX
    assert len(blocks(bench.core.answer(BlocksWanted(1, 2**40)))) == WANTED_BLOCKS_MAX


def test_an_answer_has_a_size_but_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ANSWER_BYTES_MAX", len(raw_of(1)) - 1)
    monkeypatch.setattr(serving, "BLOCKS_BYTES_MAX", len(raw_of(1)) - 1)
    assert blocks(ask(BlocksWanted(1, 5))) == [1]
    ids = (id_of(1), id_of(2))
    assert ask(BatchesWanted(ids)) == BatchesFound((raw_of(1),))


def test_blocks_end_where_the_store_has_lost_something() -> None:
    bench = Bench(GENESIS, "recorder-1", STORE.copy())
    del bench.store._batches[id_of(3)]
    assert blocks(bench.core.answer(BlocksWanted(1, 5))) == [1, 2]
    del bench.store._decisions[2]
    assert blocks(bench.core.answer(BlocksWanted(1, 5))) == [1]


def test_batches_are_served_from_the_mempool_and_the_store_each_once() -> None:
    pending = make_batch(make_genesis(1), "recorder-1", START_MS + 10**6)
    bench = Bench(GENESIS, "recorder-1", STORE)
    bench.core.mempool.add(pending, 0)
    wanted = BatchesWanted((UNKNOWN, pending.id, id_of(2), pending.id))
    assert bench.core.answer(wanted) == BatchesFound((pending.raw, raw_of(2)))


def test_a_block_is_served_by_hash_decided_promised_or_only_checked() -> None:
    decided = STORE.decision(3)
    assert decided is not None
    assert ask(BlockWanted(decided.block.hash)) == BlockFound(decided.block)
    assert ask(BlockWanted(UNKNOWN)) == BlockFound(None)

    genesis = make_genesis(4)
    bench = Bench(genesis, "recorder-2")
    bench.start()
    bench.step(BatchArrived("recorder-3", make_batch(genesis, "recorder-3", 1)))
    (block,) = [p.block for p in bench.store.promises(1) if p.block is not None]
    assert bench.core.answer(BlockWanted(block.hash)) == BlockFound(block)
    restarted = Bench(genesis, "recorder-2", bench.store)
    assert restarted.core.answer(BlockWanted(block.hash)) == BlockFound(block)


def test_an_applied_block_is_no_longer_undecided() -> None:
    bench = Bench(make_genesis(1), "recorder-1")
    bench.start()
    bench.step(Submitted((make_transaction(bench.genesis, "recorder-1", 1),)))
    bench.expire(bench.now + 10)
    decision = bench.store.decision(1)
    assert decision is not None
    assert bench.core.undecided_block(decision.block.hash) is None
    assert bench.core.answer(BlockWanted(decision.block.hash)) == BlockFound(decision.block)
