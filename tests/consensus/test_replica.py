"""One replica, rule by rule; everyone else is played by the test."""

import pytest

from consensus.certificates import check_certificate
from consensus.committee import Committee, Voter
from consensus.events import (
    Accuse,
    Advanced,
    Broadcast,
    Connected,
    Decide,
    Expired,
    Fetch,
    Fetched,
    Pending,
    Persist,
    Proposed,
    Send,
    Suspect,
    WantBlock,
)
from consensus.evidence import evidence_of
from consensus.height import BLOCKS_KEPT_MAX
from consensus.messages import Commit, Decision, Phase, Prepare, PrePrepare, ViewChange
from consensus.settings import ConsensusSettings
from tests.consensus.support import (
    CHAIN,
    Stage,
    by,
    certify,
    genesis,
    key_of,
    make_block,
    make_committee,
    proposal,
    said,
    sent,
    view_changes,
)

COMMITTEE = make_committee(4)
HEAD = genesis(COMMITTEE)
OTHERS = ("r0", "r1", "r2", "r3")
QUORUM = ("r0", "r1", "r2")
BLOCK = make_block(HEAD, "r1")
OTHER = make_block(HEAD, "r1", payload=b"other")
NEXT = make_block(BLOCK.header, "r2")
PREPARE = Prepare(1, 0, BLOCK.hash)
COMMIT = Commit(1, 0, BLOCK.hash)


# ---- the normal case, OSDI'99 section 4.2 --------------------------------------------------------


def test_a_voter_checks_then_prepares_then_commits_then_decides() -> None:
    stage = Stage("r0")
    message = proposal(BLOCK)
    assert stage.hear(("r1", message)) == [Fetch(BLOCK.hash, BLOCK, True, ("r1",))]
    own_prepare = by("r0", PREPARE)
    assert stage.step(Fetched(BLOCK)) == [
        Persist(own_prepare, None, BLOCK),
        Broadcast(own_prepare),
    ]
    assert stage.hear(("r1", PREPARE)) == []
    certificate = certify(Phase.PREPARE, ["r0", "r1", "r3"], BLOCK)
    own_commit = by("r0", COMMIT)
    assert stage.hear(("r3", PREPARE)) == [
        Persist(own_commit, certificate, None),
        Broadcast(own_commit),
    ]
    assert stage.hear(("r2", COMMIT)) == []
    decision = Decision(BLOCK, certify(Phase.COMMIT, ["r0", "r2", "r3"], BLOCK))
    assert stage.hear(("r3", COMMIT)) == [Decide(decision)]
    check_certificate(decision.certificate, Phase.COMMIT, CHAIN, COMMITTEE)


def test_a_primary_proposes_and_votes_at_once() -> None:
    stage = Stage("r1")
    assert stage.step(Pending()) == [WantBlock(1, 0)]
    effects = stage.step(Proposed(BLOCK))
    first, second = by("r1", proposal(BLOCK)), by("r1", PREPARE)
    assert effects == [
        Persist(first, None, None),
        Broadcast(first),
        Persist(second, None, BLOCK),
        Broadcast(second),
    ]


def test_the_only_voter_decides_alone_in_one_step() -> None:
    committee = make_committee(1)
    stage = Stage("r0", committee)
    assert stage.step(Pending()) == [WantBlock(1, 0)]
    block = make_block(genesis(committee), "r0")
    effects = stage.step(Proposed(block))
    assert [type(effect) for effect in effects] == [Persist, Broadcast] * 3 + [Decide]
    assert said(effects) == [proposal(block), Prepare(1, 0, block.hash), Commit(1, 0, block.hash)]


def test_nothing_is_sent_before_its_persist() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    effects = stage.step(Proposed(BLOCK))
    effects += stage.hear(("r0", PREPARE), ("r2", PREPARE))
    effects += stage.wait(100_000)
    durable: list[bytes] = []
    for effect in effects:
        match effect:
            case Persist(signed):
                durable.append(signed.signature)
            case Broadcast(signed):
                assert signed.signature in durable
            case _:
                raise AssertionError(effect)
    assert len(durable) >= 4


def test_the_primary_asks_again_with_the_next_pending_only() -> None:
    stage = Stage("r1")
    assert stage.step(Pending()) == [WantBlock(1, 0)]
    assert stage.hear(("r0", ViewChange(1, 1, None))) == []
    assert stage.step(Pending()) == [WantBlock(1, 0)]
    stage.step(Proposed(BLOCK))
    assert stage.step(Pending()) == []
    assert stage.step(Proposed(OTHER)) == [], "a second answer: we have proposed"


