"""What a peer may try on one core: lies, useless work, floods."""

from dataclasses import replace

import pytest

from consensus.messages import Prepare, PrePrepare, Signed, sign
from ledger.genesis import Genesis
from ledger.store import WriteBatch, WritePromise
from ledger.transactions import NO_KEY, Envelope
from node.events import (
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    Report,
    RequestEnded,
    SyncedBlock,
)
from node.settings import CoreSettings
from node.wire import (
    BatchesAnnounced,
    BatchesWanted,
    BlockFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Head,
    HeadAnnounced,
)
from primitives.block import Block
from primitives.codec import decode, encode
from tests.node.support import (
    Bench,
    Net,
    executed,
    key_of,
    make_batch,
    make_chain,
    make_genesis,
    make_transaction,
    synced,
    view_changes,
)

ANY_HASH = b"\x07" * 32


def start_voter(genesis: Genesis, id: str = "recorder-1") -> Bench:
    """A voter to which all other members are connected."""
    bench = Bench(genesis, id)
    bench.start()
    for institution in genesis.institutions:
        if institution.id != id:
            bench.step(PeerConnected(institution.id))
    return bench


def propose(genesis: Genesis, *numbers: int, skew_ms: int = 0) -> tuple[Signed, Block, Bench]:
    """The PRE-PREPARE of height 1 of these batches by recorder-2, whose turn it is."""
    primary = Bench(genesis, "recorder-2")
    primary.skew_ms = skew_ms
    primary.start()
    for number in numbers:
        primary.core.mempool.add(make_batch(genesis, "recorder-3", number), primary.now)
    last = make_batch(genesis, "recorder-4", 1)
    primary.step(BatchArrived("recorder-3", last))
    signed = next(
        e.promise.signed
        for e in primary.effects
        if isinstance(e, WritePromise) and isinstance(e.promise.signed.message, PrePrepare)
    )
    assert isinstance(signed.message, PrePrepare)
    return signed, signed.message.block, primary


def faults(bench: Bench) -> list[dict[str, str | int]]:
    """What the last effects tell the operator of the members."""
    reports = [effect for effect in bench.effects if isinstance(effect, Report)]
    return [dict(report.facts) for report in reports if report.event == "peer_at_fault"]


def test_a_late_batch_that_a_block_has_listed_is_no_work() -> None:
    net = Net(make_genesis(4))
    taken = net.submit("recorder-1", 1)
    net.run(1_000, lambda: executed(net, taken))
    raw = net["recorder-1"].store.decision(1)
    assert raw is not None
    late = make_batch(net.genesis, "recorder-3", 9, taken)

    for id in net.benches:
        net.step(id, BatchArrived("recorder-3", late))
    net.run(60_000)

    assert all(bench.core.counters["batch_dead"] == 1 for bench in net.benches.values())
    assert view_changes(net) == 0


def test_a_batch_from_the_far_future_is_no_work() -> None:
    genesis = make_genesis(4)
    net = Net(genesis)
    window = genesis.limits.replay_window_blocks
    far = make_transaction(genesis, "recorder-3", 1, until_height=window + 2)
    for id in net.benches:
        net.step(id, BatchArrived("recorder-3", make_batch(genesis, "recorder-3", 1, [far])))
        net.step(
            id, BatchArrived("recorder-3", make_batch(genesis, "recorder-3", 2, until_height=2**40))
        )
    net.run(60_000)

    assert all(bench.core.counters["batch_ahead"] == 2 for bench in net.benches.values())
    assert view_changes(net) == 0


