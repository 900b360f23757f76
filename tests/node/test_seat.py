"""Our seat: what is durable with a promise, what is work, whom a censor must fear."""

from functools import partial

import pytest

from consensus.events import Persist
from consensus.messages import Commit, Prepare, PrePrepare, ViewChange, sign
from ledger.store import Write, WriteBatch, WriteBlock, WritePromise
from node.events import (
    BatchArrived,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    SendMessage,
    Submitted,
)
from node.intake import check_raw_batch
from node.judging import EXECUTED_MAX
from node.wire import BatchBody, BlockFound, BlockWanted, Consensus, Head, HeadAnnounced
from tests.node.support import (
    Bench,
    Net,
    executed,
    key_of,
    make_batch,
    make_genesis,
    make_transaction,
    rules_of,
    view_changes,
)

GENESIS = make_genesis(4)
OTHERS = ["recorder-1", "recorder-3", "recorder-4"]
ANY_HASH = b"\x07" * 32


def make(id: str = "recorder-2", **settings: int) -> Bench:
    """The primary of height 1, or another, to which all others are connected."""
    bench = Bench(make_genesis(4, **settings), id)
    bench.start()
    for number in range(1, 5):
        if f"recorder-{number}" != id:
            bench.step(PeerConnected(f"recorder-{number}"))
    return bench


def test_everything_of_a_promise_is_written_before_it_is_sent() -> None:
    bench = make()
    one, two = make_batch(GENESIS, "recorder-3", 1), make_batch(GENESIS, "recorder-4", 1)
    bench.core.mempool.add(one, bench.now)
    bench.step(BatchArrived("recorder-3", two))

    writes = [effect for effect in bench.effects if isinstance(effect, Write)]
    assert [type(write) for write in writes] == [
        WritePromise,
        WriteBatch,
        WriteBatch,
        WritePromise,
    ]
    assert [w.batch for w in writes if isinstance(w, WriteBatch)] == [one, two]
    for place, effect in enumerate(bench.effects):
        if isinstance(effect, SendMessage) and isinstance(effect.message, Consensus):
            before = [e for e in bench.effects[:place] if isinstance(e, WritePromise)]
            assert effect.message.signed in [e.promise.signed for e in before]
    # One object for all, so that the shell encodes it once.
    proposals = [m for _, m in bench.sent() if isinstance(m, Consensus)]
    assert len(proposals) == 6
    assert len({id(message) for message in proposals}) == 2


def test_a_promise_for_a_block_that_was_not_executed_stops_the_node() -> None:
    bench = make()
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    (block,) = [p.block for p in bench.store.promises(1) if p.block is not None]
    bench.core._judging.clear()
    vote = Prepare(1, 0, block.hash)
    signed = sign(GENESIS.chain_id, "recorder-2", key_of("recorder-2"), vote)
    with pytest.raises(RuntimeError, match="never executed"):
        bench.core._seat._persist(Persist(signed, None, block))


def test_a_decision_for_a_block_that_was_not_executed_stops_the_node() -> None:
    bench = make()
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    bench.core._judging.clear()
    (block,) = [p.block for p in bench.store.promises(1) if p.block is not None]
    votes = [
        sign(GENESIS.chain_id, name, key_of(name), vote)
        for name in OTHERS
        for vote in (Prepare(1, 0, block.hash), Commit(1, 0, block.hash))
    ]
    for signed in votes[:3]:
        bench.step(MessageArrived(signed.signer, Consensus(signed)))
    with pytest.raises(RuntimeError, match="never executed"):
        bench.step(MessageArrived(votes[3].signer, Consensus(votes[3])))


def test_a_single_recorder_decides_in_one_step_and_goes_on() -> None:
    bench = Bench(make_genesis(1, batch_delay_ms=0), "recorder-1")
    bench.start()
    bench.step(Submitted((make_transaction(bench.genesis, "recorder-1", 1),)))
    kinds = [type(effect) for effect in bench.effects if isinstance(effect, Write)]
    assert kinds[-1] is WriteBlock
    assert bench.core.head.height == 1
    assert bench.core.chain.committee.primary(2, 0) == "recorder-1"