def test_a_voter_that_is_not_primary_wants_no_block() -> None:
    assert Stage("r0").step(Pending()) == []


def test_a_quorum_of_prepares_stands_in_for_a_lost_proposal() -> None:
    stage = Stage("r0")
    effects = stage.hear_all(["r1", "r2", "r3"], PREPARE)
    assert effects == [Fetch(BLOCK.hash, None, False, ("r1", "r2", "r3"))]
    effects = stage.step(Fetched(BLOCK))
    assert said(effects) == [COMMIT]
    persist = effects[0]
    assert isinstance(persist, Persist)
    assert persist.block == BLOCK, "the block must be durable with the COMMIT"
    assert persist.prepared == certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK)


def test_a_quorum_of_commits_decides_an_unknown_block_once_it_is_here() -> None:
    stage = Stage("r0")
    assert stage.hear_all(["r1", "r2", "r3"], Commit(1, 7, BLOCK.hash)) == [
        Fetch(BLOCK.hash, None, False, ("r1", "r2", "r3"))
    ]
    effects = stage.step(Fetched(BLOCK))
    assert effects == [Decide(Decision(BLOCK, certify(Phase.COMMIT, ["r1", "r2", "r3"], BLOCK, 7)))]


def test_a_block_that_does_not_come_is_asked_for_again() -> None:
    stage = Stage("r0")
    stage.hear(("r1", proposal(BLOCK)))
    again = stage.wait(stage.settings.resend_ms)
    assert again == [Fetch(BLOCK.hash, BLOCK, True, ("r1",))]
    fetches = stage.hear_all(["r1", "r2", "r3"], PREPARE)
    assert fetches == [Fetch(BLOCK.hash, None, False, ("r1", "r2", "r3"))]


def test_once_decided_nothing_is_signed_until_advanced() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.hear_all(OTHERS, COMMIT)
    assert stage.replica.deadline is None
    assert not stage.replica.has_work
    for event in (Pending(), Suspect(), Expired(), Fetched(OTHER)):
        assert stage.step(event) == []
    assert stage.hear_all(OTHERS, PREPARE) == []
    assert stage.hear_all(OTHERS, ViewChange(1, 1, None)) == []
    assert stage.hear(("r1", proposal(OTHER))) == []
    assert stage.wait(100_000) == []
    assert stage.advance(BLOCK) == []
    stage.accept(NEXT)
    assert said(stage.hear_all(["r1", "r2"], Prepare(2, 0, NEXT.hash))) == [Commit(2, 0, NEXT.hash)]


def test_late_and_foreign_answers_are_ignored() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert stage.replica.view == 1
    assert stage.step(Proposed(BLOCK)) == [], "an answer for a view that we have left"
    stage.advance(BLOCK)
    assert stage.step(Proposed(BLOCK)) == []
    assert stage.step(Fetched(BLOCK)) == []
    stage.hear(("r2", proposal(NEXT)))
    assert stage.step(Fetched(OTHER)) == []
    assert said(stage.step(Fetched(NEXT))) == [Prepare(2, 0, NEXT.hash)]


def test_a_block_that_comes_after_the_decision_is_not_proposed() -> None:
    stage = Stage("r1")
    assert stage.step(Pending()) == [WantBlock(1, 0)]
    stage.hear_all(["r0", "r2", "r3"], Commit(1, 3, OTHER.hash))
    assert [type(effect) for effect in stage.step(Fetched(OTHER))] == [Decide]
    assert stage.step(Proposed(BLOCK)) == []


@pytest.mark.parametrize(
    "block",
    [
        make_block(HEAD, "r1", view=1),
        make_block(HEAD, "r2"),
        make_block(OTHER.header, "r1"),
        make_block(genesis(make_committee(5)), "r1"),
    ],
)
def test_a_block_that_was_not_asked_for_is_our_own_mistake(block: object) -> None:
    stage = Stage("r1")
    stage.step(Pending())
    with pytest.raises(ValueError, match="no WantBlock asked for"):
        stage.step(Proposed(block))  # type: ignore[arg-type]


def test_proposing_out_of_turn_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="no WantBlock"):
        Stage("r0").step(Proposed(make_block(HEAD, "r0")))


