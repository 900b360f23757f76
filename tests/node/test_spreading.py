"""Our part in what spreads: sealing, carrying, announcing, telling heads."""

import pytest

from consensus.intake import HELD_HEIGHTS
from ledger.store import Write, WriteBatch, WritePromise
from ledger.transactions import LAG_BLOCKS, CheckedBatch
from node.events import (
    BatchArrived,
    PeerConnected,
    PeerDisconnected,
    SendMessage,
    Submitted,
)
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.spreading import BOOTS_COUNTED, SpreadSettings
from node.wire import BatchBody, BatchesAnnounced, Head, HeadAnnounced
from tests.node.support import Bench, Net, make_batch, make_genesis, make_transaction

GENESIS = make_genesis(4, observers=1)
VOTERS = ["recorder-1", "recorder-2", "recorder-3", "recorder-4"]


def make(id: str = "observer-1", **settings: int) -> Bench:
    """A member to which all voters are connected."""
    genesis = make_genesis(4, observers=1, **settings)
    bench = Bench(genesis, id)
    bench.start()
    for voter in VOTERS:
        if voter != id:
            bench.step(PeerConnected(voter))
    return bench


def submit(bench: Bench, *numbers: int) -> None:
    """A client submits."""
    taken = tuple(make_transaction(bench.genesis, bench.id, number) for number in numbers)
    bench.step(Submitted(taken))


def sealed(bench: Bench) -> list[CheckedBatch]:
    """Batches written by the last effects."""
    return [effect.batch for effect in bench.effects if isinstance(effect, WriteBatch)]


def carried(bench: Bench) -> list[tuple[str, bytes]]:
    """Batches sent by the last effects."""
    return [(peer, m.raw) for peer, m in bench.sent() if isinstance(m, BatchBody)]


def test_a_lone_transaction_waits_for_nothing() -> None:
    bench = make(batch_delay_ms=1_000)
    submit(bench, 1)
    (batch,) = sealed(bench)
    assert len(batch.transactions) == 1


def test_what_waits_is_sealed_as_soon_as_nothing_of_ours_is_undecided() -> None:
    bench = Bench(make_genesis(1, batch_delay_ms=1_000), "recorder-1")
    bench.start()
    bench.step(
        Submitted(tuple(make_transaction(bench.genesis, bench.id, number) for number in (1,)))
    )
    assert bench.core.head.height == 1
    assert bench.core.mempool.waiting_count == 0
    assert len(bench.core.mempool) == 0


def test_transactions_wait_for_others_then_are_sealed_written_and_carried() -> None:
    bench = make(batch_delay_ms=50)
    submit(bench, 0)
    submit(bench, 1)
    assert sealed(bench) == []
    assert bench.core.deadline == bench.now + 50
    bench.now += 49
    submit(bench, 2)
    bench.expire(bench.now + 1)

    (batch,) = sealed(bench)
    assert len(batch.transactions) == 2
    assert carried(bench) == [(voter, batch.raw) for voter in VOTERS]
    messages = [e.message for e in bench.effects if isinstance(e, SendMessage)]
    # One object for all, so that the shell encodes it once.
    assert all(message is messages[0] for message in messages)
    kinds = [type(effect) for effect in bench.effects]
    assert kinds.index(WriteBatch) < kinds.index(SendMessage)
    window = bench.genesis.limits.replay_window_blocks
    assert HELD_HEIGHTS == LAG_BLOCKS
    assert batch.valid_until_height == window - HELD_HEIGHTS, "who is behind takes it as well"


def test_what_waits_at_a_voter_goes_with_its_next_vote() -> None:
    net = Net(make_genesis(4, batch_delay_ms=1_000))
    # recorder-2 is the primary of the first height: its own batch is proposed at once.
    net.submit("recorder-2", 1)
    net.submit("recorder-2", 2, 3)
    bench = net.benches["recorder-2"]
    assert bench.core.mempool.waiting_count == 2
    while bench.core.mempool.waiting_count:
        net.deliver(lambda: bench.core.mempool.waiting_count == 0 or bool(sealed(bench)))
    (batch,) = sealed(bench)
    assert len(batch.transactions) == 2
    writes = [type(effect) for effect in bench.effects if isinstance(effect, Write)]
    assert writes == [WritePromise, WriteBatch], "one turn, and so one commit"
    assert bench.core.head.height == 0
    net.run(3_000, lambda: min(net.heights()) == 2)
    assert min(net.heights()) == 2


