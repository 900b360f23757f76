"""Drafts: voters come to the block that is about to be proposed, and to nothing else by them."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import node.drafts
from consensus.messages import PrePrepare
from ledger.execution import payload_batches
from ledger.transactions import CheckedBatch
from node.events import BatchArrived, Expired, MessageArrived, PeerConnected
from node.settings import CoreSettings
from node.wire import Consensus, Draft, Message, decode_message
from primitives.block import Block
from primitives.codec import encode
from tests.node.support import (
    START_MS,
    Bench,
    Net,
    Parcel,
    executed,
    make_batch,
    make_genesis,
    make_transaction,
    view_changes,
)

GENESIS = make_genesis(4)
VOTERS = ["recorder-1", "recorder-2", "recorder-3", "recorder-4"]
PRIMARY = "recorder-2"
"""Of height 1 in its first view; recorder-3 is that of height 2."""
EVERY = CoreSettings(draft_work_min=1)
"""Whatever is proposed is drafted before."""
BATCHES = [make_batch(GENESIS, author, 1) for author in VOTERS]


def make(id: str, held: Sequence[CheckedBatch] = (), settings: CoreSettings = EVERY) -> Bench:
    """A voter that is connected to all others and holds some batches."""
    bench = Bench(GENESIS, id, settings=settings)
    bench.start()
    for voter in VOTERS:
        if voter != id:
            bench.step(PeerConnected(voter))
    for batch in held:
        bench.core.mempool.add(batch, bench.now)
    return bench


def draft_of(batches: Sequence[CheckedBatch], height: int = 1, time_ms: int = 0) -> Draft:
    """A draft, dated as the clocks of these tests begin."""
    ids = tuple(batch.id for batch in batches)
    return Draft(height, time_ms or START_MS + 1_000, ids)


def hear(bench: Bench, draft: Draft, peer: str = PRIMARY) -> None:
    """The draft comes, and whatever waits for the end of the turn."""
    bench.step(MessageArrived(peer, draft))


def work(bench: Bench) -> tuple[int, int]:
    """Blocks and transactions executed so far."""
    counters = bench.core.counters
    return counters["blocks_executed"], counters["transactions_executed"]


def message_of(parcel: Parcel) -> Message | None:
    """What is said in it, unless it is gossip or a request."""
    content = parcel.content
    return decode_message(content) if isinstance(content, bytes) and not parcel.gossip else None


def proposal(parcel: Parcel) -> Block | None:
    """The block that a message proposes."""
    message = message_of(parcel)
    if isinstance(message, Consensus) and isinstance(message.signed.message, PrePrepare):
        return message.signed.message.block
    return None


# ---- the way of a draft -------------------------------------------------------------------------


def test_what_is_drafted_is_executed_once_by_each_voter_and_before_it_is_proposed() -> None:
    net = Net(make_genesis(4), settings=EVERY)
    kept: list[Parcel] = []

    def keep_proposals(parcel: Parcel) -> bool:
        late = proposal(parcel) is not None
        kept.extend([parcel] * late)
        return late

    net.lose = keep_proposals
    taken = net.submit("recorder-1", 1, 2, 3)
    net.run(50, lambda: len(kept) == 3)
    net.deliver()
    assert [work(bench) for bench in net.benches.values()] == [(1, 3)] * 4
    assert net.heights() == [0] * 4

    net.lose = lambda parcel: False
    net.resume(kept)
    net.run(1_000, lambda: executed(net, taken))
    assert [work(bench) for bench in net.benches.values()] == [(1, 3)] * 4
    assert view_changes(net) == 0


def test_a_block_after_the_other_is_drafted() -> None:
    net = Net(make_genesis(4, 1, 1), settings=EVERY)
    for number in range(6):
        taken = net.submit(f"recorder-{number % 4 + 1}", 2 * number, 2 * number + 1)
        net.run(2_000, lambda taken=taken: executed(net, taken))  # type: ignore[misc]
    head = net["recorder-1"].core.head.height
    assert head >= 6
    assert all(work(bench) == (head, 12) for bench in net.benches.values())
    assert all(bench.core.counters["draft_ignored"] == 0 for bench in net.benches.values())
    assert view_changes(net) == 0


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(BATCHES), min_size=1, max_size=4, unique_by=id),
    later_ms=st.integers(-500, 500),
)
def test_the_block_of_a_draft_is_the_one_that_checking_gives(
    chosen: list[CheckedBatch], later_ms: int
) -> None:
    voter, primary = make("recorder-1", chosen), make(PRIMARY)
    hear(voter, draft_of(chosen, time_ms=voter.wall + later_ms))
    primary.core._outbox.open(primary.now, primary.wall)
    true = primary.core.chain.execute(0, PRIMARY, voter.wall + later_ms, chosen)

    drafted = voter.core._drafts.executed(true.block)
    assert drafted is not None
    assert encode(drafted.block) == encode(true.block)
    assert (drafted.receipts, drafted.changes, drafted.next_committee) == (
        true.receipts,
        true.changes,
        true.next_committee,
    )


# ---- ours ---------------------------------------------------------------------------------------


def drafts_sent(bench: Bench) -> list[tuple[str, Draft]]:
    """The drafts among the last effects, with their receivers."""
    return [(peer, said) for peer, said in bench.sent() if isinstance(said, Draft)]


def proposed(bench: Bench) -> Block | None:
    """The block that this node has promised as primary."""
    blocks = [p.block for p in bench.store.promises(1) if p.block is not None]
    return blocks[0] if blocks else None


def test_a_primary_tells_the_voters_and_builds_in_the_next_step() -> None:
    bench = make(PRIMARY)
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    others = [voter for voter in VOTERS if voter != PRIMARY]
    assert drafts_sent(bench) == [(voter, draft_of(BATCHES[:1])) for voter in others]
    assert proposed(bench) is None
    assert bench.core.deadline == bench.now

    bench.step(BatchArrived("recorder-3", BATCHES[2]))
    block = proposed(bench)
    assert block is not None
    assert block.header.time_ms == START_MS + 1_000
    assert work(bench) == (1, 1)
    assert drafts_sent(bench) == []


def test_before_a_large_block_is_built_the_network_has_time_for_the_draft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node.drafts, "WORK_PER_MS", 1)
    bench = make(PRIMARY)
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    assert drafts_sent(bench)
    bench.now += 20
    bench.step(BatchArrived("recorder-3", BATCHES[2]))
    # It is counted from the step after, when what was said has been written and sent.
    assert proposed(bench) is None
    assert bench.core.deadline == bench.now + BATCHES[0].work
    bench.expire(bench.now + BATCHES[0].work)
    block = proposed(bench)
    assert block is not None
    assert block.header.time_ms == START_MS + 1_000
    assert len(drafts_sent(bench)) == 0


@pytest.mark.parametrize("enough", [False, True])
def test_a_small_block_is_not_drafted(enough: bool) -> None:
    bench = make(PRIMARY, settings=CoreSettings(draft_work_min=2 if enough else 3))
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    assert bool(drafts_sent(bench)) == enough
    assert (proposed(bench) is None) == enough


def test_nothing_is_drafted_for_nobody() -> None:
    bench = Bench(GENESIS, PRIMARY, settings=EVERY)
    bench.start()
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    assert proposed(bench) is not None


def test_what_was_drafted_long_ago_is_chosen_anew() -> None:
    bench = make(PRIMARY)
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    bench.skew_ms = GENESIS.clock_drift_ms_max // 2 + 1
    bench.expire(bench.now)
    block = proposed(bench)
    assert block is not None
    assert block.header.time_ms == bench.wall
    assert drafts_sent(bench) == []


def test_what_died_before_it_was_proposed_is_not_proposed_later() -> None:
    bench = make(PRIMARY)
    short = make_transaction(GENESIS, "recorder-1", 9, until_ms=bench.wall)
    bench.core.mempool.add(make_batch(GENESIS, "recorder-1", 9, [short]), bench.now)
    bench.core._pend_due = True
    bench.core.step(Expired(), bench.now, bench.wall)
    assert bench.core._drafts.deadline == bench.now
    bench.now += 1
    bench.expire(bench.now)
    assert proposed(bench) is None

    bench.expire(bench.now + GENESIS.clock_drift_ms_max // 4)
    bench.step(BatchArrived("recorder-3", BATCHES[2]))
    block = proposed(bench)
    assert block is not None
    assert (block.header.time_ms, payload_batches(block.payload)) == (bench.wall, (BATCHES[2].id,))


def test_only_the_first_view_is_drafted() -> None:
    net = Net(make_genesis(4), "recorder-1", "recorder-3", "recorder-4", settings=EVERY)
    sent: list[int] = []

    def watch(parcel: Parcel) -> bool:
        message = message_of(parcel)
        if isinstance(message, Draft):
            sent.append(message.height)
        return False

    net.lose = watch
    taken = net.submit("recorder-1", 1)
    net.run(60_000, lambda: executed(net, taken))
    assert executed(net, taken)
    assert net["recorder-1"].core.head.view == 1
    assert sent == []


def test_what_was_drafted_is_dropped_where_another_view_decides_another_block() -> None:
    net = Net(GENESIS, settings=EVERY)
    net.lose = lambda parcel: parcel.sender == PRIMARY and proposal(parcel) is not None
    taken = net.submit("recorder-1", 1)
    net.run(60_000, lambda: executed(net, taken))
    assert executed(net, taken)
    decided = net["recorder-1"].store.decision(1)
    assert decided is not None
    assert (decided.block.header.view, decided.block.header.proposer) == (1, "recorder-3")
    assert all(bench.core.head == net[PRIMARY].core.head for bench in net.benches.values())
    # What the first primary drafted, and what the second proposed.
    assert [work(bench)[0] for bench in net.benches.values()] == [2] * 4


def test_a_primary_that_restarts_proposes_another_block_than_it_has_drafted() -> None:
    voter, bench = make("recorder-1", BATCHES[:1]), make(PRIMARY)
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    hear(voter, draft_of(BATCHES[:1]))
    again = Bench(GENESIS, PRIMARY, bench.store, now=1_700, settings=EVERY)
    again.start()
    for peer in ("recorder-1", "recorder-3"):
        again.step(PeerConnected(peer))
    again.step(BatchArrived("recorder-1", BATCHES[0]))
    hear(voter, draft_of(BATCHES[:1], time_ms=again.wall))
    assert voter.core.counters["draft_ignored"] == 1
    again.expire(again.now)
    (promise, *_) = again.store.promises(1)
    voter.step(MessageArrived(PRIMARY, Consensus(promise.signed)))
    assert [p.block for p in voter.store.promises(1)] == [proposed(again)]
    assert work(voter) == (2, 2)


# ---- the others' --------------------------------------------------------------------------------


def test_a_false_draft_costs_one_execution_and_nothing_else() -> None:
    voter, bench = make("recorder-1", BATCHES), make(PRIMARY, settings=CoreSettings())
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    hear(voter, draft_of(BATCHES[1:]))
    hear(voter, draft_of(BATCHES))
    assert work(voter) == (1, 3)
    (promise, *_) = bench.store.promises(1)
    voter.step(MessageArrived(PRIMARY, Consensus(promise.signed)))
    assert [p.block for p in voter.store.promises(1)] == [proposed(bench)]
    assert work(voter) == (2, 4)
    assert voter.core.conduct.counts() == {}


def test_a_proposal_like_its_draft_is_still_held_against_the_clock() -> None:
    voter, bench = make("recorder-1", BATCHES[:1]), make(PRIMARY, settings=CoreSettings())
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    hear(voter, draft_of(BATCHES[:1]))
    assert work(voter) == (1, 1)
    voter.skew_ms = GENESIS.clock_drift_ms_max + 1
    (promise, *_) = bench.store.promises(1)
    voter.step(MessageArrived(PRIMARY, Consensus(promise.signed)))
    assert voter.store.promises(1) == ()
    assert voter.core.counters["clock_differs"] == 1


def test_a_draft_waits_for_its_batches() -> None:
    voter = make("recorder-1", BATCHES[:1])
    hear(voter, draft_of(BATCHES[:2]))
    assert work(voter) == (0, 0)
    voter.step(BatchArrived(PRIMARY, BATCHES[1]))
    assert work(voter) == (1, 2)
    voter.step(BatchArrived("recorder-3", BATCHES[2]))
    assert work(voter) == (1, 2)


def test_a_draft_that_comes_after_its_proposal_is_not_executed() -> None:
    voter, bench = make("recorder-1", BATCHES[:1]), make(PRIMARY, settings=CoreSettings())
    bench.step(BatchArrived("recorder-1", BATCHES[0]))
    (promise, *_) = bench.store.promises(1)
    voter.step(MessageArrived(PRIMARY, Consensus(promise.signed)))
    hear(voter, draft_of(BATCHES[:1], time_ms=START_MS + 1_001))
    assert work(voter) == (1, 1)


@pytest.mark.parametrize(
    ("peer", "draft"),
    [
        ("recorder-3", draft_of(BATCHES)),
        (PRIMARY, draft_of(BATCHES, height=0)),
        (PRIMARY, draft_of(BATCHES, height=2)),
        ("recorder-4", draft_of(BATCHES, height=3)),
        (PRIMARY, draft_of(BATCHES, time_ms=START_MS + 1_001 + GENESIS.clock_drift_ms_max)),
    ],
    ids=["out of turn", "of the past", "of another's height", "far ahead", "of another time"],
)
def test_what_cannot_be_proposed_is_not_executed(peer: str, draft: Draft) -> None:
    voter = make("recorder-1", BATCHES)
    hear(voter, draft, peer)
    assert work(voter) == (0, 0)
    assert voter.core.counters["draft_ignored"] == 1
    assert voter.core.deadline > voter.now


def test_whoever_drafts_what_no_block_may_list_is_blamed() -> None:
    voter = make("recorder-1", BATCHES)
    hear(voter, draft_of([BATCHES[0], BATCHES[0]]))
    assert voter.core.conduct.counts() == {PRIMARY: {"draft_invalid": 1}}
    assert voter.core._drafts._executed is None


def test_who_has_no_vote_does_not_listen() -> None:
    genesis = make_genesis(4, 0, 1)
    bench = Bench(genesis, "observer-1", settings=EVERY)
    bench.start()
    bench.core.mempool.add(BATCHES[0], bench.now)
    hear(bench, draft_of(BATCHES[:1]))
    assert work(bench) == (0, 0)


def test_who_has_left_the_view_executes_no_draft_of_it() -> None:
    voter = make("recorder-1", BATCHES)
    voter.step(BatchArrived("recorder-3", make_batch(GENESIS, "recorder-3", 2)))
    voter.expire(voter.now + 20_000)
    assert voter.core.view > 0
    hear(voter, draft_of(BATCHES, time_ms=voter.wall))
    assert work(voter) == (0, 0)


def test_a_draft_of_the_next_height_waits_for_it() -> None:
    net = Net(GENESIS, settings=CoreSettings())
    voter, extra = net["recorder-1"], make_batch(GENESIS, "recorder-4", 9)
    voter.core.mempool.add(extra, net.now)
    hear(voter, draft_of([extra], 2, START_MS + 1_100), "recorder-3")
    assert work(voter) == (0, 0)
    assert voter.core.deadline > voter.now
    net.submit(PRIMARY, 1)
    net.run(1_000, lambda: voter.core.head.height == 1)
    assert work(voter) == (2, 2)


def test_an_early_draft_is_none_where_the_turn_is_another_s_after_all() -> None:
    net = Net(GENESIS, "recorder-1", "recorder-3", "recorder-4", settings=CoreSettings())
    voter, extra = net["recorder-1"], make_batch(GENESIS, "recorder-4", 9)
    voter.core.mempool.add(extra, net.now)
    hear(voter, draft_of([extra], 2, START_MS + 5_000), "recorder-3")
    taken = net.submit("recorder-1", 1)
    net.run(60_000, lambda: executed(net, taken))
    # The first primary has let its turn pass, and is benched.
    assert voter.core.head.view == 1
    assert voter.core.chain.committee.primary(2, 0) == "recorder-4"
    assert voter.core._drafts._executed is None
    assert voter.core.counters["draft_ignored"] == 1


def test_drafts_of_the_past_are_forgotten() -> None:
    net = Net(GENESIS, settings=CoreSettings())
    voter = net["recorder-1"]
    voter.core.mempool.add(BATCHES[3], net.now)
    hear(voter, draft_of(BATCHES[3:]))
    assert work(voter) == (1, 1)
    taken = net.submit(PRIMARY, 1)
    net.run(1_000, lambda: executed(net, taken))
    assert voter.core._drafts._executed is None
    assert voter.core._drafts._heard == {}
