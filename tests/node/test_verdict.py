"""What the command says of a proof: on which committee it rests, and who said what."""

import json

import pytest

from ledger.operations import EnrolPerson, Grant, InstitutionParty, RegisterRecord
from ledger.proof_building import build_transaction_proof
from ledger.proofs import verify_proof
from ledger.receipts import ReceiptCode
from ledger.state import person_id, record_id
from node.commands.verdict import document_of, does_not_prove, proves, show_verdict
from primitives.keys import PrivateKey
from tests.ledger.council import Council
from tests.ledger.test_light_client import GENESIS, NEW_KEY, RECORD_PROOF, REPORT_PROOF, WORLD
from tests.ledger.world import LABELS, consortium, key_of


def test_the_committee_that_a_proof_rests_on_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verify_proof(RECORD_PROOF, GENESIS)
    document = document_of(verdict)
    assert json.loads(json.dumps(document)) == document
    assert document["committee"] == WORLD.voters
    assert document["committee_hash"] == WORLD.committee.hash.hex()
    assert (document["committee_since"], document["committee_changes"]) == (12, 5)
    assert document["evidence"] == []
    assert document["operations"][0]["author"] == "hospital-0"
    show_verdict(verdict)
    shown = capsys.readouterr().out
    assert "the committee since block 12: 5 changes from the founders" in shown
    assert "or of those of a committee before it, gave away its keys" in shown


def test_founders_are_called_so() -> None:
    old = build_transaction_proof(WORLD.store, WORLD.registered)
    verdict = verify_proof(old, GENESIS)
    assert "They are the founders in the genesis file." in proves(verdict)
    assert "classes gave away its keys" in does_not_prove(verdict)[-1]
    assert document_of(verdict)["committee_changes"] == 0


def test_evidence_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verify_proof(REPORT_PROOF, GENESIS)
    (evidence,) = document_of(verdict)["evidence"]
    assert (evidence["signer"], evidence["height"]) == ("authority-0", 8)
    assert evidence["first"]["phase"] == evidence["second"]["phase"] == "PREPARE"
    show_verdict(verdict)
    shown = capsys.readouterr().out
    assert "authority-0 signed two statements at block 8 of which no correct voter" in shown
    assert "report_misbehaviour, by hospital-0" in shown


def test_authors_that_the_proof_does_not_list() -> None:
    """An observer with a new key: no committee names it. A person: none ever does."""
    world = Council(consortium(2, 1, 1))
    world.rotate("institute-0", NEW_KEY)
    patient = PrivateKey(bytes([91]) * 32)
    commitment = bytes(32)
    transaction = world.transaction(
        NEW_KEY,
        EnrolPerson(patient.public, "patient"),
        RegisterRecord(commitment, LABELS, person_id(patient.public)),
    )
    granted = world.transaction(
        patient,
        Grant(InstitutionParty("hospital-1"), (record_id("institute-0", commitment),), "TREAT", 0),
    )
    assert world.run(transaction, granted) == [ReceiptCode.OK] * 2
    authors = []
    for id in (transaction.id, granted.id):
        verdict = verify_proof(build_transaction_proof(world.store, id), world.genesis)
        authors += [operation["author"] for operation in document_of(verdict)["operations"]]
    unknown = f"the member with the key {NEW_KEY.public.hex()}"
    assert authors == [unknown, unknown, f"person {person_id(patient.public).hex()}"]
    assert key_of("institute-0").public != NEW_KEY.public
