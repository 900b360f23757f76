"""Turns: nobody starves behind a member with thousands of batches, and no honest primary is ever
said to have passed a batch over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.replay import ReplayWindow
from ledger.transactions import CheckedBatch, Limits
from node.fairness import Listed, take_turns
from node.mempool import Held, Mempool, MempoolLimits
from tests.node.support import make_batch, make_genesis, make_transaction

GENESIS = make_genesis(4)
MEMBERS = {institution.id: institution for institution in GENESIS.institutions}
AUTHORS = tuple(MEMBERS)
TRANSACTIONS = [make_transaction(GENESIS, "recorder-1", number) for number in range(6)]
# Batches of one to six transactions of every author, by sequence.
POOL = [
    make_batch(GENESIS, author, sequence, TRANSACTIONS[: 1 + (7 * sequence + place) % 6])
    for place, author in enumerate(AUTHORS)
    for sequence in range(1, 9)
]
SMALL = len(POOL[0].raw) // len(POOL[0].transactions)
NOW = 1_000_000


def make(batches: Sequence[CheckedBatch], limits: Limits | None = None) -> Mempool:
    """A mempool that has held these for a while."""
    mempool = Mempool(MempoolLimits(), limits or GENESIS.limits)
    mempool.meet(MEMBERS)
    for batch in batches:
        assert mempool.add(batch, 0, height=1) is None
    return mempool


def fill(batches: Iterable[CheckedBatch], limits: Limits) -> list[CheckedBatch]:
    """What an honest primary lists of these, as ledger/execution.py's select_batches chooses."""
    chosen: list[CheckedBatch] = []
    for batch in batches:
        together = [*chosen, batch]
        size_bytes = sum(len(one.raw) for one in together)
        work = sum(one.work for one in together)
        small = size_bytes <= limits.block_bytes_max and work <= limits.block_work_max
        if small and len(together) <= limits.block_batches_max:
            chosen = together
    return chosen


def propose(mempool: Mempool, height: int = 2) -> list[CheckedBatch]:
    return fill(mempool.proposable(height, NOW, ReplayWindow(100)), mempool._batch_limits)


def passed_over(mempool: Mempool, batches: Sequence[CheckedBatch], height: int = 2) -> list[Held]:
    return mempool.passed_over(batches, height, NOW, ReplayWindow(100))


# ---- turns ---------------------------------------------------------------------------------------


def test_turns_go_round() -> None:
    assert "".join(take_turns(["abc", "d", "", "ef"])) == "adebfc"
    assert list(take_turns([""])) == []


def test_of_one_member_the_lowest_sequence_comes_first_whenever_it_came() -> None:
    late, early = make_batch(GENESIS, "recorder-1", 9), make_batch(GENESIS, "recorder-1", 3)
    assert make([late, early]).batches() == [early, late]


def test_a_member_with_hundreds_of_batches_starves_nobody() -> None:
    limits = replace(GENESIS.limits, block_batches_max=4)
    greedy = [make_batch(GENESIS, "recorder-1", n) for n in range(1, 300)]
    mempool = make(greedy, limits)
    for number in range(1, 6):
        for author in AUTHORS[1:]:
            mempool.add(make_batch(GENESIS, author, number), 0, height=1)
    for height in range(2, 7):
        block = propose(mempool, height)
        assert sorted(batch.author for batch in block) == sorted(AUTHORS)
        assert {batch.sequence for batch in block} == {height - 1}
        mempool.served(block, height)
        mempool.remove(batch.id for batch in block)
    # Alone again it has all the room.
    assert [batch.author for batch in propose(mempool)] == ["recorder-1"] * 4


def test_where_a_block_holds_one_batch_members_take_turns_from_block_to_block() -> None:
    limits = replace(GENESIS.limits, block_batches_max=1)
    mempool = make([make_batch(GENESIS, a, n) for a in AUTHORS for n in range(1, 4)], limits)
    turns = []
    for height in range(2, 14):
        (batch,) = propose(mempool, height)
        turns.append(batch.author)
        mempool.served([batch], height)
        mempool.remove([batch.id])
    assert turns == list(AUTHORS) * 3


def test_what_has_expired_by_now_takes_nobody_s_room() -> None:
    limits = replace(GENESIS.limits, block_batches_max=2)
    old = [make_transaction(GENESIS, "recorder-1", n, until_ms=NOW - 1) for n in range(50, 53)]
    stale = [make_batch(GENESIS, "recorder-1", n, [t]) for n, t in enumerate(old, start=1)]
    fresh = [make_batch(GENESIS, "recorder-1", 9), make_batch(GENESIS, "recorder-2", 9)]
    mempool = make([*stale, *fresh], limits)
    assert propose(mempool) == fresh
    oldest = mempool.oldest(2, NOW, ReplayWindow(100))
    assert oldest is not None
    assert oldest.batch == fresh[0], "what has expired is no work"
    mempool.remove(batch.id for batch in fresh)
    assert mempool.oldest(2, NOW, ReplayWindow(100)) is None
    assert len(mempool) == 3, "but it is held, since a late clock may still propose it"