def test_checked_blocks_are_bounded() -> None:
    stage = Stage("r0")
    blocks = [make_block(HEAD, "r1", payload=bytes([i])) for i in range(BLOCKS_KEPT_MAX + 2)]
    for block in blocks:
        stage.step(Fetched(block))
    stage.hear(("r1", proposal(blocks[-1])))
    assert said(stage.recorded) == [Prepare(1, 0, blocks[-1].hash)]
    assert len(stage.replica._state._checked) == BLOCKS_KEPT_MAX


# ---- idleness and work ---------------------------------------------------------------------------


def test_idle_means_silent() -> None:
    stage = Stage("r0")
    assert (stage.replica.deadline, stage.replica.has_work) == (None, False)
    assert stage.step(Expired()) == []
    assert stage.step(Connected("r1")) == []
    assert stage.replica.counters == {}


def test_one_voter_alone_does_not_wake_us() -> None:
    stage = Stage("r0")
    stage.hear(("r1", PREPARE), ("r1", Commit(1, 0, BLOCK.hash)), ("r1", ViewChange(1, 1, None)))
    assert not stage.replica.has_work
    stage.hear(("r2", PREPARE))
    assert stage.replica.has_work


def test_a_class_without_a_word_does_not_let_the_other_wake_us() -> None:
    stage = Stage("r0", make_committee(4, 3))
    block = make_block(stage.head, "r1")
    stage.hear_all(OTHERS, Prepare(1, 0, block.hash))
    assert not stage.replica.has_work
    stage.hear(("a0", Prepare(1, 0, block.hash)))
    assert stage.replica.has_work


@pytest.mark.parametrize("event", [Pending(), Suspect()])
def test_the_node_s_own_reasons_wake_us(event: Pending | Suspect) -> None:
    stage = Stage("r0")
    stage.step(event)
    assert stage.replica.has_work


def test_a_valid_proposal_wakes_us_and_a_bad_one_does_not() -> None:
    stage = Stage("r0")
    stage.hear(("r1", proposal(make_block(HEAD, "r2"))))
    assert not stage.replica.has_work
    assert stage.dropped("bad_proposal") == 1
    stage.hear(("r1", proposal(BLOCK)))
    assert stage.replica.has_work


# ---- time, OSDI'99 section 4.5.2 -----------------------------------------------------------------


def test_a_view_without_decision_is_left_and_the_next_not_timed_before_a_quorum_follows() -> None:
    stage = Stage("r0")
    timeout = stage.settings.view_timeout_ms_initial
    stage.step(Pending())
    assert said(stage.wait(timeout - 1)) == []
    assert said(stage.wait(1)) == [ViewChange(1, 1, None)]
    assert said(stage.wait(100 * timeout)) == [], "nobody follows: do not run ahead"
    stage.hear(("r3", ViewChange(1, 1, None)), ("r1", ViewChange(1, 2, None)))
    assert said(stage.wait(2 * timeout - 1)) == []
    assert said(stage.wait(1)) == [ViewChange(1, 2, None)]


def test_time_doubles_and_is_capped() -> None:
    settings = ConsensusSettings(view_timeout_ms_max=10_000)
    stage = Stage("r0", settings=settings)
    stage.step(Pending())
    for view, expected in enumerate([2_000, 4_000, 8_000, 10_000, 10_000], start=1):
        assert said(stage.wait(expected - 1)) == []
        assert said(stage.wait(1)) == [ViewChange(1, view, None)]
        stage.hear_all(["r1", "r2"], ViewChange(1, view, None))


def test_a_justified_proposal_starts_the_time_as_a_quorum_does() -> None:
    stage = Stage("r0")
    claims = view_changes(COMMITTEE, 1, 1, dict.fromkeys(("r1", "r2", "r3")))
    stage.hear(("r2", proposal(make_block(HEAD, "r2", 1), 1, claims)))
    assert stage.replica.view == 1
    timeout = 2 * stage.settings.view_timeout_ms_initial
    assert said(stage.wait(timeout - 1)) == []
    assert said(stage.wait(1)) == [ViewChange(1, 2, None)]


def test_more_than_f_of_every_class_are_joined() -> None:
    stage = Stage("r0", make_committee(4, 3))
    assert stage.hear_all(["r1", "r2", "r3"], ViewChange(1, 3, None)) == []
    assert said(stage.hear(("a0", ViewChange(1, 2, None)))) == [ViewChange(1, 2, None)]
    assert said(stage.hear(("a0", ViewChange(1, 5, None)))) == [ViewChange(1, 3, None)]
    assert stage.replica.view == 3


