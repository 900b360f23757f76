"""Cores wired together in virtual time: from a client's transaction to its receipt everywhere, and
what repairs what went wrong on the way.
"""

from collections.abc import Sequence

import pytest

from consensus.messages import Prepare, PrePrepare, Signed, sign
from ledger.genesis import Genesis
from ledger.receipts import ReceiptCode
from ledger.replay import ReplayWindow
from ledger.store import WriteBatch, WriteBlock, WritePromise
from ledger.transactions import CheckedTransaction
from node.core import Core, CoreSettings
from node.events import (
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    BlockStored,
    Expired,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    RequestEnded,
    Submitted,
    SyncedBlock,
)
from node.intake import check_blocks_found
from node.wire import (
    BatchBody,
    BatchesAnnounced,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Head,
    HeadAnnounced,
    decode_message,
)
from primitives.block import Block
from primitives.codec import encode
from simulations.store import MemoryStore
from tests.node.support import (
    Bench,
    Net,
    Parcel,
    key_of,
    make_batch,
    make_genesis,
    make_transaction,
    rules_of,
)

ANY_HASH = b"\x07" * 32


def executed_on(net: Net, id: str, transactions: Sequence[CheckedTransaction]) -> bool:
    """Whether a node's store has a receipt of success for all of them."""
    store = net[id].store
    for transaction in transactions:
        position = store.transaction_position(transaction.id)
        receipts = None if position is None else store.receipts(position[0])
        if position is None or receipts is None:
            return False
        if receipts[position[1]].code != ReceiptCode.OK:
            return False
    return True


def executed(net: Net, transactions: Sequence[CheckedTransaction]) -> bool:
    """Whether all nodes have them."""
    return all(executed_on(net, id, transactions) for id in net.benches)


def view_changes(net: Net) -> int:
    """How many views were left, on all nodes together."""
    return sum(bench.core.counters["view_changes"] for bench in net.benches.values())


def is_batch(parcel: Parcel) -> bool:
    """Whether it carries a batch."""
    content = parcel.content
    return (
        isinstance(content, bytes)
        and not parcel.gossip
        and isinstance(decode_message(content), BatchBody)
    )


def is_vote(parcel: Parcel) -> bool:
    """Whether it carries a PREPARE."""
    if not isinstance(parcel.content, bytes) or parcel.gossip:
        return False
    message = decode_message(parcel.content)
    return isinstance(message, Consensus) and isinstance(message.signed.message, Prepare)


def make_chain(genesis: Genesis, blocks: int, batches: int = 1) -> MemoryStore:
    """The store of a single recorder after some blocks."""
    bench = Bench(genesis, "recorder-1")
    bench.start()
    for number in range(blocks * batches):
        bench.now += 10
        bench.step(Submitted((make_transaction(genesis, "recorder-1", number),)))
        bench.expire(bench.now + 10)
    assert bench.core.head.height == blocks * batches
    return bench.store


def synced(
    genesis: Genesis, store: MemoryStore, height: int, count: int = 1
) -> tuple[SyncedBlock, ...]:
    """Blocks of a store as an answer brings them."""
    bench = Bench(genesis, "recorder-1", store)
    wanted = BlocksWanted(height, count)
    found = bench.core.answer(wanted)
    assert isinstance(found, BlocksFound)
    return check_blocks_found(wanted, found, lambda _: None, rules_of(genesis))


# ---- submit to receipt ---------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [(1, 0, 0), (1, 1, 1), (4, 0, 0), (4, 4, 2)])
def test_a_transaction_gets_its_receipt_on_every_node(roles: tuple[int, int, int]) -> None:
    net = Net(make_genesis(*roles))
    taken = [t for n, id in enumerate(net.benches) for t in net.submit(id, n)]

    net.run(10_000, lambda: executed(net, taken))

    assert executed(net, taken)
    roots = [bench.core.head.state_root for bench in net.benches.values()]
    assert len(dict.fromkeys(roots)) == 1
    assert view_changes(net) == 0


