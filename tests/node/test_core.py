"""Cores wired together in virtual time: from a client's transaction to its receipt everywhere, and
what repairs what went wrong on the way.
"""

from typing import Any

import pytest

import ledger.execution
import node.chain
from consensus.messages import Prepare, PrePrepare, sign
from ledger.execution import ExecutedBlock, execute_block
from ledger.replay import ReplayWindow
from ledger.store import WriteBatch, WriteBlock, WritePromise
from node.core import Core
from node.events import (
    BatchArrived,
    BlocksArrived,
    BlockStored,
    Expired,
    MessageArrived,
    PeerConnected,
    Submitted,
)
from node.settings import CoreSettings
from node.wire import (
    BatchBody,
    BatchesWanted,
    BlocksWanted,
    Consensus,
    Head,
    decode_message,
)
from primitives.block import BlockHeader
from simulations.store import MemoryStore
from tests.node.support import (
    Bench,
    Net,
    Parcel,
    executed,
    executed_on,
    key_of,
    make_batch,
    make_genesis,
    make_transaction,
    synced,
    view_changes,
)

ANY_HASH = b"\x07" * 32


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


def test_a_block_is_executed_once_by_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary when it proposes, the others when they judge, nobody again when it is written."""
    heights: list[int] = []

    def counted(parent: BlockHeader, *rest: Any) -> ExecutedBlock:
        heights.append(parent.height + 1)
        return execute_block(parent, *rest)

    # check_block calls the one of its own module.
    for module in (node.chain, ledger.execution):
        monkeypatch.setattr(module, "execute_block", counted)
    net = Net(make_genesis(4, 1, 1))
    for number in range(5):
        taken = net.submit("recorder-1", number)
        net.run(10_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]

    head = net["recorder-1"].core.head.height
    assert head == 5
    assert sorted(heights) == sorted([*range(1, head + 1)] * 6)


def test_the_same_transaction_at_two_nodes_runs_once() -> None:
    net = Net(make_genesis(4))
    first = net.submit("recorder-1", 1)
    net.step("recorder-2", Submitted(tuple(first)))

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


@pytest.mark.parametrize("roles", [(4, 0, 0), (4, 3, 0)])
def test_views_stop_changing_when_what_waited_has_expired(roles: tuple[int, int, int]) -> None:
    net = Net(make_genesis(*roles))
    net.lose = lambda parcel: not is_batch(parcel)
    soon = make_transaction(net.genesis, "recorder-1", 1, until_ms=net["recorder-1"].wall + 5_000)
    net.step("recorder-1", Submitted((soon,)))
    net.run(60_000)
    net.lose = lambda parcel: False
    net.run(60_000)
    changed = view_changes(net)
    assert changed > 0

    net.run(600_000)

    assert view_changes(net) == changed
    taken = net.submit("recorder-2", 2)
    net.run(60_000, lambda: executed(net, taken))
    assert executed(net, taken)


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


def test_a_voter_that_was_busy_for_three_blocks_needs_nobody_to_catch_up() -> None:
    net = Net(make_genesis(4))
    busy, late = "recorder-1", list[Parcel]()

    def holds(parcel: Parcel) -> bool:
        if parcel.to == busy:
            late.append(parcel)
        return parcel.to == busy

    net.lose = holds
    for height in (1, 2, 3):
        net.submit("recorder-2", height)
        net.deliver()
        assert net.heights() == [0, height, height, height]
    net.lose = lambda _: False
    # All that one member said comes before what the next one said.
    net.resume(sorted(late, key=lambda parcel: parcel.sender))
    net.deliver()
    assert net.heights() == [3, 3, 3, 3]
    assert not net.benches[busy].core.counters["batch_ahead"]


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
    proposer.step(BatchArrived("recorder-3", other))
    proposal = next(
        e.promise.signed
        for e in proposer.effects
        if isinstance(e, WritePromise) and isinstance(e.promise.signed.message, PrePrepare)
    )
    # The voter holds `first` under the same author and sequence, and gets `other` when it asks.
    bench.step(BatchArrived("recorder-3", first))
    bench.step(PeerConnected(proposer.id))
    bench.step(MessageArrived(proposer.id, Consensus(proposal)))
    bench.expire(bench.now + 100)
    assert (proposer.id, BatchesWanted((other.id,))) in bench.asked()
    bench.step(BatchArrived("recorder-3", other))
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
        again.step(MessageArrived(name, Consensus(signed)))
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


# ---- the boundary --------------------------------------------------------------------------------


def test_block_stored_follows_a_write_block_and_nothing_else_does() -> None:
    genesis = make_genesis(1)
    bench = Bench(genesis, "recorder-1")
    bench.start()
    with pytest.raises(ValueError, match="BlockStored"):
        bench.core.step(BlockStored(), bench.now, bench.wall)
    submitted = Submitted((make_transaction(genesis, "recorder-1", 1),))
    assert bench.core.step(submitted, bench.now, bench.wall)
    assert bench.core.deadline == bench.now, "to be ordered once all that waits has been stepped"
    effects = bench.core.step(Expired(), bench.now, bench.wall)
    assert any(isinstance(effect, WriteBlock) for effect in effects)
    with pytest.raises(ValueError, match="BlockStored"):
        bench.core.step(Expired(), bench.now, bench.wall)


def test_a_block_is_made_of_all_that_waited_for_the_turn() -> None:
    genesis = make_genesis(4)
    bench = Bench(genesis, "recorder-2")
    bench.start()
    # recorder-2 is the primary of the first height; the shell gathers before it lets time pass.
    for number, author in enumerate(("recorder-1", "recorder-3", "recorder-4"), 1):
        batch = make_batch(genesis, author, number)
        effects = bench.core.step(BatchArrived(author, batch), bench.now, bench.wall)
        assert not any(isinstance(effect, WritePromise) for effect in effects)
        assert bench.core.deadline == bench.now
    effects = bench.core.step(Expired(), bench.now, bench.wall)
    assert len([effect for effect in effects if isinstance(effect, WriteBatch)]) == 3
    assert any(isinstance(effect, WritePromise) for effect in effects)
    assert bench.core.deadline > bench.now


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
            boots=1,
            restored=False,
            now=0,
        )


def test_nothing_advances_without_a_block() -> None:
    bench = Bench(make_genesis(1), "recorder-1")
    with pytest.raises(RuntimeError, match="no block"):
        bench.core.chain.advance()