def test_whoever_leaves_a_view_shares_its_reason_once() -> None:
    bench = make("recorder-1")
    batch = make_batch(GENESIS, "recorder-3", 1)
    bench.step(BatchArrived("recorder-3", batch))
    bench.expire(bench.now + 2_500)
    sent = [m.signed.message for _, m in bench.sent() if isinstance(m, Consensus)]
    assert any(isinstance(message, ViewChange) for message in sent)
    carried = [peer for peer, m in bench.sent() if m == BatchBody(batch.raw)]
    assert carried == ["recorder-2", "recorder-3", "recorder-4"]
    assert bench.core.counters["view_changes"] == 1

    bench.expire(bench.now + 3_000)
    again = [m for _, m in bench.sent() if isinstance(m, Consensus)]
    assert again
    assert not any(isinstance(m, BatchBody) for _, m in bench.sent())
    assert bench.core.counters["view_changes"] == 1


def test_a_view_is_left_without_a_batch_to_share() -> None:
    bench = make("recorder-1", heartbeat_ms=100)
    bench.expire(bench.now + 3_000)
    assert bench.core.counters["view_changes"] == 1
    assert not any(isinstance(m, BatchBody) for _, m in bench.sent())


@pytest.mark.parametrize("absent_ms", [0, 1_500, 2_000, 3_600_000])
def test_a_view_has_what_is_left_since_its_primary_was_here(absent_ms: int) -> None:
    bench = make("recorder-1")
    bench.step(PeerDisconnected("recorder-2"))
    bench.expire(bench.now + absent_ms)
    assert bench.core.view == 0, "without work nobody leaves a view"
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    left_ms = max(0, 2_000 - absent_ms)
    if left_ms:
        bench.expire(bench.now + left_ms - 1)
        assert bench.core.view == 0
    bench.expire(bench.now + min(left_ms, 1))
    assert bench.core.view == 1
    bench.expire(bench.now + 20_000)
    assert bench.core.view == 1, "nobody follows"


def test_who_is_here_when_we_take_our_seat_is_not_absent() -> None:
    bench = make("recorder-1")
    bench.expire(bench.now + 10_000)
    bench.core._seat._take()
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    bench.expire(bench.now + 1_999)
    assert bench.core.view == 0


def test_a_dead_primary_costs_a_round_of_messages_once_it_is_known_to_be_dead() -> None:
    net = Net(make_genesis(4, bench_heights_min=1, bench_heights_max=1))
    net.stop("recorder-2")
    net.run(2_000)
    for number in range(12):
        before = net.now
        sent = net.submit("recorder-3", number)
        net.run(1_000, partial(executed, net, sent))
        assert executed(net, sent)
        assert net.now - before <= net.genesis.batch_delay_ms, "messages take no time here"
    assert view_changes(net) >= 9, "its turn came, again and again"


def test_a_peer_that_connects_hears_our_latest_messages_again() -> None:
    bench = make()
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    bench.step(PeerConnected("recorder-3"))
    kinds = [type(m.signed.message).__name__ for _, m in bench.sent() if isinstance(m, Consensus)]
    assert kinds == ["PrePrepare", "Prepare"]


def test_a_contradiction_is_reported() -> None:
    bench = make("recorder-1")
    for block_hash in (ANY_HASH, b"\x08" * 32):
        vote = Prepare(1, 0, block_hash)
        signed = sign(GENESIS.chain_id, "recorder-3", key_of("recorder-3"), vote)
        bench.step(MessageArrived("recorder-3", Consensus(signed)))
    assert bench.reported() == ["contradiction"]


def test_a_laggard_is_told_our_head() -> None:
    genesis = make_genesis(1, auditors=1, batch_delay_ms=0, resend_ms=100)
    recorder, auditor = Bench(genesis, "recorder-1"), Bench(genesis, "auditor-1")
    for bench, other in ((recorder, "auditor-1"), (auditor, "recorder-1")):
        bench.start()
        bench.step(PeerConnected(other))
    recorder.step(Submitted((make_transaction(genesis, "recorder-1", 1),)))
    under_way = [(auditor, message) for _, message in recorder.sent()]
    votes: list[Consensus] = []
    while under_way:
        bench, message = under_way.pop(0)
        sender = recorder if bench is auditor else auditor
        if isinstance(message, Consensus):
            bench.step(MessageArrived(sender.id, message))
            under_way += [(sender, answer) for _, answer in bench.sent()]
            if bench is recorder:
                votes.append(message)
        elif isinstance(message, BatchBody):
            bench.step(BatchArrived("recorder-3", check_raw_batch(message.raw, rules_of(genesis))))
            under_way += [(sender, answer) for _, answer in bench.sent()]
    assert recorder.core.head.height == 1

    recorder.now += 1_000
    recorder.step(MessageArrived("auditor-1", votes[0]))
    assert recorder.sent() == [("auditor-1", Head(1, recorder.core.chain.head_hash))]


