"""Taking turns: who missed one is passed over, for a while that doubles, and never too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import Committee, Voter, quorum_size
from ledger.committee import roster_of
from ledger.standing import Bench, Standing
from ledger.turns import benches_after, missed_turns
from tests.ledger.council import Council
from tests.ledger.world import consortium

NAMES = tuple(f"r{n}" for n in range(7))
VOTERS = tuple(Voter(name, bytes(32), "recorder", True) for name in NAMES)
COMMITTEE = Committee(VOTERS, NAMES)
heights = st.integers(1, 1_000)


def standing_with(*benches: Bench) -> Standing:
    return Standing(NAMES, benches, (), 1, None)


@given(heights, st.integers(0, 30), st.sampled_from(NAMES))
def test_the_turns_below_the_view_were_missed(height: int, view: int, proposer: str) -> None:
    missed = missed_turns(COMMITTEE, height, view, proposer)
    turns = [COMMITTEE.primary(height, earlier) for earlier in range(view)]
    assert list(missed) == sorted(missed)
    assert dict.fromkeys(missed) == dict.fromkeys(sorted(n for n in turns if n != proposer))
    assert proposer not in missed
    if view == 0:
        assert missed == ()


def test_the_first_miss_costs_least_and_each_further_twice_as_much() -> None:
    standing = standing_with()
    height, served = 10, []
    for _ in range(6):
        benches = benches_after(standing, ("r1",), "r0", height, 4, 40)
        (bench,) = benches
        served.append(bench.until_height - height)
        standing = standing_with(*benches)
        height = bench.until_height + 1
    assert served == [4, 8, 16, 32, 40, 40]
    assert standing.benches[0].misses == 6


def test_a_long_row_of_misses_makes_no_large_numbers() -> None:
    standing = standing_with(Bench("r1", 10_000, 5))
    (bench,) = benches_after(standing, ("r1",), "r0", 10, 4, 1_000_000)
    assert bench == Bench("r1", 10_001, 1_000_010)


def test_a_block_proposed_makes_up_for_one_miss() -> None:
    standing = standing_with(Bench("r1", 2, 50), Bench("r2", 1, 9))
    assert benches_after(standing, (), "r1", 60, 4, 40) == (
        Bench("r1", 1, 50),
        Bench("r2", 1, 9),
    )
    assert benches_after(standing, (), "r2", 60, 4, 40) == (Bench("r1", 2, 50),)
    assert benches_after(standing, ("r2",), "r0", 60, 4, 40) == (
        Bench("r1", 2, 50),
        Bench("r2", 2, 68),
    )


benches_of = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(1, 5), st.integers(1, 30)), max_size=7
)


@given(benches_of, st.integers(1, 30), st.integers(1, 7))
def test_the_roster_never_falls_below_a_quorum(
    listed: dict[str, tuple[int, int]], height: int, n: int
) -> None:
    benches = [Bench(id, misses, until) for id, (misses, until) in sorted(listed.items())]
    roster = roster_of(VOTERS[:n], benches, height)
    recorders = NAMES[:n]
    free = [id for id in recorders if id not in listed or listed[id][1] < height]
    assert list(roster) == [id for id in recorders if id in roster]
    assert all(id in roster for id in free)
    assert len(roster) == max(len(free), quorum_size(n))
    back = [id for id in roster if id not in free]
    left = [id for id in recorders if id not in roster]
    if back and left:
        assert max((listed[id][0], id) for id in back) < min((listed[id][0], id) for id in left)


def test_auditors_have_no_turns() -> None:
    auditor = Voter("a", bytes(32), "auditor", False)
    assert roster_of((auditor, *VOTERS[:2]), [], 1) == ("r0", "r1")


# ---- on a ledger ---------------------------------------------------------------------------------


def test_a_dead_recorder_costs_one_view_for_each_time_on_the_bench() -> None:
    """One of four is dead for 200 blocks: the others lose a handful of views to it, not fifty."""
    world = Council(consortium(4, 3, 0), bench_heights_min=8, bench_heights_max=64)
    dead, lost = "hospital-2", 0
    for _ in range(200):
        view = 0
        while world.committee.primary(world.height, view) == dead:
            view += 1
        lost += view
        world.pass_block(view)
    (bench,) = world.standing.benches
    assert bench.id == dead
    assert lost == bench.misses == 5


def test_who_comes_back_takes_turns_again_when_its_time_is_served() -> None:
    world = Council(consortium(4, 3, 0), bench_heights_min=3)
    missed = world.committee.primary(world.height, 0)
    world.pass_block(view=1)
    absent = 0
    while missed not in world.committee.roster:
        world.pass_block()
        absent += 1
    assert absent == 3
    (bench,) = world.standing.benches
    assert bench == Bench(missed, 1, 4)
    while world.committee.primary(world.height, 0) != missed:
        world.pass_block()
    world.pass_block()
    assert not world.standing.benches


def test_a_bench_takes_no_vote() -> None:
    world = Council(consortium(4, 3, 0))
    before = world.committee
    world.pass_block(view=3)
    after = world.committee
    assert len(world.standing.benches) == 3
    assert len(after.roster) == quorum_size(4)
    assert (after.voters, after.hash) == (before.voters, before.hash)
    assert world.head.next_committee_hash == before.hash
    assert world.standing.committee_since == 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_some_recorder_always_has_a_turn(n: int) -> None:
    world = Council(consortium(n, 1, 0), bench_heights_min=1_000, bench_heights_max=1_000)
    for view in (n, 2 * n, 1_000_000, 0):
        world.pass_block(view)
        assert len(world.committee.roster) >= quorum_size(n)
