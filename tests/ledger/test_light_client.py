"""Proofs that pass through changes of the committee: followed from genesis, whole and in order."""

from typing import Any

import pytest

import ledger.proof_building
from consensus.certificates import assemble
from consensus.committee import Voter
from consensus.messages import Phase, vote_digest
from ledger.changes import ChangeType, Leave, Reinstate
from ledger.committee import committee_of
from ledger.operations import RegisterRecord, ReportMisbehaviour
from ledger.proof_building import build_record_proof, build_transaction_proof, committee_changes
from ledger.proof_files import CommitteeChange, TransactionProof, decode_proof, encode_proof
from ledger.proofs import ProofError, verify_proof
from ledger.receipts import Receipt, ReceiptCode
from ledger.standing import committee_key, committee_record
from ledger.state import StateError, record_id
from primitives.block import BlockHeader
from primitives.codec import encode
from primitives.keys import PrivateKey
from primitives.merkle import prove, sized_root
from tests.ledger.council import Council, altered
from tests.ledger.test_proofs import body_of, flipped, sealed
from tests.ledger.world import LABELS, consortium, key_of

COMMITMENT = bytes([9]) * 32
RECORD = record_id("hospital-0", COMMITMENT)
NEW_KEY = PrivateKey(bytes([77]) * 32)


class Changing(Council):
    """A small ledger that a rotation, a leaver, a newcomer and evidence pass over."""

    def __init__(self) -> None:
        super().__init__(consortium(recorders=3, auditors=2, observers=1))
        registration = self.transaction(
            key_of("hospital-0"), RegisterRecord(COMMITMENT, LABELS, None)
        )
        assert self.run(registration) == [ReceiptCode.OK]
        self.registered = registration.id
        self.rotate("hospital-0", NEW_KEY)
        self.vote(self.newcomer("authority-7")[0])
        self.vote(Leave("hospital-1"))
        operation = ReportMisbehaviour(self.contradiction("authority-0"))
        report = self.transaction(self.key_of("hospital-0"), operation)
        assert self.run(report) == [ReceiptCode.OK]
        self.reported = report.id
        self.pass_block()
        self.vote(Reinstate("authority-0"))
        self.pass_block()
        self.pass_block()


WORLD = Changing()
GENESIS = WORLD.genesis
RECORD_PROOF = build_record_proof(WORLD.store, RECORD)
REPORT_PROOF = build_transaction_proof(WORLD.store, WORLD.reported)
FOUNDERS = committee_of(GENESIS.institutions, GENESIS.classes, GENESIS.quorum)
CHANGES = committee_changes(WORLD.store, WORLD.head.height)


def changed(raw: bytes, *changes: CommitteeChange) -> bytes:
    return forged(raw, committee_changes=changes)


def forged(raw: bytes, **fields: Any) -> bytes:
    return encode_proof(altered(decode_proof(raw), **fields))


def refuse(raw: bytes, reason: str) -> None:
    with pytest.raises(ProofError, match=reason):
        verify_proof(raw, GENESIS)


def signed_by(header: BlockHeader, keys: dict[str, PrivateKey]) -> Any:
    """A commit certificate of a header by whoever has these keys."""
    height, block_hash = header.height, header.hash()
    signatures = {
        name: key.sign(vote_digest(GENESIS.chain_id, name, Phase.COMMIT, height, 0, block_hash))
        for name, key in keys.items()
    }
    return assemble(Phase.COMMIT, height, 0, block_hash, signatures)


def test_a_proof_passes_through_every_change() -> None:
    verdict = verify_proof(RECORD_PROOF, GENESIS)
    assert verdict.committee_changes == len(CHANGES) == 5
    assert list(verdict.committee) == WORLD.voters
    assert "hospital-1" not in verdict.committee
    assert verdict.committee_since == WORLD.standing.committee_since
    assert verdict.committee_hash == WORLD.committee.hash
    assert verdict.member_ids[NEW_KEY.public] == "hospital-0"
    assert verdict.member_ids[key_of("hospital-0").public] == "hospital-0"
    assert verdict.member_ids[key_of("authority-7").public] == "authority-7"
    (entry,) = verdict.operations
    assert verdict.member_ids[entry.author] == "hospital-0"


def test_an_old_block_is_proved_by_the_committee_of_its_time() -> None:
    verdict = verify_proof(build_transaction_proof(WORLD.store, WORLD.registered), GENESIS)
    assert (verdict.committee_changes, verdict.committee_since) == (0, 1)
    assert "hospital-1" in verdict.committee
    for height in range(1, WORLD.head.height + 1):
        below = [change for change in CHANGES if change.header.height < height]
        assert list(committee_changes(WORLD.store, height)) == below
    proofs = {id: build_transaction_proof(WORLD.store, id) for id in WORLD.store.positions}
    for id, proof in proofs.items():
        assert verify_proof(proof, GENESIS).transaction_id == id