@pytest.mark.parametrize(("round_ms", "waits_ms"), [(0, 5), (20, 5), (80, 20), (9_000, 50)])
def test_a_voter_that_does_not_vote_collects_for_a_part_of_a_round(
    round_ms: int, waits_ms: int
) -> None:
    bench = make("recorder-1", batch_delay_ms=5)
    spreading, outbox = bench.core._spreading, bench.core._outbox
    outbox.open(bench.now + round_ms, bench.wall)
    spreading.head_moved(())
    bench.now += round_ms
    submit(bench, 0)
    submit(bench, 1)
    assert sealed(bench) == []
    bench.expire(bench.now + waits_ms - 1)
    assert sealed(bench) == []
    bench.expire(bench.now + 1)
    assert len(sealed(bench)) == 1


def test_without_delay_and_when_full_a_batch_is_sealed_at_once() -> None:
    bench = make(batch_delay_ms=0)
    submit(bench, 1)
    assert len(sealed(bench)) == 1
    bench = make(batch_delay_ms=1_000, batch_transactions_max=2)
    submit(bench, 1, 2, 3, 4, 5)
    # The first for the reason that nothing of ours was undecided, the second since it is full.
    assert [len(batch.transactions) for batch in sealed(bench)] == [2, 2]
    assert bench.core.mempool.waiting_count == 1
    assert bench.core.deadline > bench.now


def test_sequences_ascend_whatever_the_clock_does_and_whatever_we_forgot() -> None:
    bench = make(batch_delay_ms=0)
    submit(bench, 1)
    (first,) = sealed(bench)
    assert divmod(first.sequence, BOOTS_COUNTED) == (bench.wall, 1)
    bench.skew_ms = -(10**6)
    submit(bench, 2)
    (second,) = sealed(bench)
    assert divmod(second.sequence, BOOTS_COUNTED) == (bench.wall + 10**6 + 1, 1)
    # A batch of ours that only others remember comes back from them.
    forgotten = make_batch(bench.genesis, bench.id, second.sequence + 100 * BOOTS_COUNTED)
    bench.step(BatchArrived("recorder-3", forgotten))
    submit(bench, 3)
    assert sealed(bench)[0].sequence == forgotten.sequence + BOOTS_COUNTED
    # And one that the store kept.
    again = Bench(bench.genesis, bench.id, bench.store)
    again.skew_ms = -(10**9)
    again.start()
    submit(again, 4)
    assert sealed(again)[0].sequence == forgotten.sequence + 2 * BOOTS_COUNTED


def test_a_restored_backup_and_a_clock_set_back_do_not_use_a_sequence_again() -> None:
    bench = make(batch_delay_ms=0)
    submit(bench, 1)
    (lost,) = sealed(bench)
    restored = Bench(bench.genesis, bench.id, boots=2, restored=True)
    submit(restored, 2)
    (batch,) = sealed(restored)
    assert bench.wall == restored.wall
    assert batch.sequence == lost.sequence + 1


def test_what_is_too_much_waits_unsealed_without_spinning() -> None:
    settings = CoreSettings(mempool=MempoolLimits(own_batches_max=2))
    genesis = make_genesis(1, batch_delay_ms=0, observers=1)
    bench = Bench(genesis, "observer-1", settings=settings)
    bench.start()
    for number in range(4):
        submit(bench, number)
    assert len(bench.core.mempool) == 2
    assert bench.core.mempool.waiting_count == 2
    assert bench.core.deadline > bench.now
    bench.expire(bench.now + 5_000)
    assert bench.core.mempool.waiting_count == 2
    # Dead batches make room.
    bench.core.mempool.remove([batch.id for batch in bench.core.mempool.batches()])
    bench.expire(bench.now + 1_000)
    assert bench.core.mempool.waiting_count == 0
    (batch,) = sealed(bench)
    assert len(batch.transactions) == 2


def test_what_waited_is_sealed_when_a_block_made_room() -> None:
    settings = CoreSettings(mempool=MempoolLimits(own_batches_max=1))
    bench = Bench(make_genesis(1, batch_delay_ms=0), "recorder-1", settings=settings)
    bench.start()
    bench.core.mempool.add(make_batch(bench.genesis, "recorder-1", 1), 0, own=True)
    submit(bench, 50)
    assert bench.core.mempool.waiting_count == 1
    bench.core._seat.pend()
    bench._perform(list(bench.core._outbox.effects))
    assert bench.core.head.height == 2
    assert bench.core.mempool.waiting_count == 0


def test_transactions_that_ran_or_have_no_room_are_not_taken() -> None:
    settings = CoreSettings(mempool=MempoolLimits(waiting_transactions_max=1))
    bench = Bench(make_genesis(1, batch_delay_ms=10), "recorder-1", settings=settings)
    bench.start()
    submit(bench, 1, 2)
    assert bench.core.counters["submission_dropped"] == 1
    bench.expire(bench.now + 10)
    assert bench.core.head.height == 1
    submit(bench, 1)
    assert bench.core.counters["submission_dropped"] == 2
    assert bench.core.mempool.waiting_count == 0


