"""What waited has died: a replica stops changing views, unless something could still be decided."""

import pytest

from consensus.events import Fetched, Idle, Pending, Proposed, WantBlock
from consensus.messages import Commit, Message, Phase, Prepare, ViewChange
from tests.consensus.support import (
    Stage,
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
VIEWS_MS = 1_000_000


def test_without_work_views_are_left_no_more() -> None:
    stage = Stage("r0")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    stage.hear_all(["r1", "r2"], ViewChange(1, 1, None))
    assert stage.step(Idle()) == []
    assert not stage.replica.has_work
    assert stage.replica.deadline is None
    assert stage.wait(VIEWS_MS) == []


def heeds_work(stage: Stage) -> bool:
    return stage.replica.heeds_work


def test_work_is_heeded_while_we_rest_and_while_a_block_is_wanted() -> None:
    follower, primary = Stage("r0"), Stage("r1")
    for stage, waits in ((follower, False), (primary, True)):
        assert heeds_work(stage)
        assert stage.step(Pending()) == ([WantBlock(1, 0)] if waits else [])
        assert heeds_work(stage) is waits
        # In vain: there was nothing to make it of.
        assert stage.step(Pending()) == ([WantBlock(1, 0)] if waits else [])
    primary.step(Proposed(BLOCK))
    follower.accept(BLOCK)
    for stage in (follower, primary):
        assert not heeds_work(stage)
        stage.hear_all(["r2", "r3"], Prepare(1, 0, BLOCK.hash))
        stage.hear_all(["r2", "r3"], Commit(1, 0, BLOCK.hash))
        stage.advance(BLOCK)
        assert heeds_work(stage)


def test_work_is_heeded_by_whose_turn_a_later_view_is() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert not heeds_work(stage)
    assert stage.hear_all(["r0", "r1"], ViewChange(1, 1, None)) == [WantBlock(1, 1)]
    assert heeds_work(stage)
    assert stage.step(Pending()) == [WantBlock(1, 1)]
    stage.step(Idle())
    assert heeds_work(stage)


def test_new_work_goes_on_in_the_view_that_was_reached() -> None:
    stage = Stage("r0")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    stage.hear_all(["r1", "r2"], ViewChange(1, 1, None))
    stage.step(Idle())
    stage.step(Pending())
    assert stage.replica.view == 1
    assert said(stage.wait(2 * stage.settings.view_timeout_ms_initial)) == [ViewChange(1, 2, None)]


def test_others_who_still_have_work_wake_us() -> None:
    stage = Stage("r0")
    stage.step(Pending())
    stage.step(Idle())
    stage.hear_all(["r1", "r2"], ViewChange(1, 1, None))
    assert stage.replica.has_work


def test_a_block_that_a_quorum_prepared_is_never_left_alone() -> None:
    prepared = certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK)
    known: list[Message] = [
        Prepare(1, 0, BLOCK.hash),
        Commit(1, 0, BLOCK.hash),
        ViewChange(1, 1, prepared),
    ]
    for message in known:
        stage = Stage("r0")
        stage.hear_all(["r1", "r2", "r3"], message)
        stage.step(Idle())
        assert stage.replica.has_work


def test_a_new_primary_without_work_repeats_what_was_prepared() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    prepared = certify(Phase.PREPARE, ["r0", "r1", "r3"], BLOCK)
    stage.hear(("r0", ViewChange(1, 1, prepared)))
    stage.step(Idle())
    stage.hear(("r1", ViewChange(1, 1, None)))
    assert said(stage.step(Fetched(BLOCK)))[0] == proposal(
        BLOCK, 1, view_changes(COMMITTEE, 1, 1, {"r0": prepared, "r1": None, "r2": None})
    )


@pytest.mark.parametrize("checked", [False, True])
def test_a_proposal_is_never_left_alone(checked: bool) -> None:
    stage = Stage("r0")
    if checked:
        stage.accept(BLOCK)
        stage.wait(stage.settings.view_timeout_ms_initial)
        assert stage.replica.view == 1, "the proposal is of a view that was left; our PREPARE stays"
    else:
        stage.hear(("r1", proposal(BLOCK)))
    stage.step(Idle())
    assert stage.replica.has_work