def test_the_last_block_of_a_committee_needs_no_step_beyond_it() -> None:
    """The block that names the next committee is still decided by the one before."""
    for number, change in enumerate(CHANGES):
        height = change.header.height
        id = next(id for id, place in WORLD.store.positions.items() if place[0] == height)
        proof = build_transaction_proof(WORLD.store, id)
        assert verify_proof(proof, GENESIS).committee_changes == number
        refuse(changed(proof, *CHANGES[: number + 1]), f"it is not below block {height}")


def test_evidence_is_checked_again_without_any_node() -> None:
    verdict = verify_proof(REPORT_PROOF, GENESIS)
    (evidence,) = verdict.evidence
    assert (evidence.signer, verdict.committee_changes) == ("authority-0", 3)
    assert verify_proof(RECORD_PROOF, GENESIS).evidence == ()


def test_every_flipped_byte_is_refused() -> None:
    """Through three changes of a committee so small that all of its bytes can be tried."""
    world = Council(consortium(recorders=2, auditors=1, observers=0))
    world.rotate("hospital-0", NEW_KEY)
    assert world.report("hospital-0", world.contradiction("hospital-1")) is ReceiptCode.OK
    world.rotate("authority-0", PrivateKey(bytes([78]) * 32))
    operation = RegisterRecord(COMMITMENT, LABELS, None)
    transaction = world.transaction(NEW_KEY, operation)
    assert world.run(transaction) == [ReceiptCode.OK]
    raw = build_transaction_proof(world.store, transaction.id)
    assert verify_proof(raw, world.genesis).committee_changes == 3
    body = body_of(raw)
    for position in range(len(raw)):
        with pytest.raises(ProofError):
            verify_proof(flipped(raw, position), world.genesis)
    for position in range(len(body)):
        with pytest.raises(ProofError):
            verify_proof(sealed(flipped(body, position)), world.genesis)


def test_no_change_can_be_left_out_repeated_or_moved() -> None:
    for place in range(len(CHANGES)):
        without = CHANGES[:place] + CHANGES[place + 1 :]
        if place == 2:
            # One voter less: those who are left are a quorum with it as well. Nothing is gained,
            # since the next step names its committee in full.
            verdict = verify_proof(changed(RECORD_PROOF, *without), GENESIS)
            assert verdict.committee_hash == WORLD.committee.hash
        else:
            refuse(changed(RECORD_PROOF, *without), "does not hold")
    refuse(changed(RECORD_PROOF), "certificate does not hold")
    first, second, *others = CHANGES
    refuse(changed(RECORD_PROOF, first, first, second, *others), "not above the change before")
    refuse(changed(RECORD_PROOF, second, first, *others), "block 5 does not hold")
    refuse(changed(RECORD_PROOF, *CHANGES[::-1]), "does not hold")
    refuse(changed(RECORD_PROOF, *CHANGES, CHANGES[-1]), "not above the change before")


def test_a_block_that_changes_nothing_is_no_step() -> None:
    decision = WORLD.store.decision(1)
    assert decision is not None
    idle = CommitteeChange(decision.block.header, decision.certificate, FOUNDERS.voters)
    refuse(changed(RECORD_PROOF, idle, *CHANGES), "so nothing changes")


def test_the_voters_are_those_that_the_block_names() -> None:
    first, second, *others = CHANGES
    other_key = Voter("hospital-0", bytes(32), "recorder", True)
    for voters in (
        second.voters,
        (),
        first.voters[::-1],
        first.voters[:-1],
        (*first.voters[:2], other_key, *first.voters[3:]),
        tuple(altered(voter, proposes=False) for voter in first.voters),
    ):
        refuse(
            changed(RECORD_PROOF, altered(first, voters=voters), second, *others),
            "at block 3 does not hold",
        )


