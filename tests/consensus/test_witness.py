"""Who contradicts itself is seen, even where it tells everyone only one of its stories."""

from itertools import product

import pytest

import consensus.evidence
from consensus.events import Accuse, Blame, Heard, PassOn
from consensus.evidence import Evidence, check_evidence, evidence_of, statement_of
from consensus.messages import Commit, Message, Phase, Prepare, ViewChange
from consensus.replica import WITNESSES_MAX
from consensus.witness import FORGED_MAX, HEARD_MAX, KEPT_MAX, TOLD_MAX, Witness
from primitives.keys import verify
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
    view_changes,
)

COMMITTEE = make_committee(4)
HEAD = genesis(COMMITTEE)
BLOCK, OTHER = (make_block(HEAD, "r1", payload=text) for text in (b"1", b"2"))
QUORUM = ["r1", "r2", "r3"]


def new() -> Witness:
    return Witness(CHAIN, 1, COMMITTEE)


def evidence_in(witness: Witness) -> list[Evidence]:
    found = witness.take_evidence()
    for evidence in found:
        check_evidence(evidence, CHAIN, key_of(evidence.signer).public)
    return found


def observed(*messages: Message) -> list[Evidence]:
    """What is found in these messages of r0, in either order."""
    results = []
    for order in (1, -1):
        witness = new()
        for message in messages[::order]:
            witness.observe(by("r0", message))
        results.append(evidence_in(witness))
    assert results[0] == results[1]
    return results[0]


PAIRS: list[tuple[Message, Message]] = [
    (proposal(BLOCK), proposal(OTHER)),
    (Prepare(1, 4, BLOCK.hash), Prepare(1, 4, OTHER.hash)),
    (Commit(1, 4, BLOCK.hash), Commit(1, 4, OTHER.hash)),
    (ViewChange(1, 4, None), ViewChange(1, 4, certify(Phase.PREPARE, QUORUM, BLOCK, 2))),
    (Commit(1, 2, BLOCK.hash), ViewChange(1, 4, None)),
    (Commit(1, 2, BLOCK.hash), ViewChange(1, 4, certify(Phase.PREPARE, QUORUM, BLOCK, 1))),
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_both_messages_are_evidence(pair: tuple[Message, Message]) -> None:
    first, second = pair
    assert observed(*pair) == [evidence_of(by("r0", first), by("r0", second))]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_told_to_two_it_is_evidence_when_one_passes_it_on(pair: tuple[Message, Message]) -> None:
    first, second = by("r0", pair[0]), by("r0", pair[1])
    for mine, told, late in product((first, second), (first, second), (True, False)):
        witness = new()
        if not late:
            witness.observe(mine)
        assert witness.hear("r2", "r0", statement_of(told))
        if late:
            witness.observe(mine)
        expected = [] if mine is told else [evidence_of(first, second)]
        assert evidence_in(witness) == expected


def test_an_honest_voter_is_never_accused() -> None:
    prepared = certify(Phase.PREPARE, QUORUM, BLOCK, 2)
    for claimed in (2, 3):
        ask = ViewChange(1, 4, certify(Phase.PREPARE, QUORUM, BLOCK, claimed))
        assert observed(Commit(1, 2, BLOCK.hash), ask) == []
    assert observed(Commit(1, 4, BLOCK.hash), ViewChange(1, 4, None)) == []
    assert observed(Commit(1, 5, BLOCK.hash), ViewChange(1, 4, prepared)) == []
    assert observed(Prepare(1, 1, BLOCK.hash), Prepare(1, 2, OTHER.hash)) == []
    assert observed(Prepare(1, 1, BLOCK.hash), Commit(1, 1, OTHER.hash)) == []
    assert observed(proposal(BLOCK), proposal(BLOCK)) == []


def test_a_forged_statement_accuses_nobody() -> None:
    witness = new()
    witness.observe(by("r0", Prepare(1, 0, BLOCK.hash)))
    forged = by("r3", Prepare(1, 0, OTHER.hash))
    assert not witness.hear("r3", "r0", statement_of(forged))
    assert witness.take_evidence() == []
    assert witness.take_forgers() == ["r3"]
    assert witness.hear("r2", "r0", statement_of(by("r0", Prepare(1, 0, OTHER.hash))))
    assert len(evidence_in(witness)) == 1


def test_one_proof_against_a_voter_is_enough() -> None:
    three = [Prepare(1, view, block.hash) for view in (1, 2) for block in (BLOCK, OTHER)]
    witness = new()
    for message in three:
        witness.observe(by("r0", message))
    assert len(evidence_in(witness)) == 1


def test_certificates_and_justifications_are_looked_through() -> None:
    witness = new()
    witness.observe(by("r2", Prepare(1, 0, OTHER.hash)))
    witness.look_into(ViewChange(1, 1, certify(Phase.PREPARE, QUORUM, BLOCK)))
    assert [found.signer for found in evidence_in(witness)] == ["r2"]

    witness = new()
    prepared = certify(Phase.PREPARE, QUORUM, BLOCK)
    witness.observe(by("r3", ViewChange(1, 1, None)))
    claims = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM, prepared))
    witness.look_into(proposal(BLOCK, 1, claims))
    assert [found.signer for found in evidence_in(witness)] == ["r3"]