def test_a_suspect_is_left_at_once_but_nobody_runs_ahead() -> None:
    stage = Stage("r0")
    assert said(stage.step(Suspect())) == [ViewChange(1, 1, None)]
    assert said(stage.step(Suspect())) == []
    stage.hear_all(["r1", "r2"], ViewChange(1, 1, None))
    assert said(stage.step(Suspect())) == [ViewChange(1, 2, None)]


def test_nobody_suspects_itself() -> None:
    stage = Stage("r1")
    assert stage.step(Suspect()) == [WantBlock(1, 0)]
    assert stage.replica.view == 0


def test_latest_messages_are_sent_again_as_the_stored_bytes() -> None:
    stage = Stage("r0", settings=ConsensusSettings(resend_ms=600))
    stage.accept(BLOCK)
    first = [effect.signed for effect in stage.recorded]
    resend_ms = stage.settings.resend_ms
    assert stage.wait(resend_ms - 1) == []
    assert stage.wait(1) == [Broadcast(signed) for signed in first]
    stage.hear_all(["r1", "r2"], PREPARE)
    latest = [effect.signed for effect in stage.recorded]
    assert stage.wait(resend_ms) == [Broadcast(signed) for signed in latest]
    assert stage.step(Connected("r3")) == [Send("r3", signed) for signed in latest]


def test_a_primary_repeats_its_proposal() -> None:
    stage = Stage("r1")
    stage.step(Pending())
    stage.step(Proposed(BLOCK))
    assert sent(stage.wait(stage.settings.resend_ms)) == [proposal(BLOCK), PREPARE]


def test_after_a_view_change_only_what_still_matters_is_repeated() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.hear_all(["r1", "r2"], PREPARE)
    stage.wait(stage.settings.view_timeout_ms_initial)
    ask = ViewChange(1, 1, certify(Phase.PREPARE, QUORUM, BLOCK))
    assert sent(stage.wait(stage.settings.resend_ms)) == [ask, COMMIT]


@pytest.mark.parametrize("peer", ["r0", "zoe"])
def test_only_other_voters_are_greeted(peer: str) -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    assert stage.step(Connected(peer)) == []


def test_patience_follows_measured_commits() -> None:
    settings = ConsensusSettings(view_timeout_ms_min=300, latency_multiple=10)
    stage = Stage("r0", settings=settings)
    stage.accept(BLOCK)
    stage.now += 50
    stage.hear_all(["r1", "r2", "r3"], COMMIT)
    stage.advance(BLOCK)
    stage.step(Pending())
    assert said(stage.wait(499)) == []
    assert said(stage.wait(1)) == [ViewChange(2, 1, None)]


def test_a_decision_of_a_view_that_was_left_teaches_no_patience() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.wait(stage.settings.view_timeout_ms_initial)
    stage.hear_all(["r1", "r3"], ViewChange(1, 1, None))
    stage.now += 1
    stage.hear_all(["r1", "r2", "r3"], COMMIT)
    stage.advance(BLOCK)
    stage.step(Pending())
    assert said(stage.wait(stage.settings.view_timeout_ms_initial - 1)) == []


# ---- new views, OSDI'99 section 4.4 --------------------------------------------------------------


def test_the_new_primary_wants_a_block_once_a_quorum_asked_for_exactly_its_view() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert stage.hear(("r0", ViewChange(1, 2, None))) == []
    assert stage.hear(("r1", ViewChange(1, 1, None))) == []
    assert stage.hear(("r3", ViewChange(1, 1, None))) == [WantBlock(1, 1)]
    block = make_block(HEAD, "r2", 1)
    claims = view_changes(COMMITTEE, 1, 1, dict.fromkeys(("r1", "r2", "r3")))
    assert said(stage.step(Proposed(block))) == [
        proposal(block, 1, claims),
        Prepare(1, 1, block.hash),
    ]


def test_a_claim_that_comes_after_the_quorum_changes_nothing() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert stage.hear_all(["r0", "r1"], ViewChange(1, 1, None)) == [WantBlock(1, 1)]
    claim = ViewChange(1, 1, certify(Phase.PREPARE, ["r0", "r1", "r3"], BLOCK))
    assert stage.hear(("r3", claim)) == []
    block = make_block(HEAD, "r2", 1)
    first, _ = said(stage.step(Proposed(block)))
    assert isinstance(first, PrePrepare)
    assert first.justification == view_changes(COMMITTEE, 1, 1, dict.fromkeys(("r0", "r1", "r2")))