def test_the_same_transaction_at_two_nodes_runs_once() -> None:
    net = Net(make_genesis(4))
    first = net.submit("recorder-1", 1)
    net.submit("recorder-2", 1)

    net.run(10_000)

    assert executed(net, first)
    assert view_changes(net) == 0
    assert [len(bench.core.mempool) for bench in net.benches.values()] == [0] * 4


def test_an_idle_network_falls_silent_and_does_not_change_views() -> None:
    net = Net(make_genesis(4))
    taken = net.submit("recorder-1", 1)
    net.run(5_000, lambda: executed(net, taken))
    height = net.heights()

    net.run(120_000)

    assert net.heights() == height
    assert view_changes(net) == 0
    assert all(bench.core.view == 0 for bench in net.benches.values())


def test_a_heartbeat_block_is_made_when_it_is_due_and_only_then() -> None:
    net = Net(make_genesis(4, heartbeat_ms=5_000))

    net.run(26_000)

    assert set(net.heights()) == {5}
    assert view_changes(net) == 0
    assert net["recorder-1"].store.receipts(5) == ()


def test_a_wall_clock_that_jumps_back_neither_stops_the_heartbeat_of_others_nor_spins() -> None:
    net = Net(make_genesis(4, heartbeat_ms=5_000))
    net.run(6_000)
    for bench in net.benches.values():
        bench.skew_ms = -3_600_000

    net.run(20_000)
    height = net["recorder-1"].core.head.height
    assert height < 3
    taken = net.submit("recorder-2", 1)
    net.run(60_000, lambda: executed(net, taken))

    # A block above the head's time is an hour ahead of these clocks: nobody may vote for it.
    assert not executed(net, taken)
    for bench in net.benches.values():
        bench.skew_ms = 0
    net.run(60_000, lambda: executed(net, taken))
    assert executed(net, taken)


# ---- repair --------------------------------------------------------------------------------------


def test_a_voter_that_lacks_a_batch_asks_for_it() -> None:
    net = Net(make_genesis(4))
    net.lose = lambda parcel: is_batch(parcel) and parcel.to == "recorder-3"
    taken = net.submit("recorder-1", 1)

    net.run(5_000, lambda: executed(net, taken))

    assert executed(net, taken)
    asked = [peer for asker, peer, r in net.requests if asker == "recorder-3"]
    assert asked
    assert view_changes(net) == 0


def test_bodies_are_lost_for_all_and_the_announcement_brings_them() -> None:
    net = Net(make_genesis(4, observers=1))
    net.lose = is_batch
    taken = net.submit("observer-1", 1)

    net.run(10_000, lambda: executed(net, taken))

    assert executed(net, taken)


def test_a_batch_that_only_one_voter_holds_is_ordered_though_its_author_died() -> None:
    net = Net(make_genesis(4, observers=1))
    net.lose = lambda parcel: is_batch(parcel) and parcel.to != "recorder-4"
    taken = net.submit("observer-1", 1)
    net.run(5)
    net.stop("observer-1")
    assert [len(bench.core.mempool) for bench in net.benches.values()] == [0, 0, 0, 1]

    net.run(60_000, lambda: executed(net, taken))

    assert executed(net, taken)


def test_a_dead_primary_costs_a_view() -> None:
    net = Net(make_genesis(4))
    primary = net["recorder-1"].core.chain.committee.primary(1, 0)
    net.stop(primary)
    taken = net.submit(next(iter(net.benches)), 1)

    net.run(30_000, lambda: executed(net, taken))

    assert executed(net, taken)
    assert view_changes(net) == 3


def test_a_laggard_syncs_more_than_one_answer_holds() -> None:
    genesis = make_genesis(1, observers=1)
    net = Net(genesis, "recorder-1")
    for number in range(70):
        net.submit("recorder-1", number)
        net.run(10)
    assert net.heights() == [70]

    net.start("observer-1")
    net.run(1_000, lambda: net.heights() == [70, 70])

    assert net.heights() == [70, 70]
    assert [request for _, _, request in net.requests] == [
        BlocksWanted(1, 64),
        BlocksWanted(65, 6),
    ]
    assert net["observer-1"].store.values == net["recorder-1"].store.values