def test_a_false_payload_under_the_right_header_does_not_stick() -> None:
    genesis = make_genesis(4)
    signed, block, primary = propose(genesis)
    message = signed.message
    assert isinstance(message, PrePrepare)
    false = Block(block.header, encode((ANY_HASH,)))
    lie = Signed(signed.signer, PrePrepare(1, 0, false, None), signed.signature)
    bench = start_voter(genesis)
    bench.step(BatchArrived("recorder-4", make_batch(genesis, "recorder-4", 1)))

    bench.step(MessageArrived("recorder-2", Consensus(lie)))
    assert bench.core.counters["payload_false"] == 1
    assert bench.asked() == [("recorder-2", BlockWanted(block.hash))]

    bench.step(BlockArrived("recorder-2", BlockFound(false)))
    bench.step(BlockArrived("recorder-2", BlockFound(Block(block.header, b"\xff"))))
    assert bench.core.counters["payload_false"] == 3
    assert bench.core.undecided_block(block.hash) is None

    bench.step(BlockArrived("recorder-3", BlockFound(None)))
    bench.step(BlockArrived("recorder-3", BlockFound(block)))
    assert bench.core.undecided_block(block.hash) == block
    promised = [e for e in bench.effects if isinstance(e, WritePromise)]
    assert [type(e.promise.signed.message) for e in promised] == [Prepare]
    kept = [e.batch.id for e in bench.effects if isinstance(e, WriteBatch)]
    assert kept == [batch.id for batch in primary.core.mempool.batches()]


@pytest.mark.parametrize(
    ("skew_ms", "votes"), [(-11_000, False), (-9_000, True), (9_000, True), (11_000, False)]
)
def test_a_fresh_proposal_must_agree_with_our_clock_on_both_sides(
    skew_ms: int, votes: bool
) -> None:
    genesis = make_genesis(4, clock_drift_ms_max=10_000)
    # Genesis is a night old, so that a block may be dated back.
    signed, block, _ = propose(genesis, skew_ms=skew_ms + 3_600_000)
    bench = start_voter(genesis)
    bench.skew_ms = 3_600_000
    bench.step(BatchArrived("recorder-4", make_batch(genesis, "recorder-4", 1)))

    bench.step(MessageArrived("recorder-2", Consensus(signed)))

    assert (bench.core.undecided_block(block.hash) is not None) == votes
    by = f"by {skew_ms} ms"
    told = [{"peer": "recorder-2", "reason": "clock_differs", "count": 1, "detail": by}]
    assert faults(bench) == ([] if votes else told)
    # Once a quorum vouches for it, our clock does not matter any more.
    for name in ("recorder-2", "recorder-3", "recorder-4"):
        vote = sign(genesis.chain_id, name, key_of(name), Prepare(1, 0, block.hash))
        bench.step(MessageArrived(name, Consensus(vote)))
    bench.step(BlockArrived("recorder-3", BlockFound(block)))
    assert bench.core.undecided_block(block.hash) == block


def test_an_invalid_proposal_is_found_out_once() -> None:
    genesis = make_genesis(4)
    _, block, _ = propose(genesis)
    header = block.header
    changed = type(header)(
        **{name: getattr(header, name) for name in header.__struct_fields__}
        | {"state_root": ANY_HASH}
    )
    message = PrePrepare(1, 0, Block(changed, block.payload), None)
    signed = sign(genesis.chain_id, "recorder-2", key_of("recorder-2"), message)
    bench = start_voter(genesis)
    bench.step(BatchArrived("recorder-4", make_batch(genesis, "recorder-4", 1)))

    bench.step(MessageArrived("recorder-2", Consensus(signed)))
    (fault,) = faults(bench)
    assert (fault["peer"], fault["reason"]) == ("recorder-2", "block_invalid")
    assert "state_root" in str(fault["detail"])
    bench.expire(bench.now + 1_500)

    assert bench.core.counters["block_invalid"] == 1
    assert not any(isinstance(effect, WritePromise) for effect in bench.effects)


def test_a_batch_that_comes_later_completes_the_proposal() -> None:
    genesis = make_genesis(4)
    signed, block, _ = propose(genesis, 7)
    bench = start_voter(genesis)
    bench.step(MessageArrived("recorder-2", Consensus(signed)))
    bench.expire(bench.now + 100)
    assert [peer for peer, _ in bench.asked()] == ["recorder-2"]
    bench.expire(bench.now + 500)
    assert len(bench.asked()) == 1
    assert bench.asked()[0][0] != "recorder-2"

    bench.step(BatchArrived("recorder-4", make_batch(genesis, "recorder-4", 1)))
    assert bench.core.undecided_block(block.hash) is None
    bench.step(BatchArrived("recorder-3", make_batch(genesis, "recorder-3", 7)))

    assert bench.core.undecided_block(block.hash) == block
    assert any(isinstance(effect, WritePromise) for effect in bench.effects)