def test_the_new_primary_fetches_the_claimed_block_and_proposes_it_again() -> None:
    stage = Stage("r2")
    stage.step(Pending())
    stage.wait(stage.settings.view_timeout_ms_initial)
    certificate = certify(Phase.PREPARE, ["r0", "r1", "r3"], BLOCK)
    effects = stage.hear(("r0", ViewChange(1, 1, certificate)), ("r1", ViewChange(1, 1, None)))
    assert effects == [Fetch(BLOCK.hash, None, False, ("r0", "r1", "r3"))]
    claims = view_changes(COMMITTEE, 1, 1, {"r0": certificate, "r1": None, "r2": None})
    assert said(stage.step(Fetched(BLOCK))) == [
        proposal(BLOCK, 1, claims),
        Prepare(1, 1, BLOCK.hash),
    ]


def test_a_voter_follows_a_justified_proposal_into_its_view() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    certificate = certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK)
    claims = view_changes(COMMITTEE, 1, 5, {"r1": certificate, "r2": None, "r3": None})
    effects = stage.hear(("r2", proposal(BLOCK, 5, claims)))
    assert said(effects) == [Prepare(1, 5, BLOCK.hash)], "checked already: no Fetch"
    assert stage.replica.view == 5
    assert said(stage.hear_all(["r1", "r2"], Prepare(1, 0, BLOCK.hash))) == []
    assert stage.dropped("old_view") == 2


def test_the_clock_of_a_block_that_was_prepared_is_not_checked_again() -> None:
    stage = Stage("r0")
    certificate = certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK)
    claims = view_changes(COMMITTEE, 1, 1, {"r1": certificate, "r2": None, "r3": None})
    effects = stage.hear(("r2", proposal(BLOCK, 1, claims)))
    assert effects == [Fetch(BLOCK.hash, BLOCK, False, ("r2",))]


def test_a_quorum_of_prepares_leads_into_its_view() -> None:
    stage = Stage("r0")
    stage.hear_all(["r1", "r2", "r3"], Prepare(1, 6, BLOCK.hash))
    effects = stage.step(Fetched(BLOCK))
    assert said(effects) == [Commit(1, 6, BLOCK.hash)]
    assert stage.replica.view == 6
    claims = view_changes(COMMITTEE, 1, 6, dict.fromkeys(("r1", "r2", "r3")))
    fresh = make_block(HEAD, "r3", 6)
    stage.hear(("r3", proposal(fresh, 6, claims)))
    assert said(stage.wait(stage.settings.view_timeout_ms_max)) == [
        ViewChange(1, 7, certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK, 6))
    ]


def test_after_a_view_change_nothing_is_signed_in_a_view_left() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert stage.replica.view == 1
    assert said(stage.hear_all(["r1", "r2", "r3"], PREPARE)) == []
    assert said(stage.hear(("r1", proposal(BLOCK)))) == []
    assert stage.hear_all(["r1", "r2"], COMMIT) == []
    decided = stage.hear(("r3", COMMIT))
    assert [type(effect) for effect in decided] == [Decide], "without a COMMIT of our own"


def test_a_block_prepared_in_a_view_that_was_left_is_still_fetched_for_the_next() -> None:
    stage = Stage("r0")
    stage.hear_all(["r1", "r2", "r3"], PREPARE)
    certificate = certify(Phase.PREPARE, ["r1", "r2", "r3"], BLOCK)
    claims = view_changes(COMMITTEE, 1, 1, {"r1": certificate, "r2": None, "r3": None})
    effects = stage.hear(("r2", proposal(BLOCK, 1, claims)))
    assert effects == [Fetch(BLOCK.hash, BLOCK, False, ("r2",))]
    assert said(stage.step(Fetched(BLOCK))) == [Prepare(1, 1, BLOCK.hash)]


def test_what_was_prepared_in_a_view_that_was_left_is_not_committed() -> None:
    stage = Stage("r0")
    stage.hear_all(["r1", "r2", "r3"], PREPARE)
    stage.wait(stage.settings.view_timeout_ms_initial)
    assert stage.step(Fetched(BLOCK)) == []
    assert said(stage.recorded) == [ViewChange(1, 1, None)]


