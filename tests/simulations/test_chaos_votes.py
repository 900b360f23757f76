"""What no voter may sign twice is found in whatever order the votes are found."""

from itertools import permutations

import pytest

from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Message,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    ViewChangeSignature,
    VoteSignature,
    sign,
)
from primitives.block import Block, BlockHeader
from primitives.codec import encode
from primitives.keys import PrivateKey
from simulations.chaos_votes import Ballots, Vote, read_promises
from simulations.checkers import Violation

A, B = b"a" * 32, b"b" * 32
ROOT = bytes(32)
HEADER = BlockHeader(1, ROOT, 5, ROOT, 0, "recorder-1", 1, ROOT, ROOT, ROOT, ROOT, ROOT)
BLOCK = Block(HEADER, b"\x90")


def vote(phase: Phase, view: int, value: bytes | PreparedClaim | None, height: int = 5) -> Vote:
    return Vote("recorder-1", height, view, phase, value)


CONTRADICTIONS = {
    "two proposals": (vote(Phase.PRE_PREPARE, 0, A), vote(Phase.PRE_PREPARE, 0, B)),
    "two PREPAREs": (vote(Phase.PREPARE, 2, A), vote(Phase.PREPARE, 2, B)),
    "two COMMITs": (vote(Phase.COMMIT, 0, A), vote(Phase.COMMIT, 0, B)),
    "two claims": (
        vote(Phase.VIEW_CHANGE, 1, None),
        vote(Phase.VIEW_CHANGE, 1, PreparedClaim(0, A)),
    ),
    "another PREPARE than its proposal": (
        vote(Phase.PRE_PREPARE, 0, A),
        vote(Phase.PREPARE, 0, B),
    ),
    "a COMMIT that a VIEW-CHANGE hides": (
        vote(Phase.COMMIT, 1, A),
        vote(Phase.VIEW_CHANGE, 2, None),
    ),
    "a COMMIT that a VIEW-CHANGE passes over": (
        vote(Phase.COMMIT, 1, A),
        vote(Phase.VIEW_CHANGE, 4, PreparedClaim(0, A)),
    ),
    "a VIEW-CHANGE that claims another block": (
        vote(Phase.COMMIT, 1, A),
        vote(Phase.VIEW_CHANGE, 2, PreparedClaim(1, B)),
    ),
}


@pytest.mark.parametrize("pair", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_found_in_either_order(pair: tuple[Vote, Vote]) -> None:
    for order in permutations(pair):
        ballots = Ballots()
        ballots.add(order[0])
        with pytest.raises(Violation, match="recorder-1 signed"):
            ballots.add(order[1])


def test_an_honest_history_contradicts_nothing_in_any_order() -> None:
    history = (
        vote(Phase.PREPARE, 0, A),
        vote(Phase.COMMIT, 0, A),
        vote(Phase.VIEW_CHANGE, 1, PreparedClaim(0, A)),
        vote(Phase.PRE_PREPARE, 1, A),
        vote(Phase.VIEW_CHANGE, 3, PreparedClaim(0, A)),
        vote(Phase.COMMIT, 3, A),
        vote(Phase.COMMIT, 0, B, height=6),
    )
    for order in permutations(history):
        ballots = Ballots()
        for one in (*order, *order):
            ballots.add(one)
        assert ballots.count == len(history)


def test_voters_do_not_contradict_each_other() -> None:
    ballots = Ballots()
    ballots.add(vote(Phase.PREPARE, 0, A))
    ballots.add(Vote("auditor-1", 5, 0, Phase.PREPARE, B))
    assert ballots.count == 2


# ---- what databases hold -------------------------------------------------------------------------


def signed(message: Message, who: str = "recorder-1") -> Signed:
    return sign(bytes(32), who, PrivateKey(bytes(32)), message)


def certificate(phase: Phase, view: int, block_hash: bytes, *signers: str) -> Certificate:
    entries = tuple(VoteSignature(name, bytes(64)) for name in signers)
    return Certificate(int(phase), 5, view, block_hash, entries)


def add(ballots: Ballots, message: Signed, prepared: Certificate | None = None) -> None:
    row = {
        "signed": encode(message).hex(),
        "prepared": None if prepared is None else encode(prepared).hex(),
    }
    read_promises(ballots, "recorder-1", [row])


def test_votes_of_others_are_found_inside_promises() -> None:
    claims = (ViewChangeSignature("auditor-1", PreparedClaim(0, A), bytes(64)),)
    best = certificate(Phase.PREPARE, 0, A, "auditor-2")
    ballots = Ballots()
    add(ballots, signed(PrePrepare(5, 1, BLOCK, Justification(claims, best))))
    assert (ballots.count, ballots.promises) == (3, 1)
    for other in (
        Vote("auditor-1", 5, 1, Phase.VIEW_CHANGE, None),
        Vote("auditor-2", 5, 0, Phase.PREPARE, B),
        Vote("recorder-1", 5, 1, Phase.PREPARE, B),
    ):
        with pytest.raises(Violation, match=other.voter):
            ballots.add(other)


def test_votes_are_found_in_prepared_and_commit_certificates() -> None:
    ballots = Ballots()
    prepared = certificate(Phase.PREPARE, 0, A, "auditor-1", "recorder-1")
    add(ballots, signed(Commit(5, 0, A)), prepared)
    add(ballots, signed(ViewChange(5, 1, prepared)))
    ballots.add_certificate(certificate(Phase.COMMIT, 0, A, "auditor-1", "recorder-1"))
    assert ballots.count == 5
    with pytest.raises(Violation, match="auditor-1 signed COMMIT"):
        ballots.add_certificate(certificate(Phase.COMMIT, 0, B, "auditor-1"))


def test_what_a_database_has_dropped_meanwhile_is_remembered() -> None:
    ballots = Ballots()
    add(ballots, signed(Prepare(5, 0, A)))
    add(ballots, signed(Prepare(5, 0, A)))
    assert ballots.promises == 1
    with pytest.raises(Violation, match="contradicts itself"):
        add(ballots, signed(Prepare(5, 0, B)))


def test_a_database_holds_its_own_promises_only() -> None:
    with pytest.raises(Violation, match="holds a promise of auditor-1"):
        add(Ballots(), signed(Prepare(5, 0, A), "auditor-1"))
