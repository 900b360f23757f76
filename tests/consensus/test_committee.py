"""Quorums, group by group, and whose turn it is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import (
    POOL,
    VOTERS_MAX,
    Committee,
    Voter,
    faulty_max,
    quorum_size,
)
from tests.consensus.support import key_of, make_committee

SIZES = range(1, 41)


@pytest.mark.parametrize("n", SIZES)
def test_two_quorums_share_more_than_f(n: int) -> None:
    f, q = faulty_max(n), quorum_size(n)
    assert 2 * q - n > f, "two quorums of q members share at least 2q - n"
    assert q <= n - f, "the honest alone are a quorum"
    assert 3 * f < n


@pytest.mark.parametrize("n", SIZES)
def test_a_smaller_quorum_would_be_unsafe(n: int) -> None:
    assert 2 * (quorum_size(n) - 1) - n <= faulty_max(n)


def test_the_literal_2f_plus_1_is_unsafe() -> None:
    unsafe = [n for n in SIZES if 2 * (2 * faulty_max(n) + 1) - n <= faulty_max(n)]
    assert unsafe == [n for n in SIZES if n % 3 != 1]


@pytest.mark.parametrize(("recorders", "auditors"), [(4, 3), (4, 4), (2, 2), (5, 1), (3, 0)])
def test_quorums_of_real_committees_intersect_in_every_class(recorders: int, auditors: int) -> None:
    committee = make_committee(recorders, auditors)
    names = [voter.id for voter in committee.voters]
    quorums = [
        subset
        for size in range(len(names) + 1)
        for subset in itertools.combinations(names, size)
        if committee.is_quorum(subset)
    ]
    assert quorums
    smallest = [quorum for quorum in quorums if not any(set(o) < set(quorum) for o in quorums)]
    for one, other in itertools.combinations_with_replacement(smallest, 2):
        assert committee.exceeds_faulty(set(one) & set(other))


@given(st.integers(1, 12), st.integers(0, 12), st.booleans(), st.data())
def test_intersection_in_every_class(
    recorders: int, auditors: int, pooled: bool, data: st.DataObject
) -> None:
    committee = make_committee(recorders, auditors, pooled=pooled)
    names = [voter.id for voter in committee.voters]
    one = data.draw(st.sets(st.sampled_from(names)))
    other = data.draw(st.sets(st.sampled_from(names)))
    if committee.is_quorum(one) and committee.is_quorum(other):
        assert committee.exceeds_faulty(one & other)
    assert committee.is_quorum(names)
    honest = set(names)
    for group, n in committee.group_sizes.items():
        members = [voter.id for voter in committee.voters if voter.group == group]
        honest -= set(members[: faulty_max(n)])
    assert committee.is_quorum(honest)


def test_a_pooled_quorum_may_lack_a_class_and_a_quorum_per_class_may_not() -> None:
    recorders = ["r0", "r1", "r2", "r3"]
    pooled, per_class = make_committee(4, 1, pooled=True), make_committee(4, 1)
    assert pooled.group_sizes == {POOL: 5}
    assert per_class.group_sizes == {"auditor": 1, "recorder": 4}
    assert pooled.is_quorum(recorders)
    assert not per_class.is_quorum(recorders)
    assert per_class.is_quorum(["a0", "r0", "r1", "r2"])
    assert not per_class.exceeds_faulty(recorders)
    assert per_class.exceeds_faulty(["a0", "r0", "r1"])
    assert not per_class.exceeds_faulty(["a0", "r0"])


def test_repeated_and_unknown_voters_do_not_count() -> None:
    committee = make_committee(4)
    assert not committee.is_quorum(["r0", "r0", "r1", "r1"])
    assert not committee.is_quorum(["r0", "r1", "nobody"])
    assert not committee.exceeds_faulty(["r0", "r0"])


def test_turns_go_round_by_height_and_view() -> None:
    committee = make_committee(4, 3)
    assert committee.roster == ("r0", "r1", "r2", "r3")
    assert [committee.primary(1, view) for view in range(5)] == ["r1", "r2", "r3", "r0", "r1"]
    assert committee.primary(2, 0) == committee.primary(1, 1)
    assert committee.primary(2**62, 2**32 - 1) in committee.roster


def test_the_hash_covers_members_groups_and_keys_and_not_the_roster() -> None:
    committee = make_committee(4, 3)
    benched = Committee(committee.voters, committee.roster[1:])
    assert benched.hash == committee.hash
    voter = committee.voters[0]
    for changed in (
        Voter(voter.id, key_of("another").public, voter.group, voter.proposes),
        Voter(voter.id, voter.key, "another", voter.proposes),
        Voter(voter.id, voter.key, voter.group, not voter.proposes),
    ):
        other = Committee((changed, *committee.voters[1:]), committee.roster)
        assert other.hash != committee.hash
    assert Committee(committee.voters[1:], committee.roster).hash != committee.hash


def test_what_is_no_committee_is_refused() -> None:
    voters = make_committee(3, 1).voters
    with pytest.raises(ValueError, match="sorted"):
        Committee(voters[::-1], ("r0",))
    with pytest.raises(ValueError, match="sorted"):
        Committee((voters[0], *voters), ("r0",))
    with pytest.raises(ValueError, match="at least one recorder"):
        Committee(voters, ())
    for outsider in ("a0", "nobody"):
        with pytest.raises(ValueError, match="only recorders"):
            Committee(voters, (outsider,))
    many = tuple(Voter(f"r{i:03}", b"k" * 32, POOL, True) for i in range(VOTERS_MAX + 1))
    assert Committee(many[:-1], ("r000",)).group_sizes == {POOL: VOTERS_MAX}
    with pytest.raises(ValueError, match="at most 256"):
        Committee(many, ("r000",))