# ---- what is passed over -------------------------------------------------------------------------


def of(author: str, *sequences: int) -> list[CheckedBatch]:
    return [batch for batch in POOL if batch.author == author and batch.sequence in sequences]


def test_a_block_with_room_passes_over_what_it_leaves_out() -> None:
    mine, other = of("recorder-1", 1, 2), of("recorder-2", 1)
    mempool = make([*mine, *other])
    assert [held.batch for held in passed_over(mempool, other)] == mine[:1]
    assert passed_over(mempool, [*other, mine[1]]) == [], "who gets something is served"
    assert passed_over(mempool, [*other, *mine]) == []
    assert [held.batch for held in passed_over(mempool, [])] == [mine[0], other[0]]


def test_a_full_block_passes_over_whom_it_gave_no_turn() -> None:
    limits = replace(GENESIS.limits, block_batches_max=3)
    mine, others = of("recorder-1", 1), of("recorder-2", 1, 2, 3)
    mempool = make([*mine, *others], limits)
    # An honest primary would have taken it before the second of the other.
    assert [held.batch for held in passed_over(mempool, others)] == mine
    # One of each is a fair block, though it may be another's turn here.
    fair = [of(author, 1)[0] for author in AUTHORS[1:]]
    assert passed_over(mempool, fair) == []


@pytest.mark.parametrize("bound", ["block_bytes_max", "block_work_max"])
def test_a_batch_that_is_larger_than_the_room_is_not_passed_over(bound: str) -> None:
    large, small = make_batch(GENESIS, "recorder-1", 1, TRANSACTIONS), of("recorder-2", 1)[0]
    room = large.work + small.work
    if bound == "block_bytes_max":
        room = len(large.raw) + len(small.raw)
    found: list[CheckedBatch]
    for limit, found in ((room - 1, []), (room, [large])):
        mempool = make([large, small], replace(GENESIS.limits, **{bound: limit}))
        assert [held.batch for held in passed_over(mempool, [small])] == found


def test_what_came_too_late_for_the_height_or_could_not_run_is_not_passed_over() -> None:
    expired = make_transaction(GENESIS, "recorder-2", 1, until_ms=NOW - 1)
    mempool = make([make_batch(GENESIS, "recorder-2", 1, [expired])])
    mempool.add(of("recorder-1", 1)[0], 0, height=2)
    mempool.add(make_batch(GENESIS, "recorder-3", 1, until_height=1), 0, height=1)
    assert passed_over(mempool, []) == []
    assert [held.batch for held in passed_over(mempool, [], height=3)] == of("recorder-1", 1)


def test_the_count_starts_anew_after_the_height_that_was_the_time_to_act() -> None:
    mempool = make(of("recorder-1", 1))
    counts = []
    for height in range(2, 9):
        mempool.count_passed_over([], height, NOW, ReplayWindow(100), 2)
        (held,) = mempool.held()
        counts.append(held.passed_over)
    assert counts == [1, 2, 3, 0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class Case:
    held: list[int]
    strangers: list[str]
    limits: Limits


CASES = st.builds(
    Case,
    st.lists(st.integers(0, len(POOL) - 1), unique=True, max_size=len(POOL)),
    st.lists(st.sampled_from(AUTHORS), unique=True, max_size=3),
    st.builds(
        lambda count, size, work: replace(
            GENESIS.limits,
            block_batches_max=count,
            block_bytes_max=size * SMALL,
            block_work_max=work * TRANSACTIONS[0].work,
        ),
        st.integers(1, 12),
        st.integers(7, 60),
        st.integers(6, 60),
    ),
)


@settings(max_examples=300, deadline=None)
@given(CASES, st.dictionaries(st.sampled_from(AUTHORS), st.integers(0, 9)))
def test_an_honest_primary_passes_over_nothing(case: Case, served: dict[str, int]) -> None:
    """Whoever was served last in its eyes, and whichever members' batches we have not seen."""
    batches = [POOL[place] for place in case.held]
    primary = make(batches, case.limits)
    primary._served.update(served)
    ours = make([b for b in batches if b.author not in case.strangers], case.limits)
    assert passed_over(ours, propose(primary)) == []


@settings(max_examples=200, deadline=None)
@given(CASES, st.sampled_from(AUTHORS))
def test_who_leaves_a_member_out_passes_it_over_unless_turns_fill_the_block(
    case: Case, victim: str
) -> None:
    batches = [POOL[place] for place in case.held]
    mempool = make(batches, case.limits)
    mine = [batch for batch in mempool.batches() if batch.author == victim]
    block = propose(make([b for b in batches if b.author != victim], case.limits))
    found = [held.batch for held in passed_over(mempool, block) if held.batch.author == victim]
    first_turns = {batch.author: batch for batch in reversed(block)}.values()
    fits = bool(mine) and Listed(list(first_turns), case.limits).leaves_room(mine[0], 0)
    assert found == (mine[:1] if fits else [])