def test_batches_that_were_passed_over_go_to_the_primary_a_few_at_a_time() -> None:
    bench = make("recorder-1")
    batches = [make_batch(GENESIS, "recorder-3", number) for number in range(1, 9)]
    for batch in batches:
        bench.core.mempool.add(batch, bench.now)
    bench.core._outbox.open(bench.now, bench.wall)
    bench.core._seat.carry_passed_over(list(bench.core.mempool.held()))
    bench.effects = bench.core._outbox.effects
    assert [peer for peer, _ in bench.sent()] == ["recorder-2"] * 4
    assert [m for _, m in bench.sent()] == [BatchBody(batch.raw) for batch in batches[:4]]


def test_an_observer_carries_nothing() -> None:
    bench = Bench(make_genesis(4, observers=1), "observer-1")
    bench.start()
    bench.core._outbox.open(bench.now, bench.wall)
    bench.core._seat.carry_passed_over([])
    assert bench.core._outbox.effects == []
    assert bench.core._seat.deadline is None


@pytest.mark.parametrize("early_ms", [1, 0])
def test_a_heartbeat_is_due_by_the_wall_clock(early_ms: int) -> None:
    bench = Bench(make_genesis(1, heartbeat_ms=10_000), "recorder-1")
    bench.start()
    bench.skew_ms = 5_000
    bench.expire(5_000 - early_ms)
    assert bench.core.head.height == (0 if early_ms else 1)


def test_claims_of_others_than_voters_count_nothing_for_a_restored_node() -> None:
    genesis = make_genesis(4, observers=1)
    bench = Bench(genesis, "recorder-1", restored=True)
    bench.start()
    assert bench.reported() == ["abstaining"]
    for name in ("observer-1", "recorder-2"):
        bench.step(PeerConnected(name))
        bench.step(MessageArrived(name, Head(0, ANY_HASH)))
        bench.step(MessageArrived(name, Head(7, ANY_HASH)))
    assert bench.core._seat._claims == {"recorder-2": 0}


def test_gossip_tells_a_restored_node_no_head_since_anyone_may_repeat_old_gossip() -> None:
    bench = Bench(GENESIS, "recorder-1", restored=True)
    bench.start()
    for name in ("recorder-2", "recorder-3", "recorder-4"):
        bench.step(PeerConnected(name))
        bench.step(GossipArrived(name, HeadAnnounced(0, ANY_HASH)))
        bench.step(MessageArrived(name, Head(7, ANY_HASH)))
    claims = bench.core._seat._claims
    assert claims == dict.fromkeys(("recorder-2", "recorder-3", "recorder-4"), 7)
    assert bench.core.sync.target() == 7


def test_a_height_that_lasts_for_hours_does_not_fill_the_memory() -> None:
    bench = make()
    bench.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 1)))
    # Every fourth view is ours: each time a fresh block is built, and never a quorum prepares it.
    for view in range(4, 4 * 30, 4):
        for name in OTHERS:
            signed = sign(GENESIS.chain_id, name, key_of(name), ViewChange(1, view, None))
            bench.step(MessageArrived(name, Consensus(signed)))
        assert bench.core.view == view
        bench.expire(bench.now + 1_000)
    own = [p.signed.message for p in bench.store.promises(1)]
    blocks = [message.block for message in own if isinstance(message, PrePrepare)]
    assert len(blocks) == 30
    assert len(bench.core._judging._executed) <= EXECUTED_MAX
    # What is forgotten is still served to others, and the newest can still be decided.
    assert bench.core.answer(BlockWanted(blocks[0].hash)) == BlockFound(blocks[0])
    for name in OTHERS:
        for vote in (Prepare(1, 116, blocks[-1].hash), Commit(1, 116, blocks[-1].hash)):
            signed = sign(GENESIS.chain_id, name, key_of(name), vote)
            if bench.core.head.height == 0:
                bench.step(MessageArrived(name, Consensus(signed)))
    assert bench.core.chain.head_hash == blocks[-1].hash
