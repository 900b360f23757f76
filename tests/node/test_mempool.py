"""The mempool: quotas, accounting, what is dead. Whose turn it is has test_fairness.py."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.operations import EnrolPerson
from ledger.replay import ReplayWindow
from ledger.transactions import Limits
from node.mempool import Mempool, MempoolLimits, refusal
from tests.node.support import key_of, make_batch, make_genesis, make_transaction

GENESIS = make_genesis(4)
MEMBERS = {institution.id: institution for institution in GENESIS.institutions}
AUTHORS = ("recorder-1", "recorder-2", "recorder-3")
BATCHES = [
    make_batch(GENESIS, author, sequence, [make_transaction(GENESIS, author, number)])
    for author in AUTHORS
    for sequence in (1, 2, 3)
    for number in (sequence, 10 + sequence)
]
TRANSACTIONS = [make_transaction(GENESIS, "recorder-1", number) for number in range(8)]


def make(limits: MempoolLimits | None = None, batch_limits: Limits | None = None) -> Mempool:
    """An empty mempool."""
    return Mempool(limits or MempoolLimits(), batch_limits or GENESIS.limits)


def window() -> ReplayWindow:
    """Nothing has run yet."""
    return ReplayWindow(100)


# ---- batches -------------------------------------------------------------------------------------


def test_a_batch_is_held_once_in_order_of_arrival() -> None:
    mempool = make()
    one, two = make_batch(GENESIS, "recorder-2", 1), make_batch(GENESIS, "recorder-1", 1)
    assert [mempool.add(one, 5), mempool.add(two, 6), mempool.add(one, 7)] == [None, None, "known"]
    assert [held.batch for held in mempool.held()] == [one, two]
    assert [held.arrived_ms for held in mempool.held()] == [5, 6]
    assert one.id in mempool
    assert mempool.get(one.id) == one
    assert mempool.get(b"") is None
    assert mempool.pending_transactions == 2
    assert [held.batch for held in mempool.by_author("recorder-1")] == [two]


def test_a_sequence_counts_once_and_is_free_again_when_the_batch_is_gone() -> None:
    mempool = make()
    one = make_batch(GENESIS, "recorder-1", 1)
    twin = make_batch(GENESIS, "recorder-1", 1, [TRANSACTIONS[7]])
    assert mempool.add(one, 0) is None
    assert mempool.add(twin, 0) == "sequence_used_twice"
    mempool.remove([one.id, twin.id])
    assert mempool.add(twin, 0) is None
    assert mempool.add(one, 0) == "sequence_used_twice"


@pytest.mark.parametrize("own", [False, True])
def test_a_quota_bounds_what_others_may_make_us_hold(own: bool) -> None:
    one, two = make_batch(GENESIS, "recorder-1", 1), make_batch(GENESIS, "recorder-1", 2)
    for limits in (
        MempoolLimits(author_batches_max=1),
        MempoolLimits(author_bytes_max=len(one.raw) + len(two.raw) - 1),
    ):
        mempool = make(limits)
        assert mempool.add(one, 0, own=own) is None
        assert mempool.add(two, 0, own=own) == (None if own else "quota")
        assert mempool.add(make_batch(GENESIS, "recorder-2", 1), 0) is None
        mempool.remove([one.id])
        assert mempool.add(two, 0, own=own) == ("known" if own else None)


def test_own_batches_are_sealed_up_to_a_bound() -> None:
    one = make_batch(GENESIS, "recorder-1", 1)
    for limits in (MempoolLimits(own_batches_max=1), MempoolLimits(own_bytes_max=len(one.raw))):
        mempool = make(limits)
        assert mempool.may_seal("recorder-1")
        mempool.add(one, 0, own=True)
        assert not mempool.may_seal("recorder-1")
        mempool.remove([one.id])
        assert mempool.may_seal("recorder-1")


def total_of(mempool: Mempool) -> int:
    return sum(len(batch.raw) for batch in mempool.batches())


def test_every_member_keeps_its_share_however_much_the_others_hold() -> None:
    size = len(make_batch(GENESIS, "recorder-1", 1).raw)
    # A share of two batches each, and as much in common.
    limits = MempoolLimits(total_bytes_max=16 * size + 15, author_bytes_max=100 * size)
    mempool = make(limits)
    mempool.meet(MEMBERS)
    greedy = [make_batch(GENESIS, "recorder-1", n) for n in range(1, 40)]
    others = [make_batch(GENESIS, "recorder-2", n) for n in range(1, 40)]
    assert [mempool.add(batch, 0) for batch in greedy[:10]] == [None] * 10
    assert mempool.add(greedy[10], 0) == "full"
    assert [mempool.add(batch, 0) for batch in others[:2]] == [None] * 2
    assert mempool.add(others[2], 0) == "full"
    for author in ("recorder-3", "recorder-4"):
        assert mempool.add(make_batch(GENESIS, author, 1), 0) is None
        assert mempool.add(make_batch(GENESIS, author, 2), 0) is None
        assert mempool.add(make_batch(GENESIS, author, 3), 0) == "full"
    assert total_of(mempool) <= limits.total_bytes_max
    # What one gives back of what is common another may have.
    mempool.remove([greedy[0].id])
    assert mempool.add(others[2], 0) is None
    assert mempool.add(greedy[0], 0) == "full"


def test_one_batch_is_taken_from_whoever_has_none_though_it_is_larger_than_a_share() -> None:
    mempool = make(MempoolLimits(total_bytes_max=1))
    mempool.meet(MEMBERS)
    for author in AUTHORS:
        assert mempool.add(make_batch(GENESIS, author, 1), 0) is None
        assert mempool.add(make_batch(GENESIS, author, 2), 0) == "full"


def test_batches_of_those_who_are_no_members_any_more_or_changed_their_key_are_forgotten() -> None:
    mempool = make()
    mempool.meet(MEMBERS)
    kept, gone, rotated = (make_batch(GENESIS, author, 1) for author in AUTHORS)
    for batch in (kept, gone, rotated):
        mempool.add(batch, 0)
    mempool.served([kept, gone], 7)
    changed = msgspec.structs.replace(MEMBERS["recorder-3"], key=key_of("new").public)
    mempool.meet({"recorder-1": MEMBERS["recorder-1"], "recorder-3": changed})
    assert mempool.batches() == [kept]
    assert mempool._served == {"recorder-1": 7}
    mempool.served([gone], 8)
    assert mempool._served == {"recorder-1": 7}


def test_what_our_own_batch_of_an_old_key_held_waits_for_the_next() -> None:
    mempool = make()
    mempool.meet(MEMBERS)
    batch = make_batch(GENESIS, "recorder-1", 1, TRANSACTIONS[:2])
    mempool.add(batch, 0, own=True)
    changed = msgspec.structs.replace(MEMBERS["recorder-1"], key=key_of("new").public)
    mempool.meet({**MEMBERS, "recorder-1": changed})
    assert len(mempool) == 0
    assert mempool.take_waiting() == tuple(TRANSACTIONS[:2])


# ---- what is dead --------------------------------------------------------------------------------


def test_dead_batches_are_removed_and_the_others_stay() -> None:
    mempool, replay = make(), window()
    ran = make_transaction(GENESIS, "recorder-1", 1)
    late = make_transaction(GENESIS, "recorder-1", 2, until_height=4)
    old = make_transaction(GENESIS, "recorder-1", 3, until_ms=99)
    good = make_transaction(GENESIS, "recorder-1", 4, until_height=5, until_ms=100)
    dead = [
        make_batch(GENESIS, "recorder-1", 1, [ran, late, old]),
        make_batch(GENESIS, "recorder-1", 2, [good], until_height=4),
        make_batch(GENESIS, "recorder-1", 3, [good]),
    ]
    live = make_batch(GENESIS, "recorder-1", 4, [ran, late, old, good], until_height=5)
    for batch in (*dead, live):
        assert mempool.add(batch, 0) is None
    replay.add(4, [ran.id], [("recorder-1", 3)])

    assert mempool.remove_dead(5, 100, replay) == 3
    assert mempool.batches() == [live]
    assert mempool.remove_dead(5, 100, replay) == 0
    assert mempool.remove_dead(5, 101, replay) == 1
    assert len(mempool) == 0


@pytest.mark.parametrize(
    ("until_height", "batch_until", "until_ms", "expected"),
    [
        (50, 50, 2_000, None),
        (110, 110, 2_000, None),
        (111, 50, 2_000, "ahead"),
        (50, 111, 2_000, "ahead"),
        (9, 50, 2_000, "dead"),
        (50, 9, 2_000, "dead"),
        (50, 50, 999, "dead"),
        (10, 10, 1_000, None),
    ],
)
def test_a_batch_that_no_block_could_carry_is_refused(
    until_height: int, batch_until: int, until_ms: int, expected: str | None
) -> None:
    transaction = make_transaction(
        GENESIS, "recorder-1", 1, until_height=until_height, until_ms=until_ms
    )
    batch = make_batch(GENESIS, "recorder-1", 1, [transaction], until_height=batch_until)
    assert refusal(batch, 10, 1_000, window(), 100) == expected


def test_a_batch_that_has_run_is_refused() -> None:
    batch = make_batch(GENESIS, "recorder-1", 1)
    by_transaction, by_sequence = window(), window()
    by_transaction.add(1, [batch.transactions[0].id], [])
    by_sequence.add(1, [], [("recorder-1", 1)])
    assert refusal(batch, 2, 0, by_transaction, 1_000) == "dead"
    assert refusal(batch, 2, 0, by_sequence, 1_000) == "dead"


# ---- clients' transactions -----------------------------------------------------------------------


def test_waiting_transactions_are_bounded_in_number_and_bytes() -> None:
    size = len(TRANSACTIONS[0].raw)
    mempool = make(MempoolLimits(waiting_transactions_max=2, waiting_bytes_max=10 * size))
    assert mempool.room() == 2
    assert [mempool.submit(t) for t in TRANSACTIONS[:3]] == [True, True, False]
    assert mempool.room() == 0
    assert mempool.submit(TRANSACTIONS[0])
    assert mempool.waiting_count == 2

    mempool = make(MempoolLimits(waiting_bytes_max=2 * size))
    assert [mempool.submit(t) for t in TRANSACTIONS[:3]] == [True, True, False]
    assert not mempool.has_room(1, 1)
    assert mempool.has_room(1, 0)
    assert mempool.take_waiting() == tuple(TRANSACTIONS[:2])
    assert mempool.submit(TRANSACTIONS[2])


def test_a_transaction_in_a_batch_of_ours_is_known_until_that_is_gone() -> None:
    mempool = make()
    own = make_batch(GENESIS, "recorder-1", 1, TRANSACTIONS[:2])
    theirs = make_batch(GENESIS, "recorder-2", 1, TRANSACTIONS[:3])
    mempool.add(own, 0, own=True)
    mempool.add(theirs, 0)
    mempool.remove([theirs.id])
    assert [mempool.submit(t) for t in TRANSACTIONS[:3]] == [True, True, True]
    assert mempool.waiting_count == 1
    mempool.remove([own.id])
    mempool.submit(TRANSACTIONS[0])
    assert mempool.waiting_count == 2


def test_a_batch_is_bounded_in_number_bytes_and_work() -> None:
    size = len(TRANSACTIONS[0].raw) + 8
    for limits, count in (
        (replace(GENESIS.limits, batch_transactions_max=3), 3),
        (replace(GENESIS.limits, batch_bytes_max=size * 4 * 10 // 9 + 9), 4),
        (replace(GENESIS.limits, block_work_max=2 * TRANSACTIONS[0].work), 2),
        (replace(GENESIS.limits, batch_bytes_max=10), 1),
    ):
        mempool = make(None, limits)
        for transaction in TRANSACTIONS:
            mempool.submit(transaction)
        assert mempool.take_waiting() == tuple(TRANSACTIONS[:count])
        assert mempool.waiting_count == 8 - count


def test_heavy_transactions_fill_several_batches_that_every_voter_accepts() -> None:
    people = [EnrolPerson(key_of(f"p-{n}").public, "patient") for n in range(100)]
    heavy = [make_transaction(GENESIS, "recorder-1", n, operations=people) for n in range(3)]
    limits = replace(GENESIS.limits, block_work_max=heavy[0].work + heavy[1].work)
    mempool = make(None, limits)
    for transaction in heavy:
        mempool.submit(transaction)
    first, second = mempool.take_waiting(), mempool.take_waiting()
    assert (first, second) == (tuple(heavy[:2]), (heavy[2],))


def test_a_full_batch_need_not_wait() -> None:
    size = len(TRANSACTIONS[0].raw)
    for limits in (
        replace(GENESIS.limits, batch_transactions_max=2),
        replace(GENESIS.limits, batch_bytes_max=4 * size),
    ):
        mempool = make(None, limits)
        mempool.submit(TRANSACTIONS[0])
        assert not mempool.batch_is_full()
        mempool.submit(TRANSACTIONS[1])
        assert mempool.batch_is_full()


# ---- against a model -----------------------------------------------------------------------------

ADD = st.tuples(st.just("add"), st.integers(0, len(BATCHES) - 1), st.booleans())
REMOVE = st.tuples(st.just("remove"), st.integers(0, len(BATCHES) - 1), st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(ADD | REMOVE, max_size=40))
def test_accounting_is_that_of_a_list(steps: list[tuple[str, int, bool]]) -> None:
    limits = MempoolLimits(author_batches_max=2)
    mempool = make(limits)
    model: list[int] = []
    for what, index, own in steps:
        batch = BATCHES[index]
        of_author = [n for n in model if BATCHES[n].author == batch.author]
        if what == "remove":
            mempool.remove([batch.id])
            model = [n for n in model if n != index]
            continue
        expected: str | None = None
        if index in model:
            expected = "known"
        elif any(BATCHES[n].sequence == batch.sequence for n in of_author):
            expected = "sequence_used_twice"
        elif not own and len(of_author) >= 2:
            expected = "quota"
        assert mempool.add(batch, 0, own=own) == expected
        if expected is None:
            model.append(index)
    assert [held.batch for held in mempool.held()] == [BATCHES[n] for n in model]
    assert len(mempool) == len(model)
    # When all is gone the quotas are whole again.
    mempool.remove([batch.id for batch in BATCHES])
    for author in AUTHORS:
        for sequence, expected in ((1, None), (2, None), (3, "quota")):
            assert mempool.add(make_batch(GENESIS, author, sequence), 0) == expected