def test_a_peer_that_lies_about_its_head_is_asked_now_and_then_only() -> None:
    genesis = make_genesis(4)
    bench = start_voter(genesis)
    bench.step(MessageArrived("recorder-4", Head(10**9, ANY_HASH)))
    asked = 0
    for _ in range(100):
        asked += len(bench.asked())
        for peer, request in bench.asked():
            bench.step(BlocksArrived(peer, (), 10**9))
            bench.step(RequestEnded(peer, request, True))
            assert bench.asked() == []
        bench.expire(bench.now + 200)
    assert 3 <= asked <= 6


def test_a_synced_block_that_is_not_what_was_decided_is_refused() -> None:
    genesis = make_genesis(1, observers=2)
    store = make_chain(genesis, 3)
    good = synced(genesis, store, 1, 3)
    first = good[0]
    decision, batches = first.decision, first.batches
    certificate = decision.certificate

    def changed(**fields: object) -> SyncedBlock:
        names = certificate.__struct_fields__
        old = {name: getattr(certificate, name) for name in names}
        return SyncedBlock(
            type(decision)(decision.block, type(certificate)(**old | fields)), batches
        )

    (batch,) = batches
    envelope = decode(batch.raw, Envelope, bytes_max=len(batch.raw))
    raw = encode(Envelope(envelope.body, bytes(64)))
    bad = [
        changed(signatures=()),
        changed(height=2),
        changed(block_hash=ANY_HASH),
        SyncedBlock(decision, ()),
        SyncedBlock(decision, (replace(batch, raw=raw, signer_key=NO_KEY),)),
        SyncedBlock(
            type(decision)(Block(decision.block.header, encode((ANY_HASH,))), certificate), batches
        ),
    ]
    bench = start_voter(genesis, "observer-1")
    for count, block in enumerate(bad, start=1):
        bench.step(BlocksArrived("recorder-1", (block,), 3))
        bench.step(RequestEnded("recorder-1", BlocksWanted(1, 1), True))
        assert bench.core.conduct.counts() == {"recorder-1": {"sync_block_false": count}}
        assert bench.core.head.height == 0

    # What came before it was false, or this would not be here: it is dropped.
    bench.step(BlocksArrived("recorder-1", (good[1],), 3))
    assert bench.core.head.height == 0
    # A batch whose author's key was not known when it came.
    late = SyncedBlock(decision, (replace(batch, signer_key=NO_KEY),))
    bench.step(BlocksArrived("recorder-1", (late, good[1]), 3))
    assert bench.core.head.height == 2
    assert bench.store.batch(batch.id) == batch.raw
    # An answer that was overtaken is nobody's fault.
    bench.step(BlocksArrived("recorder-1", good, 3))
    assert bench.core.head.height == 3
    assert bench.core.counters["sync_block_false"] == len(bad)


def test_a_decided_block_that_is_invalid_here_stops_the_node() -> None:
    genesis = make_genesis(1, observers=1)
    store = make_chain(genesis, 2)
    bench = start_voter(genesis, "observer-1")
    bench.step(BlocksArrived("recorder-1", synced(genesis, store, 1), 2))
    # The disk loses what block 2 builds on.
    bench.store.values.clear()
    bench.store.nodes.clear()

    with pytest.raises(RuntimeError):
        bench.step(BlocksArrived("recorder-1", synced(genesis, store, 2), 2))


