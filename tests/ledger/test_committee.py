"""From members to voters."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import POOL
from ledger.committee import committee_at, committee_of
from ledger.state import MEMBERS_KEY, Members, Overlay
from primitives.institution import DEFAULT_CLASSES, ConsensusClass
from tests.ledger.world import World, consortium, institution

sizes = st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 6))


@given(sizes, st.sampled_from(["per_class", "pooled", "flat"]))
def test_who_votes_and_in_which_group(size: tuple[int, int, int], quorum: Any) -> None:
    recorders, auditors, observers = size
    committee = committee_of(list(reversed(consortium(*size))), DEFAULT_CLASSES, quorum)
    assert committee.roster == tuple(f"hospital-{n}" for n in range(recorders))
    if quorum == "per_class":
        expected = {"recorder": recorders}
        if auditors:
            expected["auditor"] = auditors
        assert committee.group_sizes == expected
    else:
        voters = recorders + auditors + (observers if quorum == "flat" else 0)
        assert committee.group_sizes == {POOL: voters}
    for voter in committee.voters:
        assert voter.proposes == voter.id.startswith("hospital")
        assert not voter.id.startswith("institute") or quorum == "flat"


def test_genesis_can_move_a_type_to_another_class() -> None:
    classes = {**DEFAULT_CLASSES, "research_institute": ConsensusClass.AUDITOR}
    committee = committee_of(consortium(1, 1, 2), classes, "per_class")
    assert committee.group_sizes == {"auditor": 3, "recorder": 1}


def test_a_committee_needs_a_recorder() -> None:
    with pytest.raises(ValueError, match="recorder"):
        committee_of(consortium(0, 3, 1), DEFAULT_CLASSES, "per_class")


def test_the_state_decides() -> None:
    world = World()
    assert committee_at(world.store, world.genesis).hash == world.head.next_committee_hash
    later = Overlay(world.store)
    joined = (*world.genesis.institutions[:-1], institution("hospital-9", 99))
    later.write(MEMBERS_KEY, Members(joined))
    assert "hospital-9" in committee_at(later, world.genesis).by_id
