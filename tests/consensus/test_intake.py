"""The gate: heights that are not ours, voters that are not ours, and bounds on all of it."""

from itertools import pairwise

import pytest

from consensus.events import Blame, Effect, Fetch, Received, Serve
from consensus.intake import CHECKS_PER_HEIGHT, CHECKS_PER_SECOND, HELD_HEIGHTS
from consensus.messages import Commit, Message, Phase, Prepare, Signed, ViewChange, sign
from tests.consensus.support import (
    Stage,
    by,
    certify,
    genesis,
    key_of,
    make_block,
    make_committee,
    proposal,
    said,
)

COMMITTEE = make_committee(4)
ONE = make_block(genesis(COMMITTEE), "r1")
TWO = make_block(ONE.header, "r2")


def at_height_2() -> Stage:
    stage = Stage("r0", COMMITTEE)
    stage.advance(ONE)
    return stage


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (by("r0", Prepare(1, 0, ONE.hash)), "own_message"),
        (by("zoe", Prepare(1, 0, ONE.hash)), "unknown_signer"),
        (by("zoe", Prepare(2, 0, ONE.hash)), "unknown_signer"),
        (Signed("r2", Prepare(1, 0, ONE.hash), b"s" * 64), "bad_signature"),
        (Signed("r1", proposal(ONE), b"s" * 64), "bad_signature"),
        (Signed("r2", Prepare(2, 0, ONE.hash), b"s" * 64), "not_verified"),
        (sign(b"x" * 32, "r2", key_of("r2"), Prepare(1, 0, ONE.hash)), "bad_signature"),
        (sign(b"x" * 32, "r1", key_of("r1"), proposal(ONE)), "bad_signature"),
        (Signed("r3", Prepare(1, 0, ONE.hash), by("r2", Prepare(1, 0, ONE.hash)).signature),
         "bad_signature"),
        (by("r2", Prepare(2 + HELD_HEIGHTS, 0, ONE.hash)), "future_height"),
        (by("r2", Prepare(2**62, 0, ONE.hash)), "future_height"),
        (by("r2", Prepare(0, 0, ONE.hash)), "old_height"),
        (by("r2", ViewChange(1, 0, None)), "old_view"),
    ],
)  # fmt: skip
def test_what_is_dropped_is_counted(signed: Signed, reason: str) -> None:
    stage = Stage("r0", COMMITTEE)
    assert stage.step(Received(signed)) == []
    assert stage.replica.counters == {reason: 1}
    assert not stage.replica.has_work
    innocent = reason in ("own_message", "old_height", "old_view", "not_verified")
    assert [(blame.signer, blame.reason) for blame in stage.blamed] == (
        [] if innocent else [(signed.signer, reason)]
    )


# ---- laggards ------------------------------------------------------------------------------------


def test_a_laggard_is_served_but_not_at_once_and_not_too_often() -> None:
    stage = at_height_2()
    resend_ms = stage.settings.resend_ms
    late: tuple[str, Message] = ("r2", Commit(1, 0, ONE.hash))
    assert stage.hear(late) == []
    assert stage.dropped("old_height") == 1
    stage.wait(resend_ms)
    assert stage.hear(late) == [Serve("r2", 1)]
    assert stage.hear(late) == []
    assert stage.dropped("served_lately") == 1
    assert stage.hear(("r3", ViewChange(1, 4, None))) == [Serve("r3", 1)]
    stage.wait(resend_ms)
    assert stage.hear(("r2", proposal(ONE))) == [Serve("r2", 1)]


def test_nobody_is_served_on_a_stranger_s_word() -> None:
    stage = at_height_2()
    stage.wait(stage.settings.resend_ms)
    forged = Signed("r2", Commit(1, 0, ONE.hash), b"s" * 64)
    assert stage.step(Received(forged)) == []
    assert stage.hear(("r2", Commit(1, 0, ONE.hash))) == [Serve("r2", 1)], "the place is not taken"


def test_the_genesis_was_never_decided() -> None:
    stage = at_height_2()
    stage.wait(stage.settings.resend_ms)
    assert stage.hear(("r2", Commit(0, 0, ONE.hash))) == []


