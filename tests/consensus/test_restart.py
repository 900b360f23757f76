"""A voter that dies and returns with its promises says nothing against them, and goes on."""

from collections.abc import Callable

import pytest

from consensus.committee import Committee
from consensus.events import (
    Broadcast,
    Connected,
    Decide,
    Fetch,
    Fetched,
    Pending,
    Persist,
    Proposed,
    Send,
    WantBlock,
)
from consensus.messages import Commit, Phase, Prepare, ViewChange
from consensus.promises import PromiseError
from tests.consensus.support import (
    Stage,
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
    said,
    sent,
    view_changes,
)

COMMITTEE = make_committee(4)
HEAD = genesis(COMMITTEE)
BLOCK = make_block(HEAD, "r1")
OTHER = make_block(HEAD, "r1", payload=b"other")
PREPARE = Prepare(1, 0, BLOCK.hash)
COMMIT = Commit(1, 0, BLOCK.hash)
PREPARED = certify(Phase.PREPARE, ["r0", "r1", "r2"], BLOCK)


def after_prepare() -> Stage:
    stage = Stage("r0")
    stage.accept(BLOCK)
    return stage


def after_commit() -> Stage:
    stage = after_prepare()
    stage.hear_all(["r1", "r2"], PREPARE)
    return stage


def after_view_change() -> Stage:
    stage = after_commit()
    stage.wait(stage.settings.view_timeout_ms_initial)
    return stage


@pytest.mark.parametrize("before", [after_prepare, after_commit, after_view_change])
def test_the_stored_bytes_are_sent_again_at_once(before: Callable[[], Stage]) -> None:
    stage = before()
    restarted = stage.restarted()
    assert restarted.replica.deadline == restarted.now
    assert restarted.replica.view == stage.replica.view
    assert restarted.replica.has_work
    expected = [effect.signed for effect in stage.step(Connected("r2")) if isinstance(effect, Send)]
    assert restarted.step(Connected("r2")) == [Send("r2", signed) for signed in expected]
    assert restarted.wait(0) == [Broadcast(signed) for signed in expected]
    stored = {effect.signed.signature for effect in stage.recorded}
    assert all(signed.signature in stored for signed in expected)


def test_without_promises_a_restart_is_a_start() -> None:
    restarted = Stage("r0").restarted()
    assert (restarted.replica.deadline, restarted.replica.has_work) == (None, False)


@pytest.mark.parametrize("before", [after_prepare, after_commit])
def test_no_second_prepare_in_the_view(before: Callable[[], Stage]) -> None:
    restarted = before().restarted()
    effects = restarted.hear(("r1", proposal(OTHER))) + restarted.step(Fetched(OTHER))
    assert said(effects) == []


def test_a_prepare_for_one_block_allows_a_commit_for_what_a_quorum_prepared() -> None:
    restarted = after_prepare().restarted()
    effects = restarted.hear_all(["r1", "r2", "r3"], Prepare(1, 0, OTHER.hash))
    assert effects == [Fetch(OTHER.hash, None, False, ("r1", "r2", "r3"))]
    assert said(restarted.step(Fetched(OTHER))) == [Commit(1, 0, OTHER.hash)]


def test_no_second_commit_in_the_view() -> None:
    restarted = after_commit().restarted()
    restarted.hear_all(["r1", "r2", "r3"], Prepare(1, 0, OTHER.hash))
    assert said(restarted.step(Fetched(OTHER))) == []


def test_no_vote_in_a_view_that_was_left() -> None:
    restarted = after_view_change().restarted()
    assert said(restarted.hear(("r1", proposal(BLOCK)))) == []
    assert said(restarted.hear_all(["r1", "r2", "r3"], PREPARE)) == []
    assert said(restarted.step(Fetched(BLOCK))) == []


def test_the_next_view_change_names_what_was_prepared_before_the_crash() -> None:
    restarted = after_commit().restarted()
    asked = said(restarted.wait(restarted.settings.view_timeout_ms_initial))
    assert asked == [ViewChange(1, 1, PREPARED)]


def test_a_view_that_was_asked_for_is_not_timed_before_a_quorum_follows() -> None:
    restarted = after_view_change().restarted()
    assert said(restarted.wait(1_000_000)) == []
    restarted.hear_all(["r1", "r2"], ViewChange(1, 1, None))
    assert said(restarted.wait(2 * restarted.settings.view_timeout_ms_initial)) == [
        ViewChange(1, 2, PREPARED)
    ]


def test_a_view_in_which_we_voted_is_timed_again() -> None:
    stage = Stage("r0")
    claims = view_changes(COMMITTEE, 1, 1, dict.fromkeys(("r1", "r2", "r3")))
    stage.accept(make_block(HEAD, "r2", 1), 1, claims)
    restarted = stage.restarted()
    assert restarted.replica.view == 1
    asked = said(restarted.wait(2 * restarted.settings.view_timeout_ms_initial))
    assert asked == [ViewChange(1, 2, None)]