def test_a_member_that_connects_gets_our_head_and_some_of_what_it_may_have_missed() -> None:
    settings = CoreSettings(spread=SpreadSettings(resent_batches_max=2))
    bench = Bench(GENESIS, "observer-1", settings=settings)
    bench.start()
    for number in range(3):
        bench.core.mempool.add(make_batch(GENESIS, "observer-1", number + 1), bench.now, own=True)
    bench.step(PeerConnected("recorder-1"))
    assert [type(message) for _, message in bench.sent()] == [Head, BatchBody, BatchBody]
    other = Bench(GENESIS, "recorder-1")
    other.core.mempool.add(make_batch(GENESIS, "recorder-1", 1), 0, own=True)
    other.start()
    other.step(PeerConnected("observer-1"))
    assert [type(message) for _, message in other.sent()] == [Head, BatchBody]


def test_what_stays_undecided_is_announced_and_ours_carried_again() -> None:
    bench = make()
    own = make_batch(GENESIS, "observer-1", 1)
    theirs = [make_batch(GENESIS, "recorder-3", n) for n in range(1, 20)]
    bench.core.mempool.add(own, bench.now, own=True)
    for batch in theirs:
        bench.core.mempool.add(batch, bench.now)
    young = make_batch(GENESIS, "observer-1", 2)

    bench.expire(bench.now + 999)
    assert bench.published() == []
    bench.core.mempool.add(young, bench.now, own=True)
    bench.expire(bench.now + 1)
    announced = (own.id, *(batch.id for batch in theirs[:16]))
    assert bench.published() == [BatchesAnnounced(announced)]
    assert carried(bench) == []
    bench.expire(bench.now + 1_000)
    (again,) = bench.published()
    assert isinstance(again, BatchesAnnounced)
    assert again.batches[:2] == (own.id, young.id)
    assert carried(bench) == [(voter, own.raw) for voter in VOTERS]


def test_nothing_is_announced_when_nothing_is_undecided() -> None:
    bench = make()
    bench.expire(bench.now + 3_000)
    assert bench.published() == []


def test_heads_are_repeated_for_whoever_missed_them() -> None:
    bench = make()
    bench.expire(bench.now + 4_999)
    assert bench.sent() == []
    bench.expire(bench.now + 1)
    assert [(peer, type(message)) for peer, message in bench.sent()] == [
        (voter, Head) for voter in VOTERS
    ]


def test_the_proposer_announces_no_head_that_it_has_told_all_members_itself() -> None:
    bench = Bench(make_genesis(1, observers=1, batch_delay_ms=0), "recorder-1")
    bench.start()
    bench.step(PeerConnected("observer-1"))
    submit(bench, 1)
    assert bench.published() == []
    bench.step(PeerDisconnected("observer-1"))
    submit(bench, 2)
    assert [type(gossip) for gossip in bench.published()] == [HeadAnnounced]


def test_the_proposer_announces_its_heads_but_not_too_often() -> None:
    bench = Bench(make_genesis(1, observers=1, batch_delay_ms=0), "recorder-1")
    bench.start()
    announced = []
    for number in range(10):
        submit(bench, number)
        announced += bench.published()
        bench.expire(bench.now + 250)
        announced += bench.published()
    bench.expire(bench.now + 1_000)
    heights = [a.height for a in announced + bench.published() if isinstance(a, HeadAnnounced)]
    assert heights[0] == 1
    assert heights[-1] == 10
    assert len(heights) in (3, 4)


def test_the_proposer_tells_members_without_a_vote_of_every_block() -> None:
    bench = Bench(make_genesis(1, observers=2, batch_delay_ms=0), "recorder-1")
    bench.start()
    bench.step(PeerConnected("observer-2"))
    for number in (1, 2):
        submit(bench, number)
        told = [(p, m.height) for p, m in bench.sent() if isinstance(m, Head)]
        assert told == [("observer-2", number)]


@pytest.mark.parametrize("waits_ms", [199, 200])
def test_a_laggard_is_answered_once_per_interval(waits_ms: int) -> None:
    bench = make()
    spreading, outbox = bench.core._spreading, bench.core._outbox
    outbox.open(bench.now, bench.wall)
    spreading.tell_laggard("recorder-1")
    spreading.tell_laggard("recorder-1")
    spreading.tell_laggard("recorder-2")
    assert len(outbox.effects) == 2
    outbox.open(bench.now + waits_ms, bench.wall)
    spreading.tell_laggard("recorder-1")
    assert len(outbox.effects) == (1 if waits_ms == 200 else 0)
    bench.step(PeerDisconnected("recorder-2"))
    bench.step(PeerConnected("recorder-2"))
    spreading.tell_laggard("recorder-2")
    assert len(outbox.effects) == 2