def test_every_height_begins_without_service() -> None:
    stage = Stage("r0", COMMITTEE, head=ONE.header)
    late: tuple[str, Message] = ("r3", Commit(1, 0, ONE.hash))
    assert stage.hear(late) == [], "just started"
    stage.wait(stage.settings.resend_ms)
    assert stage.hear(late) == [Serve("r3", 1)]
    stage.advance(TWO)
    assert stage.hear(late) == []
    assert stage.replica._intake._served_at == {}, "voters may leave with a height"
    stage.wait(stage.settings.resend_ms)
    assert stage.hear(late) == [Serve("r3", 1)]


# ---- the next height -----------------------------------------------------------------------------


def test_the_next_height_is_held_and_replayed() -> None:
    stage = Stage("r0", COMMITTEE)
    for name in ("r1", "r2", "r3"):
        assert stage.hear((name, Prepare(2, 0, TWO.hash)), (name, Commit(2, 0, TWO.hash))) == []
    assert stage.hear(("r2", proposal(TWO))) == []
    assert stage.replica.counters == {}
    effects = stage.advance(ONE)
    assert [type(effect).__name__ for effect in effects] == ["Fetch"] * len(effects)
    assert effects
    checks = stage.replica.signatures.checks
    assert checks == 7, "each message once: replaying checks nothing again"


def test_a_voter_that_was_busy_goes_on_with_what_it_heard_meanwhile() -> None:
    stage = Stage("r0", COMMITTEE)
    blocks = [ONE]
    for _ in range(HELD_HEIGHTS):
        blocks.append(make_block(blocks[-1].header, "r1"))
    for block in blocks[1:]:
        stage.hear_all(["r1", "r2", "r3"], Commit(block.header.height, 0, block.hash))
    assert stage.replica.counters == {}
    for done, (block, decided) in enumerate(pairwise(blocks)):
        assert len(stage.replica._intake._held) == 3 * (HELD_HEIGHTS - done)
        wanted = [effect for effect in stage.advance(block) if isinstance(effect, Fetch)]
        assert {effect.block_hash for effect in wanted} == {decided.hash}, "a quorum decided it"


def test_what_is_held_is_gone_if_the_height_is_jumped_over() -> None:
    stage = Stage("r0", COMMITTEE)
    stage.hear_all(["r1", "r2", "r3"], Commit(2, 0, TWO.hash))
    assert stage.advance(ONE, TWO) == []
    assert stage.replica.height == 3
    assert stage.replica.counters == {}


def test_one_message_per_voter_and_phase_is_held() -> None:
    stage = Stage("r0", COMMITTEE)
    stage.hear(("r1", ViewChange(2, 3, None)), ("r1", ViewChange(2, 4, None)))
    stage.hear(("r1", ViewChange(2, 4, None)), ("r1", ViewChange(2, 2, None)))
    assert stage.dropped("duplicate") == 2
    stage.hear(("r3", ViewChange(2, 3, None)))
    effects = stage.advance(ONE)
    assert said(effects) == [ViewChange(2, 3, None)]


def test_a_forger_cannot_displace_what_is_held() -> None:
    stage = Stage("r0", COMMITTEE)
    stage.hear(("r1", ViewChange(2, 3, None)), ("r3", ViewChange(2, 3, None)))
    stage.step(Received(Signed("r1", ViewChange(2, 9, None), b"s" * 64)))
    assert stage.dropped("not_verified") == 1
    assert said(stage.advance(ONE)) == [ViewChange(2, 3, None)]


def test_an_auditor_s_proposal_is_not_held() -> None:
    stage = Stage("r0", make_committee(4, 3))
    stage.hear(("a0", proposal(TWO)))
    assert stage.dropped("not_proposer") == 1


def test_memory_for_other_heights_is_bounded() -> None:
    stage = Stage("r0", COMMITTEE)
    for view in range(1, 200):
        stage.now += 100
        for name in ("r1", "r2", "r3"):
            stage.hear((name, ViewChange(2, view, None)), (name, ViewChange(view + 2, 1, None)))
    assert len(stage.replica._intake._held) == 3 * HELD_HEIGHTS
    effects: list[Effect] = stage.advance(ONE)
    assert said(effects) == [ViewChange(2, 199, None)]