def test_the_keys_of_the_past_decide_nothing() -> None:
    """All keys of the founders, of whom some have left, rotated or were suspended since."""
    founders = {
        member.id: key_of(member.id)
        for member in GENESIS.institutions
        if member.id in [voter.id for voter in FOUNDERS.voters]
    }
    proof = decode_proof(RECORD_PROOF)
    forgery = signed_by(proof.header, founders)
    refuse(forged(RECORD_PROOF, certificate=forgery), "hospital-1 is not a voter at this height")
    present = {name: founders[name] for name in founders if name in WORLD.voters}
    assert WORLD.committee.is_quorum(present)
    forgery = signed_by(proof.header, present)
    refuse(forged(RECORD_PROOF, certificate=forgery), "signature of hospital-0 does not verify")
    # All recorders of genesis with their keys, but not the present key of one of them.
    recorders = {name: key for name, key in present.items() if name.startswith("hospital")}
    honest = {name: WORLD.key_of(name) for name in WORLD.voters if name.startswith("authority")}
    forgery = signed_by(proof.header, recorders | honest)
    refuse(forged(RECORD_PROOF, certificate=forgery), "signature of hospital-0 does not verify")
    # Nor can they, at a later height, lead the way to a committee of their own.
    last = CHANGES[-1]
    header = altered(last.header, height=proof.header.height - 1, next_committee_hash=bytes(32))
    coup = CommitteeChange(header, signed_by(header, present), FOUNDERS.voters)
    refuse(changed(RECORD_PROOF, *CHANGES, coup), "signature of hospital-0 does not verify")
    # Where they did decide, they cannot leave the way that was taken: the blocks after it are not
    # theirs. That a quorum of every class of a past committee gives away its keys is the limit.
    assert verify_proof(RECORD_PROOF, GENESIS).committee == tuple(WORLD.voters)


def test_a_suspended_voter_decides_nothing() -> None:
    proof = decode_proof(RECORD_PROOF)
    after = WORLD.store.decision(CHANGES[3].header.height + 1)
    assert after is not None
    header = after.block.header
    names = ["authority-0", "authority-1", "hospital-0", "hospital-2"]
    certificate = signed_by(header, {name: WORLD.key_of(name) for name in names})
    raw = encode_proof(
        altered(proof, header=header, certificate=certificate, committee_changes=tuple(CHANGES[:4]))
    )
    refuse(raw, "authority-0 is not a voter at this height")


def test_what_a_dishonest_quorum_says_of_evidence_is_checked() -> None:
    """The founders' quorum signs that evidence was heard which is none."""
    proof = decode_proof(REPORT_PROOF)
    assert isinstance(proof, TransactionProof)
    for evidence, reason in (
        (altered(WORLD.contradiction("hospital-1"), height=5), "hospital-1, who had no vote"),
        (altered(WORLD.contradiction("authority-0"), height=1), "evidence does not hold: a signat"),
    ):
        other = Council(consortium(recorders=3, auditors=2, observers=1))
        assert other.chain_id == WORLD.chain_id
        transaction = other.transaction(
            key_of("hospital-2"),
            ReportMisbehaviour(evidence),
            valid_until_height=proof.header.height,
        )
        receipt = encode(Receipt(transaction.id, 0, 0))
        header = altered(proof.header, receipts_root=sized_root((receipt,)))
        names = [voter.id for voter in CHANGES[2].voters]
        raw = encode_proof(
            altered(
                proof,
                header=header,
                certificate=signed_by(header, {name: WORLD.key_of(name) for name in names}),
                transaction=transaction.raw,
                receipt=Receipt(transaction.id, 0, 0),
                inclusion=prove([receipt], 0),
            )
        )
        refuse(raw, reason)


def test_so_many_changes_fit_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.proof_building, "COMMITTEE_CHANGES_MAX", 5)
    assert build_record_proof(WORLD.store, RECORD) == RECORD_PROOF
    monkeypatch.setattr(ledger.proof_building, "COMMITTEE_CHANGES_MAX", 4)
    with pytest.raises(ProofError, match="changed 5 times up to block"):
        build_record_proof(WORLD.store, RECORD)


def test_a_store_that_lost_a_committee_says_so() -> None:
    world = Changing()
    since = world.standing.committee_since
    record = committee_record(world.store, since)
    assert record is not None
    for false in (None, altered(record, previous=since)):
        world.store.values.pop(committee_key(since), None)
        if false is not None:
            world.store.values[committee_key(since)] = encode(false)
        with pytest.raises(StateError, match=f"committee that began at block {since}"):
            build_record_proof(world.store, RECORD)


def test_a_change_of_type_without_another_vote_is_no_change() -> None:
    """Nor is a bench: whose turn it is no reader of a proof needs to know."""
    world = Council(consortium(recorders=4, auditors=1, observers=1))
    world.vote(ChangeType("institute-0", "clinic"))
    world.pass_block(view=1)
    world.pass_block()
    assert world.standing.benches
    assert world.standing.committee_since == 1
    id = list(world.store.positions)[-1]
    assert (
        verify_proof(build_transaction_proof(world.store, id), world.genesis).committee_changes == 0
    )