def test_own_votes_of_before_count() -> None:
    restarted = after_prepare().restarted()
    effects = restarted.hear_all(["r1", "r2"], PREPARE)
    assert effects == [Fetch(BLOCK.hash, BLOCK, False, ("r1", "r2"))], "checked again, kept body"
    effects = restarted.step(Fetched(BLOCK))
    assert said(effects) == [COMMIT]
    assert [type(effect) for effect in restarted.hear_all(["r1", "r2"], COMMIT)] == [Decide]


def test_a_quorum_that_crashed_together_finishes() -> None:
    """Everyone had committed, nobody heard it, all restart: the bodies are still there."""
    stages = [after_commit_of(name).restarted() for name in ("r0", "r1", "r2", "r3")]
    messages = [(stage.name, m) for stage in stages for m in sent(stage.wait(0))]
    for stage in stages:
        effects = stage.hear(*((name, message) for name, message in messages if name != stage.name))
        fetches = [effect for effect in effects if isinstance(effect, Fetch)]
        assert fetches
        assert all(fetch.block == BLOCK for fetch in fetches)
        assert any(isinstance(effect, Decide) for effect in stage.step(Fetched(BLOCK)))


def after_commit_of(name: str) -> Stage:
    stage = Stage(name)
    if name == "r1":
        stage.step(Pending())
        stage.step(Proposed(BLOCK))
    else:
        stage.accept(BLOCK)
    stage.hear_all([other for other in ("r0", "r1", "r2", "r3") if other != name][:2], PREPARE)
    assert said(stage.recorded)[-1] == COMMIT
    return stage


# ---- the primary ---------------------------------------------------------------------------------


def test_a_primary_repeats_its_proposal_and_makes_no_other() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    stage.step(Proposed(BLOCK))
    restarted = stage.restarted()
    assert sent(restarted.wait(0)) == [proposal(BLOCK), PREPARE]
    assert restarted.step(Pending()) == []
    assert restarted.step(Proposed(OTHER)) == []


def test_a_primary_that_died_between_proposal_and_prepare_prepares_it() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    stage.step(Proposed(BLOCK))
    del stage.recorded[1:]
    restarted = stage.restarted()
    assert restarted.wait(0) == [
        Broadcast(stage.recorded[0].signed),
        Fetch(BLOCK.hash, BLOCK, False, ()),
    ]
    assert said(restarted.step(Fetched(BLOCK))) == [PREPARE]


def test_a_primary_that_died_before_it_proposed_may_propose() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    restarted = stage.restarted()
    assert restarted.step(Pending()) == [WantBlock(1, 0)]
    assert said(restarted.step(Proposed(OTHER)))[0] == proposal(OTHER)


def test_a_new_primary_that_died_before_it_proposed_collects_its_quorum_again() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    stage.hear_all(["r0", "r3"], ViewChange(1, 1, None))
    restarted = stage.restarted()
    assert restarted.step(Pending()) == []
    assert restarted.hear_all(["r0", "r1"], ViewChange(1, 1, None)) == [WantBlock(1, 1)]


# ---- bad records ---------------------------------------------------------------------------------


def persist(name: str, message: Prepare | Commit | ViewChange) -> Persist:
    block = {BLOCK.hash: BLOCK, OTHER.hash: OTHER}
    match message:
        case Prepare(_, _, block_hash):
            return Persist(by(name, message), None, block[block_hash])
        case Commit():
            return Persist(by(name, message), PREPARED, None)
        case _:
            return Persist(by(name, message), None, None)


@pytest.mark.parametrize(
    "recorded",
    [
        [PREPARE, Prepare(1, 0, OTHER.hash)],
        [COMMIT, COMMIT],
        [ViewChange(1, 2, None), PREPARE],
        [COMMIT, ViewChange(1, 2, None)],
        [Prepare(2, 0, BLOCK.hash)],
        [Commit(1, 1, BLOCK.hash)],
    ],
)
def test_a_record_that_contradicts_itself_stops_the_node(
    recorded: list[Prepare | Commit | ViewChange],
) -> None:
    with pytest.raises(PromiseError):
        Stage("r0", promises=[persist("r0", message) for message in recorded])


def test_promises_of_a_node_that_is_no_voter_any_more_wake_nobody() -> None:
    stage = after_commit()
    others = Committee(COMMITTEE.voters[1:], COMMITTEE.roster[1:])
    restarted = Stage("r0", others, promises=stage.recorded, head=stage.head)
    assert restarted.replica.deadline is None
    assert restarted.wait(1_000_000) == []