def test_a_view_change_carries_the_latest_prepared_certificate() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.hear_all(["r1", "r2"], PREPARE)
    first = certify(Phase.PREPARE, QUORUM, BLOCK)
    claims = view_changes(COMMITTEE, 1, 5, {"r0": first, "r1": None, "r2": None})
    stage.accept(BLOCK, 5, claims)
    stage.hear_all(["r1", "r2"], Prepare(1, 5, BLOCK.hash))
    stage.hear_all(["r1", "r2", "r3"], ViewChange(1, 8, None))
    assert said(stage.recorded)[-1] == ViewChange(1, 8, certify(Phase.PREPARE, QUORUM, BLOCK, 5))


# ---- heights -------------------------------------------------------------------------------------


def test_advancing_jumps_and_never_goes_back() -> None:
    stage = Stage("r1")
    third = make_block(NEXT.header, "r3")
    assert stage.advance(BLOCK, NEXT, third) == []
    assert (stage.replica.height, stage.replica.view) == (4, 0)
    stage.accept(make_block(third.header, "r0"))
    promised = stage.step(Connected("r1"))
    for again in (BLOCK, third):
        assert stage.step(Advanced(again.header, COMMITTEE)) == []
        assert stage.replica.height == 4
        assert stage.step(Connected("r1")) == promised, "nothing promised is forgotten"


def test_a_synced_height_ends_the_clocks_of_the_old_one() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.advance(OTHER)
    assert (stage.replica.deadline, stage.replica.has_work) == (None, False)
    assert stage.step(Connected("r1")) == []


def rotated(name: str) -> Committee:
    """The committee after this voter changed its key: its old one is retired."""
    voters = tuple(
        Voter(voter.id, key_of("new").public, voter.group, voter.proposes)
        if voter.id == name
        else voter
        for voter in COMMITTEE.voters
    )
    return Committee(voters, COMMITTEE.roster)


@pytest.mark.parametrize(("name", "committee"), [("r7", COMMITTEE), ("r3", rotated("r3"))])
def test_who_is_no_voter_follows_in_silence(name: str, committee: Committee) -> None:
    stage = Stage(name, committee)
    block = make_block(stage.head, "r1")
    effects = stage.step(Pending()) + stage.step(Suspect())
    effects += stage.hear(("r1", proposal(block))) + stage.step(Fetched(block))
    effects += stage.wait(100_000)
    assert (effects, stage.replica.has_work) == ([], False)
    effects = stage.hear_all(["r0", "r1", "r2"], Commit(1, 0, block.hash))
    assert [type(effect) for effect in effects] == [Decide]


def test_a_voter_may_join_and_leave_with_a_height() -> None:
    stage = Stage("r3", make_committee(3))
    stage.head = genesis(stage.committee)
    first = make_block(stage.head, "r1")
    stage.committee = COMMITTEE
    stage.advance(first)
    block = make_block(first.header, "r2")
    stage.accept(block)
    assert said(stage.recorded) == [Prepare(2, 0, block.hash)]
    stage.committee = make_committee(3)
    stage.advance(block)
    assert stage.step(Pending()) == []
    assert stage.replica.deadline is None


def test_contradictions_of_others_are_reported() -> None:
    stage = Stage("r0")
    other = Prepare(1, 0, OTHER.hash)
    stage.hear(("r2", PREPARE))
    assert stage.hear(("r2", other)) == [Accuse(evidence_of(by("r2", PREPARE), by("r2", other)))]
    assert stage.hear(("r2", other)) == []
    assert stage.dropped("equivocation") == 2


def test_no_signature_is_checked_twice() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    stage.hear_all(["r1", "r2"], PREPARE)
    stage.hear_all(["r1", "r2"], PREPARE)
    assert stage.replica.signatures.checks == 3, "one proposal and two votes"
    certificate = certify(Phase.PREPARE, QUORUM, BLOCK)
    stage.hear(("r1", ViewChange(1, 1, certificate)), ("r3", ViewChange(1, 1, certificate)))
    assert stage.replica.signatures.checks == 5, "the certificate's are known, our own too"
    claims = view_changes(
        COMMITTEE, 1, 1, {"r0": certificate, "r1": certificate, "r3": certificate}
    )
    stage.hear(("r2", proposal(BLOCK, 1, claims)))
    assert stage.replica.view == 1
    assert stage.replica.signatures.checks == 6, "only the proposal's own"