def test_two_stories_in_one_view_are_told_to_all() -> None:
    stage = Stage("r0")
    stage.accept(BLOCK)
    assert stage.passed_on == []
    stage.hear(("r2", Prepare(1, 0, OTHER.hash)))
    told = [by("r1", proposal(BLOCK)), by("r2", Prepare(1, 0, OTHER.hash))]
    assert stage.passed_on == [PassOn(1, each.signer, statement_of(each)) for each in told]

    listener = Stage("r3")
    listener.accept(OTHER)
    heard = [
        Heard("r0", effect.height, effect.signer, effect.statement) for effect in stage.passed_on
    ]
    accused = [effect for event in heard for effect in listener.step(event)]
    expected = evidence_of(by("r1", proposal(BLOCK)), by("r1", proposal(OTHER)))
    assert accused == [Accuse(expected)]


def test_what_is_passed_on_may_come_later() -> None:
    stage = Stage("r0")
    stage.hear(("r2", Prepare(1, 0, OTHER.hash)))
    block, blocks = BLOCK, [BLOCK]
    for _ in range(WITNESSES_MAX - 1):
        stage.advance(block)
        block = make_block(block.header, "r1")
        blocks.append(block)
    statement = statement_of(by("r2", Prepare(1, 0, BLOCK.hash)))
    assert len(stage.step(Heard("r3", 1, "r2", statement))) == 1
    stage.advance(block)
    statement = statement_of(by("r2", Prepare(1, 0, blocks[1].hash)))
    assert stage.step(Heard("r3", 1, "r2", statement)) == []


def test_what_liars_can_make_grow_is_bounded() -> None:
    witness = new()
    statements = [by("r0", Prepare(1, view, BLOCK.hash)) for view in range(3 * KEPT_MAX)]
    for signed in statements:
        witness.observe(signed)
    assert max(len(said) for said in witness._said.values()) == KEPT_MAX
    taken = [witness.hear("r3", "r2", statement_of(signed)) for signed in statements]
    assert taken.count(True) == HEARD_MAX
    assert not witness.hear("r1", "stranger", statement_of(statements[0]))
    for view in range(2 * TOLD_MAX):
        witness.observe(by("r1", Prepare(1, view, OTHER.hash)))
    assert len(witness.take_testimony()) == TOLD_MAX


def test_forged_testimonies_cost_four_signatures_whoever_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks: list[bytes] = []

    def count(key: bytes, signed: bytes, signature: bytes) -> bool:
        checks.append(signature)
        return verify(key, signed, signature)

    monkeypatch.setattr(consensus.evidence, "verify", count)
    stage = Stage("r1", COMMITTEE)
    forged = [statement_of(by("r3", Prepare(1, view, OTHER.hash))) for view in range(1, 60)]
    # Half of them name what was said before, half what is said later.
    for view in range(1, 30):
        stage.hear(("r2", Prepare(1, view, BLOCK.hash)))
    for statement in forged:
        stage.step(Heard("r3", 1, "r2", statement))
    for view in range(30, 60):
        stage.hear(("r2", Prepare(1, view, BLOCK.hash)))
    assert len(checks) <= 4
    assert stage.blamed == [Blame("r3", "testimony_false")] * FORGED_MAX


def test_a_testimony_that_proves_false_later_is_charged_to_who_gave_it() -> None:
    witness = new()
    for view in range(4):
        statement = statement_of(by("r3", Prepare(1, view, OTHER.hash)))
        assert witness.hear("r3", "r0", statement)
    for view in range(4):
        witness.observe(by("r0", Prepare(1, view, BLOCK.hash)))
    assert witness.take_forgers() == ["r3"] * FORGED_MAX
    assert witness.take_evidence() == []
    assert not witness.hear("r3", "r0", statement_of(by("r0", Prepare(1, 0, OTHER.hash))))