# ---- what a voter can make us check --------------------------------------------------------------

SAVED = 64 + 4 * len(COMMITTEE.voters)


def checks_of(stage: Stage) -> int:
    return stage.replica.signatures.checks


def test_ever_higher_views_of_one_voter_are_checked_at_a_bounded_rate() -> None:
    stage = Stage("r0", COMMITTEE)
    for view in range(1, 1_000):
        stage.hear(("r1", ViewChange(1, view, None)))
    assert checks_of(stage) == SAVED
    assert set(stage.blamed) == {Blame("r1", "checks_exceeded")}
    assert stage.dropped("checks_exceeded") == 999 - SAVED
    stage.wait(10_000)
    for view in range(1_000, 3_000):
        stage.hear(("r1", ViewChange(1, view, None)))
    assert checks_of(stage) == SAVED + min(SAVED, 10 * CHECKS_PER_SECOND)
    stage.wait(1_000)
    before = checks_of(stage)
    for view in range(3_000, 4_000):
        stage.hear(("r1", ViewChange(1, view, None)))
    assert checks_of(stage) == before + CHECKS_PER_SECOND


def test_forged_and_next_heights_messages_cost_their_sender_as_much() -> None:
    stage = at_height_2()
    stage.wait(stage.settings.resend_ms)
    for view in range(300):
        stage.step(Received(Signed("r1", Prepare(2, view, ONE.hash), b"s" * 64)))
        stage.step(Received(Signed("r1", Commit(1, view, ONE.hash), b"s" * 64)))
        stage.hear(("r1", ViewChange(3, view + 1, None)))
    assert checks_of(stage) == SAVED


def test_a_false_certificate_is_charged_with_all_that_it_cost() -> None:
    stage = Stage("r0", COMMITTEE)
    honest = certify(Phase.PREPARE, ["r1", "r2", "r3"], ONE)
    stage.hear(("r1", ViewChange(1, 1, honest)))
    assert checks_of(stage) == 4
    for view in range(2, 500):
        # Each names another block, so that nothing of it is known.
        other = make_block(genesis(COMMITTEE), "r1", payload=str(view).encode())
        signers = ["r0", "r1", "r2", "r3"] if view % 2 else ["r1", "r2", "r3"]
        certificate = certify(Phase.PREPARE, signers, other)
        stage.hear(("r1", ViewChange(1, view, certificate)))
    # The last one that is let in may leave a debt of what the largest certificate costs.
    assert SAVED <= checks_of(stage) <= SAVED + 1 + len(COMMITTEE.voters)


def test_what_one_voter_wastes_no_other_lacks() -> None:
    stage = Stage("r0", COMMITTEE)
    for view in range(1, 1_000):
        stage.hear(("r1", ViewChange(1, view, None)))
    assert said(stage.hear(("r2", ViewChange(1, 5, None)))) == [ViewChange(1, 5, None)]


def test_decided_heights_give_a_voter_as_much_as_its_votes_take() -> None:
    stage = Stage("r0", COMMITTEE)
    block = genesis(COMMITTEE)
    for height in range(1, 100):
        following = make_block(block, COMMITTEE.primary(height, 0))
        for name in ("r1", "r2", "r3"):
            vote, commit = Prepare(height, 0, following.hash), Commit(height, 0, following.hash)
            stage.hear((name, vote), (name, commit))
        stage.advance(following)
        block = following.header
    assert stage.blamed == []
    assert checks_of(stage) == 3 * 2 * 99
    assert CHECKS_PER_HEIGHT >= 3, "a primary says three things"


def test_allowances_are_those_of_the_committee() -> None:
    stage = Stage("r0", COMMITTEE)
    for name in ("r1", "r2", "r3"):
        stage.hear((name, Prepare(1, 0, ONE.hash)))
    stage.committee = make_committee(2)
    stage.advance(ONE)
    assert list(stage.replica._intake._allowances) == ["r1"]
