"""The gate: heights that are not ours, voters that are not ours, and bounds on all of it."""

import pytest

from consensus.events import Effect, Received, Serve
from consensus.messages import Commit, Message, Prepare, Signed, ViewChange, sign
from tests.consensus.support import (
    Stage,
    by,
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
        (Signed("r2", Prepare(2, 0, ONE.hash), b"s" * 64), "bad_signature"),
        (sign(b"x" * 32, "r2", key_of("r2"), Prepare(1, 0, ONE.hash)), "bad_signature"),
        (sign(b"x" * 32, "r1", key_of("r1"), proposal(ONE)), "bad_signature"),
        (Signed("r3", Prepare(1, 0, ONE.hash), by("r2", Prepare(1, 0, ONE.hash)).signature),
         "bad_signature"),
        (by("r2", Prepare(3, 0, ONE.hash)), "future_height"),
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
    assert stage.dropped("bad_signature") == 1
    assert said(stage.advance(ONE)) == [ViewChange(2, 3, None)]


def test_an_auditor_s_proposal_is_not_held() -> None:
    stage = Stage("r0", make_committee(4, 3))
    stage.hear(("a0", proposal(TWO)))
    assert stage.dropped("not_primary") == 1


def test_memory_for_other_heights_is_bounded() -> None:
    stage = Stage("r0", COMMITTEE)
    for view in range(1, 200):
        for name in ("r1", "r2", "r3"):
            stage.hear((name, ViewChange(2, view, None)), (name, ViewChange(view + 2, 1, None)))
    assert len(stage.replica._intake._held) == 3
    effects: list[Effect] = stage.advance(ONE)
    assert said(effects) == [ViewChange(2, 199, None)]
