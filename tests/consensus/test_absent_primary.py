"""A primary that cannot be reached: what is left of its view, and for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import Committee
from consensus.events import (
    Connected,
    Decide,
    Disconnected,
    Fetched,
    Idle,
    Pending,
    Received,
    Suspect,
)
from consensus.messages import Commit, Decision, Phase, Prepare, ViewChange
from consensus.settings import ConsensusSettings
from tests.consensus.support import (
    Stage,
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
    said,
    view_changes,
)

COMMITTEE = make_committee(4)
BLOCK = make_block(genesis(COMMITTEE), "r1")
SETTINGS = ConsensusSettings(
    view_timeout_ms_min=500, view_timeout_ms_initial=500, view_timeout_ms_max=4_000
)
"""View 0 gets 500 ms, view 1 gets 1000."""
LEAVE = [ViewChange(1, 1, None)]


def make_stage(*absent: str, name: str = "r0") -> Stage:
    return Stage(name, settings=SETTINGS, absent=absent)


def test_with_no_work_nobody_leaves_a_view() -> None:
    stage = make_stage("r1", "r2", "r3")
    assert stage.wait(100_000) == []
    assert stage.step(Disconnected("r1")) == []
    assert stage.replica.deadline is None


@pytest.mark.parametrize(("waited_ms", "left_ms"), [(0, 500), (300, 200), (500, 0), (90_000, 0)])
def test_a_view_has_what_is_left_since_its_primary_was_here(waited_ms: int, left_ms: int) -> None:
    stage = make_stage()
    stage.step(Disconnected("r1"))
    stage.wait(waited_ms)
    stage.step(Pending())
    if left_ms:
        assert stage.wait(left_ms - 1) == []
        assert said(stage.wait(1)) == LEAVE
    else:
        assert said(stage.wait(0)) == LEAVE


def test_a_link_that_breaks_within_the_view_shortens_nothing() -> None:
    stage = make_stage()
    stage.step(Pending())
    stage.wait(300)
    stage.step(Disconnected("r1"))
    assert stage.wait(199) == []
    assert said(stage.wait(1)) == LEAVE


def test_a_primary_that_comes_back_gets_the_whole_view() -> None:
    stage = make_stage("r1")
    stage.wait(499)
    stage.step(Pending())
    stage.step(Connected("r1"))
    assert stage.wait(499) == []
    assert said(stage.wait(1)) == LEAVE


def test_a_primary_that_comes_back_too_late_does_not_bring_back_its_view() -> None:
    stage = make_stage("r1")
    stage.wait(500)
    stage.step(Pending())
    assert said(stage.wait(0)) == LEAVE
    assert said(stage.step(Connected("r1"))) == []
    assert stage.hear(("r1", proposal(BLOCK))) == []
    assert stage.dropped("old_view") == 1


def test_nobody_is_absent_for_itself() -> None:
    stage = Stage("r1", settings=SETTINGS, absent=("r0", "r1", "r2", "r3"))
    stage.wait(10_000)
    stage.step(Pending())
    assert stage.wait(499) == []


def test_the_next_view_waits_for_a_quorum_although_its_primary_is_absent_too() -> None:
    stage = make_stage("r1", "r2")
    stage.wait(100_000)
    stage.step(Pending())
    assert said(stage.wait(0)) == LEAVE
    assert said(stage.wait(100_000)) == []
    assert stage.replica.view == 1
    stage.hear_all(["r1", "r3"], ViewChange(1, 1, None))
    assert said(stage.wait(0)) == [ViewChange(1, 2, None)], "one view after the other"
    assert said(stage.wait(100_000)) == []


def test_after_a_round_of_turns_views_get_all_of_their_time() -> None:
    stage = make_stage("r1", "r2", "r3")
    stage.wait(100_000)
    stage.step(Pending())
    stage.wait(0)
    for view in (1, 2):
        stage.hear_all(["r1", "r2", "r3"], ViewChange(1, view, None))
        assert said(stage.wait(0)) == [ViewChange(1, view + 1, None)]
    stage.hear_all(["r1", "r2", "r3"], ViewChange(1, 4, None))
    assert COMMITTEE.primary(1, 4) == "r1"
    assert said(stage.wait(3_999)) == []
    assert said(stage.wait(1)) == [ViewChange(1, 5, None)]


def test_patience_with_a_link_doubles_with_the_views() -> None:
    stage = make_stage()
    stage.step(Disconnected("r2"))
    stage.step(Pending())
    stage.wait(500)
    stage.hear_all(["r1", "r3"], ViewChange(1, 1, None))
    assert stage.wait(499) == []
    assert said(stage.wait(1)) == [ViewChange(1, 2, None)]


@pytest.mark.parametrize("late", [False, True])
def test_with_its_proposal_here_the_primary_is_needed_no_more(late: bool) -> None:
    stage = make_stage()
    stage.step(Disconnected("r1"))
    stage.wait(400)
    stage.step(Pending())
    stage.wait(50 * late)
    stage.hear(("r1", proposal(BLOCK)))
    assert stage.wait(499 - 50 * late) == []
    assert said(stage.wait(1)) == LEAVE


def test_a_later_view_with_a_proposal_gets_its_time_as_well() -> None:
    stage = make_stage("r2")
    stage.wait(100_000)
    fresh = make_block(genesis(COMMITTEE), "r2", 1)
    asked = view_changes(COMMITTEE, 1, 1, {"r1": None, "r2": None, "r3": None})
    stage.accept(fresh, 1, asked)
    assert said(stage.wait(999)) == []
    assert said(stage.wait(1)) == [ViewChange(1, 2, None)]


def test_a_voter_that_has_prepared_gives_the_view_its_time_after_a_restart() -> None:
    stage = make_stage()
    stage.accept(BLOCK)
    restarted = Stage("r0", settings=SETTINGS, promises=stage.recorded, absent=("r1",))
    restarted.step(Disconnected("r1"))
    assert said(restarted.wait(499)) == []
    assert restarted.replica.view == 0


def test_work_that_others_know_of_is_enough() -> None:
    stage = make_stage("r1")
    stage.wait(1_000)
    stage.hear_all(["r2", "r3"], Prepare(1, 0, BLOCK.hash))
    assert said(stage.wait(0)) == LEAVE


def test_a_claim_goes_along() -> None:
    stage = make_stage("r2")
    stage.wait(100_000)
    stage.accept(BLOCK)
    stage.hear_all(["r1", "r2"], Prepare(1, 0, BLOCK.hash))
    stage.hear_all(["r1", "r3"], ViewChange(1, 1, None))
    prepared = certify(Phase.PREPARE, ["r0", "r1", "r2"], BLOCK)
    assert said(stage.wait(0)) == [ViewChange(1, 2, prepared)]


def test_a_decision_in_a_view_that_was_left_still_counts() -> None:
    stage = make_stage("r1")
    stage.wait(1_000)
    stage.step(Pending())
    stage.wait(0)
    assert stage.replica.view == 1
    stage.hear_all(["r1", "r2", "r3"], Commit(1, 0, BLOCK.hash))
    decision = Decision(BLOCK, certify(Phase.COMMIT, ["r1", "r2", "r3"], BLOCK))
    assert stage.step(Fetched(BLOCK)) == [Decide(decision)]


def test_rest_ends_the_haste_as_well() -> None:
    stage = make_stage("r1")
    stage.wait(1_000)
    stage.step(Pending())
    stage.step(Idle())
    assert stage.wait(100_000) == []


def test_a_suspected_primary_that_is_absent_is_left_once() -> None:
    stage = make_stage("r1")
    stage.wait(1_000)
    assert said(stage.step(Suspect())) == LEAVE
    assert said(stage.wait(100_000)) == []


def test_an_absence_is_older_than_the_height() -> None:
    stage = make_stage("r2")
    stage.wait(1_000)
    stage.advance(BLOCK)
    stage.step(Pending())
    assert said(stage.wait(0)) == [ViewChange(2, 1, None)]


def test_the_absence_of_one_that_was_benched_is_not_forgotten() -> None:
    benched = Committee(COMMITTEE.voters, ("r0", "r2", "r3"))
    stage = Stage("r0", benched, SETTINGS, absent=("r1",))
    stage.wait(1_000)
    stage.committee = COMMITTEE
    head = BLOCK
    for proposer in ("r2", "r3", "r0"):
        head = make_block(head.header, proposer)
    stage.advance(head)
    stage.step(Pending())
    assert COMMITTEE.primary(5, 0) == "r1"
    assert said(stage.wait(0)) == [ViewChange(5, 1, None)]


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 700),
        st.one_of(
            st.builds(Connected, st.sampled_from(("r1", "r2", "r3", "zoe"))),
            st.builds(Disconnected, st.sampled_from(("r1", "r2", "r3", "zoe"))),
            st.just(Pending()),
        ),
    ),
    max_size=25,
)


@given(CHANGES)
def test_links_alone_move_a_voter_by_one_view_and_when_it_should(
    changes: list[tuple[int, Connected | Disconnected | Pending]],
) -> None:
    """Against the rule in words: view 0 ends its time after it began, or after its primary was
    last here, if it is not here now.
    """
    stage = make_stage()
    begun: int | None = None
    lost: int | None = None
    over = False
    for pause_ms, event in changes:
        for _ in range(pause_ms):
            ends = None if begun is None else min(begun, begun if lost is None else lost) + 500
            over = over or (ends is not None and stage.now >= ends)
            changed = said(stage.wait(0))
            assert (changed == LEAVE) == (over and stage.replica.view == 1 and bool(changed))
            assert stage.replica.view == over
            stage.now += 1
        match event:
            case Connected("r1"):
                lost = None
            case Disconnected("r1"):
                lost = stage.now if lost is None else lost
            case Pending():
                begun = stage.now if begun is None else begun
        assert said(stage.step(event)) == []
    assert stage.replica.view <= 1


@given(st.lists(st.sampled_from(("r1", "r2", "r3")), max_size=30))
def test_one_whose_links_flap_drives_nobody(flaps: list[str]) -> None:
    """Whatever one voter believes of its links, two others stay in the view, and are no fewer."""
    liar, steady = make_stage(name="r3"), make_stage(name="r2")
    liar.step(Pending())
    steady.step(Pending())
    for peer in flaps:
        for event in (Disconnected(peer), Connected(peer), Disconnected(peer)):
            told = [*liar.step(event), *liar.wait(17)]
            for message in said(told):
                steady.step(Received(by("r3", message)))
    steady.wait(max(0, 499 - (steady.now - 1_000)))
    assert steady.replica.view == 0