def test_a_voter_that_was_cut_off_catches_up_and_votes_again() -> None:
    net = Net(make_genesis(4))
    store = net.stop("recorder-4")
    for number in range(5):
        taken = net.submit("recorder-1", number)
        net.run(30_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]

    net.start("recorder-4", store)
    net.stop("recorder-3")
    last = net.submit("recorder-4", 100)
    net.run(60_000, lambda: executed(net, last))

    assert executed(net, last)


def test_an_observer_follows_without_gossip() -> None:
    net = Net(make_genesis(4, observers=1))
    net.lose = lambda parcel: parcel.gossip
    taken = net.submit("recorder-1", 1)

    net.run(10_000, lambda: executed(net, taken))

    assert executed(net, taken)


def test_a_censored_batch_reaches_the_primary_or_ends_its_view() -> None:
    net = Net(make_genesis(4, observers=2, censorship_heights=2))
    holder = "recorder-1"

    def lose(parcel: Parcel) -> bool:
        from_victim = "observer-1" in (parcel.sender, parcel.to)
        return from_victim and holder not in (parcel.sender, parcel.to)

    net.lose = lose
    taken = net.submit("observer-1", 1)
    net.run(5)
    net.lose = lambda parcel: "observer-1" in (parcel.sender, parcel.to)
    for number in range(10, 20):
        net.submit("observer-2", number)
        net.run(10)

    net.run(10_000, lambda: executed_on(net, "recorder-2", taken))

    assert executed_on(net, "recorder-2", taken)


def test_a_batch_that_is_left_out_for_long_is_a_reason_to_leave_the_view() -> None:
    genesis = make_genesis(4, censorship_heights=2)
    net = Net(genesis)
    left_out = make_batch(genesis, "recorder-4", 1)
    for bench in net.benches.values():
        bench.step(BatchArrived(left_out))
        held = next(iter(bench.core.mempool.held()))
        held.overtaken = 3
    # It is in the next block all the same; then nothing is suspected.
    net.run(1_000)
    bench = net["recorder-1"]
    assert bench.core.head.height == 1
    assert "batch_left_out" not in bench.core.counters

    # Held by one node alone, and taken by no primary.
    alone = make_batch(genesis, "recorder-4", 2)
    net.lose = lambda parcel: is_batch(parcel) and parcel.sender == "recorder-1"
    net.step("recorder-1", BatchArrived(alone))
    net.submit("recorder-2", 50)
    next(iter(bench.core.mempool.held())).overtaken = 3
    net.run(200)
    assert bench.core.counters["batch_left_out"] == 1


# ---- crashes -------------------------------------------------------------------------------------


def test_all_nodes_crash_after_their_promises_and_go_on() -> None:
    """What was promised is durable with its batches, though nothing of it was sent."""
    net = Net(make_genesis(4))
    lost: list[Parcel] = []

    def lose(parcel: Parcel) -> bool:
        if is_vote(parcel):
            lost.append(parcel)
        return is_vote(parcel)

    net.lose = lose
    taken = net.submit("recorder-1", 1)
    net.run(500)
    assert net.heights() == [0, 0, 0, 0]
    assert len(lost) >= 12
    stores = {id: net.stop(id) for id in list(net.benches)}
    assert all(store.promises(1) for store in stores.values())

    net.lose = lambda parcel: False
    for id, store in stores.items():
        net.start(id, store)
    net.run(30_000, lambda: executed(net, taken))

    assert executed(net, taken)