def test_announcements_are_asked_for_once_and_not_too_often() -> None:
    genesis = make_genesis(4, observers=1)
    bench = start_voter(genesis)
    one, two = make_batch(genesis, "observer-1", 1), make_batch(genesis, "observer-1", 2)

    bench.step(GossipArrived("observer-1", BatchesAnnounced((one.id, two.id))))
    asked = BatchesWanted((one.id, two.id))
    assert bench.asked() == [("observer-1", asked)]
    bench.step(GossipArrived("observer-1", BatchesAnnounced((ANY_HASH,))))
    assert bench.asked() == []
    assert bench.core.conduct.counts() == {"observer-1": {"announced_too_often": 1}}
    # Another holder's announcement asks for nothing that has just been asked for.
    bench.step(GossipArrived("recorder-2", BatchesAnnounced((one.id, ANY_HASH))))
    assert bench.asked() == [("recorder-2", BatchesWanted((ANY_HASH,)))]
    bench.step(BatchArrived("observer-1", one))
    bench.step(RequestEnded("observer-1", asked, True))
    bench.now += 1_000
    bench.step(GossipArrived("observer-1", BatchesAnnounced((one.id, two.id))))
    assert bench.asked() == [("observer-1", BatchesWanted((two.id,)))]
    # Whoever is not connected cannot be asked.
    bench.step(PeerDisconnected("recorder-3"))
    bench.step(GossipArrived("recorder-3", BatchesAnnounced((b"\x01" * 32,))))
    assert bench.asked() == []


def test_who_announces_useless_batches_is_not_asked_for_a_while() -> None:
    genesis = make_genesis(4, observers=1)
    bench = start_voter(genesis)
    dead = make_batch(genesis, "observer-1", 1, until_height=0)
    bench.step(GossipArrived("observer-1", BatchesAnnounced((dead.id,))))
    bench.step(BatchArrived("observer-1", dead))
    bench.step(RequestEnded("observer-1", BatchesWanted((dead.id,)), True))
    for seconds, asks in ((1, 0), (3, 0), (6, 1)):
        bench.now = 1_000 + seconds * 1_000
        bench.step(GossipArrived("observer-1", BatchesAnnounced((dead.id,))))
        assert len(bench.asked()) == asks


def test_an_old_batch_that_somebody_repeats_does_not_silence_its_author() -> None:
    genesis = make_genesis(4, observers=1)
    bench = start_voter(genesis)
    bench.step(BatchArrived("observer-1", make_batch(genesis, "observer-1", 1, until_height=0)))
    bench.step(GossipArrived("observer-1", BatchesAnnounced((ANY_HASH,))))
    assert bench.asked() == [("observer-1", BatchesWanted((ANY_HASH,)))]


def test_an_observer_asks_for_no_batches_and_answers_a_laggard_with_its_head() -> None:
    genesis = make_genesis(4, observers=1)
    bench = start_voter(genesis, "observer-1")
    assert bench.core.deadline > bench.now
    bench.step(GossipArrived("recorder-1", BatchesAnnounced((ANY_HASH,))))
    assert bench.asked() == []
    signed, _, _ = propose(genesis)
    zero = sign(genesis.chain_id, "recorder-2", key_of("recorder-2"), Prepare(0, 0, ANY_HASH))
    bench.step(MessageArrived("recorder-2", Consensus(zero)))
    assert [(peer, type(message)) for peer, message in bench.sent()] == [("recorder-2", Head)]
    bench.step(MessageArrived("recorder-2", Consensus(zero)))
    assert bench.sent() == []
    bench.step(MessageArrived("recorder-2", Consensus(signed)))
    assert bench.sent() == []
    bench.step(GossipArrived("recorder-1", HeadAnnounced(1, ANY_HASH)))
    assert bench.asked() == []
    bench.expire(bench.now + CoreSettings().follow_patience_ms)
    assert bench.asked() == [("recorder-1", BlocksWanted(1, 1))]
    bench.step(GossipArrived("stranger", HeadAnnounced(9, ANY_HASH)))
    assert bench.core.sync.target() == 1


def test_a_message_of_a_later_height_tells_a_head() -> None:
    genesis = make_genesis(4)
    bench = start_voter(genesis)
    ahead = sign(genesis.chain_id, "recorder-2", key_of("recorder-2"), Prepare(9, 0, ANY_HASH))
    bench.step(MessageArrived("recorder-2", Consensus(ahead)))
    assert bench.asked() == [("recorder-2", BlocksWanted(1, 8))]
