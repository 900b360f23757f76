"""Where the node stands moves one block at a time."""

from dataclasses import replace

import pytest

from ledger.standing import STANDING_KEY
from node.events import Applied
from tests.node.support import Bench, make_chain, make_genesis, synced

GENESIS = make_genesis(1, observers=1)
STORE = make_chain(GENESIS, 1)


def follower() -> Bench:
    """An observer that is about to apply block 1."""
    bench = Bench(GENESIS, "observer-1")
    (block,) = synced(GENESIS, STORE, 1)
    executed = bench.core._judging.execute(block.decision.block, block.batches)
    assert executed is not None
    bench.core.chain.write(block.decision, executed)
    with pytest.raises(RuntimeError, match="second block"):
        bench.core.chain.write(block.decision, executed)
    return bench


def test_a_block_becomes_the_head_when_it_is_stored() -> None:
    bench = follower()
    chain = bench.core.chain
    assert (chain.head.height, chain.next_height) == (0, 1)
    written = chain.advance()
    assert chain.writing is None
    assert (chain.head.height, chain.next_height) == (1, 2)
    assert chain.head_hash == chain.head.hash()
    assert bench.core._outbox.effects == [written, Applied(chain.head, written)]
    assert chain.replay.seen(written.transaction_ids[0])
    assert chain.replay.used("recorder-1", written.batches[0].sequence)


def test_the_committee_is_read_again_only_when_the_block_wrote_about_it() -> None:
    chain = follower().core.chain
    before = chain.committee
    chain.advance()
    assert chain.committee is before

    chain = follower().core.chain
    assert chain.writing is not None
    values = {**chain.writing.changes.values, STANDING_KEY: b""}
    changes = replace(chain.writing.changes, values=values)
    chain.writing = replace(chain.writing, changes=changes)
    chain.advance()
    assert chain.committee == before
    assert chain.committee is not before