@pytest.mark.parametrize("sent", [False, True])
def test_a_primary_that_crashed_around_its_proposal_proposes_the_same(sent: bool) -> None:
    genesis = make_genesis(4)
    net = Net(genesis)
    primary = net["recorder-1"].core.chain.committee.primary(1, 0)
    net.lose = lambda parcel: is_vote(parcel) or (parcel.sender == primary and not sent)
    net.submit(primary, 1)
    net.run(5)
    before = [p.signed for p in net[primary].store.promises(1)]
    net.lose = lambda parcel: False
    assert before
    net.start(primary, net.stop(primary))
    net.run(20_000)

    assert set(net.heights()) == {1}
    decided = net[primary].store.decision(1)
    assert decided is not None
    proposals = [s.message.block for s in before if isinstance(s.message, PrePrepare)]
    assert sent or view_changes(net) == 0
    assert [block.hash for block in proposals] == [decided.block.hash]


def test_a_promised_block_finds_its_batches_in_the_store_though_the_mempool_refuses_them() -> None:
    genesis = make_genesis(4)
    bench = Bench(genesis, "recorder-1")
    bench.start()
    first, twin = make_batch(genesis, "recorder-4", 5), make_batch(genesis, "recorder-4", 5)
    other = make_batch(genesis, "recorder-4", 5, [make_transaction(genesis, "recorder-4", 77)])
    assert first.id == twin.id != other.id
    proposer = Bench(genesis, bench.core.chain.committee.primary(1, 0))
    proposer.start()
    proposer.step(BatchArrived(other))
    proposal = next(
        e.promise.signed
        for e in proposer.effects
        if isinstance(e, WritePromise) and isinstance(e.promise.signed.message, PrePrepare)
    )
    # The voter holds `first` under the same author and sequence, and gets `other` when it asks.
    bench.step(BatchArrived(first))
    bench.step(PeerConnected(proposer.id))
    bench.step(MessageArrived(proposer.id, Consensus(proposal)))
    bench.expire(bench.now + 100)
    assert (proposer.id, BatchesWanted((other.id,))) in bench.asked()
    bench.step(BatchArrived(other))
    assert bench.core.counters["batch_sequence_used_twice"] == 1
    assert any(isinstance(m, Consensus) for _, m in bench.sent())
    assert bench.store.promises(1)

    again = Bench(genesis, bench.id, bench.store, now=5_000)
    pending = [first, other]
    again.core.start(pending, again.now, again.wall)
    # Its votes are restored, and the block that they are for is checked again without a peer.
    message = proposal.message
    assert isinstance(message, PrePrepare)
    again.expire(again.now + 100)
    again.step(PeerConnected(proposer.id))
    again.step(MessageArrived(proposer.id, Consensus(proposal)))
    for name in ("recorder-2", "recorder-3", "recorder-4"):
        vote = Prepare(1, 0, message.block.hash)
        signed = sign(genesis.chain_id, name, key_of(name), vote)
        again.step(MessageArrived(proposer.id, Consensus(signed)))
    assert again.core.undecided_block(message.block.hash) == message.block


# ---- a restored backup ---------------------------------------------------------------------------


def test_a_restored_node_abstains_until_the_others_are_two_blocks_on() -> None:
    net = Net(make_genesis(4))
    for number in range(3):
        taken = net.submit("recorder-1", number)
        net.run(30_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]
    backup = net["recorder-4"].store.copy()
    for number in range(3, 5):
        taken = net.submit("recorder-1", number)
        net.run(30_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]
    net.stop("recorder-4")

    bench = net.start("recorder-4", backup, restored=True)
    assert bench.core.counters["abstaining"] == 1
    for number in range(10, 12):
        assert bench.core.abstaining
        assert not bench.core.votes
        taken = net.submit("recorder-1", number)
        net.run(30_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]

    assert bench.core.head.height == 7
    assert not bench.core.abstaining
    assert bench.core.votes
    assert bench.core.counters["abstained"] == 1
    # Its vote counts again.
    net.stop("recorder-3")
    last = net.submit("recorder-4", 100)
    net.run(30_000, lambda: executed(net, last))
    assert executed(net, last)


