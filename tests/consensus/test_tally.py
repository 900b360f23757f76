"""Counting: right, bounded, and blind to nobody's contradictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import Committee, faulty_max
from consensus.messages import Certificate, Commit, Phase, Prepare, Signed, ViewChange
from consensus.tally import VIEWS_KEPT_MAX, Tally, Vote
from tests.consensus.support import (
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
)

COMMITTEE = make_committee(4, 3)
NAMES = [voter.id for voter in COMMITTEE.voters]
QUORUM = ("a0", "a1", "r0", "r1", "r2")
BLOCK = make_block(genesis(COMMITTEE), "r1")
OTHER = make_block(genesis(COMMITTEE), "r2")


def unsigned(name: str, message: Vote | ViewChange) -> Signed:
    """The tally is behind the signature check, so these need none."""
    return Signed(name, message, name.encode().ljust(64))


def prepared_in(view: int) -> Certificate:
    return Certificate(Phase.PREPARE, 1, view, BLOCK.hash, ())


def new() -> Tally:
    return Tally(1, COMMITTEE)


def offer(tally: Tally, name: str, message: Vote | ViewChange) -> str | None:
    """What the replica does with a genuine message."""
    refusal = tally.refusal(name, message)
    if refusal is None and not tally.add(unsigned(name, message)):
        return "contradiction"
    return refusal


@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_a_certificate_appears_with_the_last_vote_of_a_quorum(kind: type[Vote]) -> None:
    tally = new()
    for name in QUORUM:
        assert tally.prepared is None
        assert tally.committed is None
        tally.add(by(name, kind(1, 3, BLOCK.hash)))
    phase = Phase.PREPARE if kind is Prepare else Phase.COMMIT
    found = tally.prepared if kind is Prepare else tally.committed
    assert found == certify(phase, QUORUM, BLOCK, 3)
    assert (tally.prepared is None) != (tally.committed is None)


def test_votes_for_different_blocks_views_and_phases_do_not_mix() -> None:
    tally = new()
    votes: list[Vote] = [
        Prepare(1, 0, BLOCK.hash),
        Commit(1, 0, BLOCK.hash),
        Prepare(1, 0, OTHER.hash),
        Prepare(1, 0, BLOCK.hash),
        Prepare(1, 1, BLOCK.hash),
        Commit(1, 0, BLOCK.hash),
        Prepare(1, 0, BLOCK.hash),
    ]
    for name, message in zip(NAMES, votes, strict=True):
        assert offer(tally, name, message) is None
    assert tally.prepared is None
    assert tally.committed is None


def test_the_prepared_certificate_is_the_latest_and_the_committed_one_the_first() -> None:
    tally = new()
    for view in (2, 5, 3):
        for name in QUORUM:
            assert offer(tally, name, Prepare(1, view, BLOCK.hash)) is None
            assert offer(tally, name, Commit(1, view, BLOCK.hash)) is None
    assert tally.prepared is not None
    assert tally.prepared.view == 5
    assert tally.committed is not None
    assert tally.committed.view == 2


@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from([Prepare, Commit]),
            st.integers(0, 2),
            st.sampled_from([BLOCK.hash, OTHER.hash]),
        ),
        max_size=80,
    ),
)
def test_counts_are_those_of_a_naive_count(
    recorders: int, auditors: int, votes: list[tuple[int, type[Vote], int, bytes]]
) -> None:
    committee = make_committee(recorders, auditors)
    tally = Tally(1, committee)
    first: dict[tuple[type[Vote], int, str], bytes] = {}
    for position, kind, view, block_hash in votes:
        name = committee.voters[position % len(committee.voters)].id
        vote: Vote = kind(1, view, block_hash)
        counted = offer(tally, name, vote) is None
        known = first.setdefault((kind, view, name), block_hash)
        assert not counted or known == block_hash

    def quorum(kind: type[Vote], view: int, block_hash: bytes) -> bool:
        voters = [n for (k, v, n), h in first.items() if (k, v, h) == (kind, view, block_hash)]
        return committee.is_quorum(voters)

    hashes = (BLOCK.hash, OTHER.hash)
    prepared = [v for v in range(3) if any(quorum(Prepare, v, h) for h in hashes)]
    committed = [v for v in range(3) if any(quorum(Commit, v, h) for h in hashes)]
    assert (tally.prepared.view if tally.prepared else None) == max(prepared, default=None)
    assert (tally.committed is not None) == bool(committed)
    assert tally.shared == committee.exceeds_faulty(name for _, _, name in first)


# ---- view changes --------------------------------------------------------------------------------


def naive_view(committee: Committee, asked: dict[str, int], enough: dict[str, int]) -> int:
    for view in sorted({0, *asked.values()}, reverse=True):
        askers = [name for name, wanted in asked.items() if wanted >= view]
        counts = {
            group: sum(committee.by_id[name].group == group for name in askers)
            for group in committee.group_sizes
        }
        if all(counts[group] >= enough[group] for group in counts):
            return view
    return 0


@given(
    st.integers(1, 8),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=60),
)
def test_joined_and_followed_views_are_those_of_a_naive_count(
    recorders: int, auditors: int, asks: list[tuple[int, int]]
) -> None:
    committee = make_committee(recorders, auditors)
    tally = Tally(1, committee)
    asked: dict[str, int] = {}
    more_than_f = {group: faulty_max(n) + 1 for group, n in committee.group_sizes.items()}
    for position, view in asks:
        name = committee.voters[position % len(committee.voters)].id
        offer(tally, name, ViewChange(1, view, None))
        asked[name] = max(view, asked.get(name, 0))
        assert tally.view_joined == naive_view(committee, asked, more_than_f)
        assert tally.view_followed == naive_view(committee, asked, committee.quorum_sizes)
    for view in range(1, 7):
        found = [signed.signer for signed, _ in tally.view_changes_for(view)]
        assert found == sorted(name for name, wanted in asked.items() if wanted == view)


def test_only_the_latest_view_change_of_a_voter_is_kept() -> None:
    tally = new()
    assert offer(tally, "r0", ViewChange(1, 2, None)) is None
    assert offer(tally, "r0", ViewChange(1, 1, None)) == "old_view"
    assert offer(tally, "r0", ViewChange(1, 2, None)) == "duplicate"
    assert offer(tally, "r0", ViewChange(1, 3, None)) is None
    assert tally.view_changes_for(2) == []


# ---- bounds --------------------------------------------------------------------------------------


def prepared_by(tally: Tally) -> list[str] | None:
    if tally.prepared is None:
        return None
    return [entry.signer for entry in tally.prepared.signatures]


def size_of(tally: Tally) -> int:
    """Everything that a tally holds, counted."""
    counts = tally._counts.values()
    return (
        sum(len(votes) for votes in tally._votes.values())
        + sum(len(count.signatures) for count in counts)
        + len(tally._counts)
        + len(tally._view_changes)
        + len(tally._accused)
        + len(tally._heard)
    )


def test_memory_is_bounded_whatever_one_voter_sends() -> None:
    tally = new()
    sizes = []
    for view in range(300):
        for block_hash in (BLOCK.hash, OTHER.hash):
            offer(tally, "r0", Prepare(1, view, block_hash))
            offer(tally, "r0", Commit(1, view, block_hash))
        offer(tally, "r0", ViewChange(1, view + 1, None))
        offer(tally, "r0", ViewChange(1, view + 1, prepared_in(view)))
        sizes.append(size_of(tally))
    assert max(sizes) == max(sizes[:VIEWS_KEPT_MAX])
    assert sizes[-1] <= 6 * VIEWS_KEPT_MAX + 5


def test_a_flood_displaces_only_the_votes_of_its_sender() -> None:
    tally = new()
    for name in QUORUM[:-1]:
        offer(tally, name, Prepare(1, 0, BLOCK.hash))
    for view in range(2**32 - 50, 2**32):
        offer(tally, "r3", Prepare(1, view, OTHER.hash))
    assert offer(tally, "r3", Prepare(1, 0, BLOCK.hash)) == "old_view"
    offer(tally, "r2", Prepare(1, 0, BLOCK.hash))
    assert tally.prepared is not None


def test_a_forgotten_vote_no_longer_counts() -> None:
    tally = new()
    for name in QUORUM[:-1]:
        offer(tally, name, Prepare(1, 0, BLOCK.hash))
    for view in range(1, VIEWS_KEPT_MAX + 1):
        offer(tally, "r0", Prepare(1, view, BLOCK.hash))
    offer(tally, "r2", Prepare(1, 0, BLOCK.hash))
    assert prepared_by(tally) is None
    offer(tally, "r3", Prepare(1, 0, BLOCK.hash))
    assert prepared_by(tally) == ["a0", "a1", "r1", "r2", "r3"]


def test_a_class_that_lost_a_vote_is_short_again() -> None:
    tally = new()
    for name in ("a0", "r0", "r1", "r2"):
        offer(tally, name, Prepare(1, 0, BLOCK.hash))
    for view in range(1, VIEWS_KEPT_MAX + 1):
        offer(tally, "r0", Prepare(1, view, BLOCK.hash))
    offer(tally, "a1", Prepare(1, 0, BLOCK.hash))
    assert prepared_by(tally) is None
    offer(tally, "r3", Prepare(1, 0, BLOCK.hash))
    assert prepared_by(tally) == ["a0", "a1", "r1", "r2", "r3"]


def test_a_quorum_that_was_whole_can_be_whole_again() -> None:
    tally = new()
    for name in QUORUM:
        offer(tally, name, Commit(1, 0, BLOCK.hash))
    for view in range(1, VIEWS_KEPT_MAX + 1):
        offer(tally, "r2", Commit(1, view, BLOCK.hash))
    assert tally.committed is not None
    assert "r2" in [entry.signer for entry in tally.committed.signatures]
    assert offer(tally, "r3", Commit(1, 0, BLOCK.hash)) is None


# ---- contradictions ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_of_two_votes_in_one_view_the_first_counts(kind: type[Vote]) -> None:
    tally = new()
    first, second = kind(1, 4, BLOCK.hash), kind(1, 4, OTHER.hash)
    assert offer(tally, "r0", first) is None
    assert offer(tally, "r0", first) == "duplicate"
    assert offer(tally, "r0", second) == "contradiction"
    assert offer(tally, "r0", second) == "equivocation"
    assert offer(tally, "r0", kind(1, 5, BLOCK.hash)) is None
    assert offer(tally, "r1", second) is None


def test_of_two_claims_for_one_view_the_first_counts() -> None:
    tally = new()
    first, second = ViewChange(1, 4, None), ViewChange(1, 4, prepared_in(2))
    assert offer(tally, "r0", first) is None
    assert offer(tally, "r0", second) == "contradiction"


def test_another_certificate_for_the_same_claim_is_none() -> None:
    tally = new()
    offer(tally, "r0", ViewChange(1, 4, certify(Phase.PREPARE, QUORUM, BLOCK, 2)))
    others = certify(Phase.PREPARE, [*QUORUM, "r3"], BLOCK, 2)
    assert offer(tally, "r0", ViewChange(1, 4, others)) == "duplicate"


def test_a_proposal_is_not_counted() -> None:
    with pytest.raises(TypeError, match="not counted"):
        new().add(by("r1", proposal(BLOCK)))