def test_members_that_lie_about_their_heads_do_not_silence_a_restored_node_for_ever() -> None:
    genesis = make_genesis(7)
    store = MemoryStore()
    bench = Bench(genesis, "recorder-7", store, restored=True)
    bench.start()
    names = [f"recorder-{number}" for number in range(1, 7)]
    for name in names:
        bench.step(PeerConnected(name))
        claim = 10**9 if name == "recorder-1" else 0
        bench.step(MessageArrived(name, Head(claim, ANY_HASH)))
    net = Net(genesis, *names)
    for number in range(2):
        taken = net.submit("recorder-1", number)
        net.run(30_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]
        bench.now = net.now
        assert not bench.core.votes
        blocks = synced(genesis, net["recorder-2"].store, number + 1)
        bench.step(BlocksArrived("recorder-2", blocks, number + 1))
    assert bench.core.head.height == 2
    assert bench.core.votes


def test_a_single_recorder_that_was_restored_does_not_vote_by_itself() -> None:
    bench = Bench(make_genesis(1), "recorder-1", restored=True)
    bench.start()
    bench.step(Submitted((make_transaction(bench.genesis, "recorder-1", 1),)))
    bench.expire(bench.now + 60_000)
    assert bench.core.abstaining
    assert bench.core.head.height == 0
    assert bench.core.view == 0
    assert not any(isinstance(effect, WritePromise) for effect in bench.effects)


# ---- what peers may try --------------------------------------------------------------------------


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
    primary.step(BatchArrived(last))
    signed = next(
        e.promise.signed
        for e in primary.effects
        if isinstance(e, WritePromise) and isinstance(e.promise.signed.message, PrePrepare)
    )
    assert isinstance(signed.message, PrePrepare)
    return signed, signed.message.block, primary


def test_a_late_batch_that_a_block_has_listed_is_no_work() -> None:
    net = Net(make_genesis(4))
    taken = net.submit("recorder-1", 1)
    net.run(1_000, lambda: executed(net, taken))
    raw = net["recorder-1"].store.decision(1)
    assert raw is not None
    late = make_batch(net.genesis, "recorder-3", 9, taken)

    for id in net.benches:
        net.step(id, BatchArrived(late))
    net.run(60_000)

    assert all(bench.core.counters["batch_dead"] == 1 for bench in net.benches.values())
    assert view_changes(net) == 0


def test_a_batch_from_the_far_future_is_no_work() -> None:
    genesis = make_genesis(4)
    net = Net(genesis)
    window = genesis.limits.replay_window_blocks
    far = make_transaction(genesis, "recorder-3", 1, until_height=window + 2)
    for id in net.benches:
        net.step(id, BatchArrived(make_batch(genesis, "recorder-3", 1, [far])))
        net.step(id, BatchArrived(make_batch(genesis, "recorder-3", 2, until_height=2**40)))
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
    bench.step(BatchArrived(make_batch(genesis, "recorder-4", 1)))

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
    bench.step(BatchArrived(make_batch(genesis, "recorder-4", 1)))

    bench.step(MessageArrived("recorder-2", Consensus(signed)))

    assert (bench.core.undecided_block(block.hash) is not None) == votes
    assert bench.reported() == ([] if votes else ["clock_differs"])
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
    bench.step(BatchArrived(make_batch(genesis, "recorder-4", 1)))

    bench.step(MessageArrived("recorder-2", Consensus(signed)))
    assert bench.reported() == ["block_invalid"]
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

    bench.step(BatchArrived(make_batch(genesis, "recorder-4", 1)))
    assert bench.core.undecided_block(block.hash) is None
    bench.step(BatchArrived(make_batch(genesis, "recorder-3", 7)))

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

    bad = [
        good[1],
        changed(signatures=()),
        changed(height=2),
        changed(block_hash=ANY_HASH),
        SyncedBlock(decision, ()),
        SyncedBlock(
            type(decision)(Block(decision.block.header, encode((ANY_HASH,))), certificate), batches
        ),
    ]
    bench = start_voter(genesis, "observer-1")
    for count, block in enumerate(bad, start=1):
        bench.step(BlocksArrived("recorder-1", (block,), 3))
        bench.step(RequestEnded("recorder-1", BlocksWanted(1, 1), True))
        assert bench.core.counters["sync_refused"] == count
        assert bench.core.head.height == 0

    bench.step(BlocksArrived("recorder-1", good[:2], 3))
    assert bench.core.head.height == 2
    # An answer that was overtaken is nobody's fault.
    bench.step(BlocksArrived("recorder-1", good, 3))
    assert bench.core.head.height == 3
    assert bench.core.counters["sync_refused"] == len(bad)


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
    assert bench.core.counters["announcements_dropped"] == 1
    # Another holder's announcement asks for nothing that is asked for already.
    bench.step(GossipArrived("recorder-2", BatchesAnnounced((one.id, ANY_HASH))))
    assert bench.asked() == [("recorder-2", BatchesWanted((ANY_HASH,)))]
    bench.step(BatchArrived(one))
    bench.step(RequestEnded("observer-1", asked, True))
    bench.now += 1_000
    bench.step(GossipArrived("observer-1", BatchesAnnounced((one.id, two.id))))
    assert bench.asked() == [("observer-1", BatchesWanted((two.id,)))]
    # Whoever is not connected cannot be asked.
    bench.step(PeerDisconnected("recorder-3"))
    bench.step(GossipArrived("recorder-3", BatchesAnnounced((b"\x01" * 32,))))
    assert bench.asked() == []


def test_an_author_of_useless_batches_is_not_asked_for_a_while() -> None:
    genesis = make_genesis(4, observers=1)
    bench = start_voter(genesis)
    dead = make_batch(genesis, "observer-1", 1, until_height=0)
    bench.step(BatchArrived(dead))
    for seconds, asks in ((1, 0), (3, 0), (6, 1)):
        bench.now = 1_000 + seconds * 1_000
        bench.step(GossipArrived("observer-1", BatchesAnnounced((dead.id,))))
        assert len(bench.asked()) == asks


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
    assert bench.asked() == [("recorder-1", BlocksWanted(1, 1))]
    bench.step(GossipArrived("stranger", HeadAnnounced(9, ANY_HASH)))
    assert bench.core.sync.target() == 1


def test_a_message_of_a_later_height_tells_a_head() -> None:
    genesis = make_genesis(4)
    bench = start_voter(genesis)
    ahead = sign(genesis.chain_id, "recorder-2", key_of("recorder-2"), Prepare(9, 0, ANY_HASH))
    bench.step(MessageArrived("recorder-2", Consensus(ahead)))
    assert bench.asked() == [("recorder-2", BlocksWanted(1, 8))]


# ---- the boundary --------------------------------------------------------------------------------


def test_block_stored_follows_a_write_block_and_nothing_else_does() -> None:
    genesis = make_genesis(1)
    bench = Bench(genesis, "recorder-1")
    bench.start()
    with pytest.raises(ValueError, match="BlockStored"):
        bench.core.step(BlockStored(), bench.now, bench.wall)
    bench.step(Submitted((make_transaction(genesis, "recorder-1", 1),)))
    effects = bench.core.step(Expired(), bench.core.deadline, bench.wall)
    assert isinstance(effects[-1], WriteBlock) or any(isinstance(e, WriteBlock) for e in effects)
    with pytest.raises(ValueError, match="BlockStored"):
        bench.core.step(Expired(), bench.now, bench.wall)


def test_a_store_without_genesis_is_refused() -> None:
    genesis = make_genesis(1)
    with pytest.raises(ValueError, match="genesis"):
        Core(
            genesis,
            "recorder-1",
            key_of("recorder-1"),
            MemoryStore(),
            CoreSettings(),
            ReplayWindow(10),
            restored=False,
            now=0,
        )


def test_nothing_advances_without_a_block() -> None:
    bench = Bench(make_genesis(1), "recorder-1")
    with pytest.raises(RuntimeError, match="no block"):
        bench.core.chain.advance()
