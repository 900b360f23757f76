"""Proof files: what they prove, and that nothing in them, in genesis or in the data can change."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger.proof_building
import ledger.proof_files
from consensus.messages import Decision
from ledger.entries import accumulate
from ledger.fingerprint import Fingerprinter, Opening, commitment
from ledger.genesis import GenesisError, parse_genesis
from ledger.operations import Grant, RecordShare, RegisterRecord, Revoke
from ledger.proof_building import build_record_proof, build_transaction_proof
from ledger.proof_files import (
    PROOF_MAGIC,
    EntryBlock,
    Proof,
    ProofFile,
    RecordProof,
    TransactionProof,
    decode_proof,
    encode_proof,
)
from ledger.proofs import ProofError, verify_proof
from ledger.receipts import Receipt, ReceiptCode
from ledger.state import (
    ChainHead,
    Record,
    chain_head,
    chain_key,
    grant_id,
    institution_chain,
    record_id,
)
from ledger.trie import prove_value, update
from primitives.block import Block
from primitives.codec import encode
from primitives.hashing import DIGEST_BYTES, digest
from primitives.merkle import InclusionProof, prove, tree_root
from tests.ledger.world import LABELS, MemoryStore, Story, World, key_of

DATA = b"an image " * 1_000
_FINGERPRINTER = Fingerprinter(len(DATA))
_FINGERPRINTER.update(DATA)
OPENING = _FINGERPRINTER.finish(bytes(range(32)))


class Filed(Story):
    """The story, and a record of real data: granted, shared, revoked, and a share refused."""

    def __init__(self) -> None:
        super().__init__(World())
        world = self.world
        custodian, patient = self.custodian, self.patient
        self.file = record_id("hospital-0", commitment(OPENING))
        register = RegisterRecord(commitment(OPENING), LABELS, self.patient_id)
        registered = world.transaction(custodian, register)
        granted = world.transaction(patient, self.grant_of(self.file))
        world.run(registered, granted)
        self.file_grant = grant_id(granted.id, 0)
        share = RecordShare(
            self.file, self.institute, self.file_grant, commitment(OPENING), "HRESCH"
        )
        shared = world.transaction(custodian, share)
        world.run(shared)
        self.file_shared = shared.id
        world.run(world.transaction(patient, Revoke(self.file_grant)))
        refused = world.transaction(custodian, share)
        world.run(refused)
        self.refused = refused.id


STORY = Filed()
STORE = STORY.world.store
GENESIS = STORY.world.genesis
RECORD_PROOF = build_record_proof(STORE, STORY.file)
OPEN_PROOF = build_record_proof(STORE, STORY.file, OPENING)
ABSENCE_PROOF = build_record_proof(STORE, bytes(32))
SHARE_PROOF = build_transaction_proof(
    STORE, STORY.file_shared, [STORY.file, institution_chain("institute-0")]
)
REFUSED_PROOF = build_transaction_proof(STORE, STORY.refused)
PROOFS = {
    "record": RECORD_PROOF,
    "opened record": OPEN_PROOF,
    "absence": ABSENCE_PROOF,
    "share": SHARE_PROOF,
    "refused share": REFUSED_PROOF,
}


def test_a_record_proof_tells_the_whole_history() -> None:
    verdict = verify_proof(RECORD_PROOF, GENESIS)
    head = STORY.world.head
    assert verdict.kind == "record"
    assert (verdict.ledger, verdict.chain_id) == (GENESIS.name, GENESIS.chain_id)
    assert (verdict.height, verdict.time_ms) == (head.height, head.time_ms)
    assert verdict.block_hash == head.hash()
    assert verdict.committee == verdict.signers
    assert len(verdict.committee) == 7
    assert verdict.committee_hash == head.next_committee_hash
    assert verdict.record_id == STORY.file
    assert verdict.record == Record(commitment(OPENING), LABELS, "hospital-0", STORY.patient_id)
    names = [type(proved.operation) for proved in verdict.operations]
    assert names == [RegisterRecord, Grant, RecordShare, Revoke]
    (share,) = verdict.shares
    assert share.transaction_id == STORY.file_shared
    assert (share.height, share.index) == (4, 0)
    header = STORE.header(4)
    assert header is not None
    assert share.time_ms == header.time_ms
    assert share.author == STORY.custodian.public
    assert [grant.transaction_id for grant in verdict.grants]
    assert len(verdict.revocations) == 1
    assert not verdict.opening_checked
    assert not verdict.data_checked


def test_a_transaction_proof_tells_what_became_of_it() -> None:
    verdict = verify_proof(SHARE_PROOF, GENESIS)
    assert (verdict.kind, verdict.code) == ("transaction", ReceiptCode.OK)
    assert verdict.transaction_id == STORY.file_shared
    assert verdict.failed_operation is None
    assert sorted(verdict.chains) == sorted([STORY.file, institution_chain("institute-0")])
    assert len(verdict.shares) == 1
    assert verdict.height == 4
    refused = verify_proof(REFUSED_PROOF, GENESIS)
    assert (refused.code, refused.failed_operation) == (ReceiptCode.GRANT_REVOKED, 0)
    assert (refused.operations, refused.chains) == ((), ())


def test_absence_is_proved_as_well() -> None:
    verdict = verify_proof(ABSENCE_PROOF, GENESIS)
    assert (verdict.record_id, verdict.record, verdict.operations) == (bytes(32), None, ())


def test_data_is_compared_with_the_commitment() -> None:
    for proof, opening in ((OPEN_PROOF, None), (RECORD_PROOF, OPENING), (SHARE_PROOF, OPENING)):
        assert verify_proof(proof, GENESIS, None, opening).opening_checked
        verdict = verify_proof(proof, GENESIS, [DATA[:100], DATA[100:]], opening)
        assert verdict.opening_checked
        assert verdict.data_checked


def flipped(raw: bytes, position: int) -> bytes:
    changed = bytearray(raw)
    changed[position] ^= 1 << position * 3 % 8
    return bytes(changed)


def sealed(body: bytes) -> bytes:
    """A proof file around any bytes, its digest right."""
    return PROOF_MAGIC + digest("proof-file", body) + body


def body_of(raw: bytes) -> bytes:
    return raw[len(PROOF_MAGIC) + 32 :]


@pytest.mark.parametrize("name", PROOFS)
def test_every_flipped_byte_of_a_proof_is_refused(name: str) -> None:
    raw = PROOFS[name]
    for position in range(len(raw)):
        with pytest.raises(ProofError):
            verify_proof(flipped(raw, position), GENESIS)


@pytest.mark.parametrize("name", [name for name in PROOFS if name != "record"])
def test_no_field_can_change_even_if_the_file_is_sealed_again(name: str) -> None:
    body = body_of(PROOFS[name])
    assert sealed(body) == PROOFS[name]
    passed = []
    for position in range(len(body)):
        try:
            passed.append(verify_proof(sealed(flipped(body, position)), GENESIS))
        except ProofError:
            continue
    # One thing can be asked differently: which record is absent. The answer is then about that one.
    assert all(verdict.record is None for verdict in passed)
    assert len({verdict.record_id for verdict in passed} - {bytes(32)}) == len(passed)
    assert len(passed) <= 32 * (name == "absence")


@given(st.sampled_from(list(PROOFS.values())), st.data())
def test_no_mutilated_proof_passes(raw: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start, min(len(raw), start + 40)))
    changed = raw[:start] + data.draw(st.binary(max_size=40)) + raw[stop:]
    if changed != raw:
        with pytest.raises(ProofError):
            verify_proof(changed, GENESIS)


@given(st.sampled_from([RECORD_PROOF, OPEN_PROOF, SHARE_PROOF, REFUSED_PROOF]), st.data())
def test_no_mutilated_proof_passes_if_it_is_sealed_again(raw: bytes, data: st.DataObject) -> None:
    body = body_of(raw)
    start = data.draw(st.integers(0, len(body) - 1))
    stop = data.draw(st.integers(start, min(len(body), start + 40)))
    changed = body[:start] + data.draw(st.binary(max_size=40)) + body[stop:]
    if changed != body:
        with pytest.raises(ProofError):
            verify_proof(sealed(changed), GENESIS)


def test_every_flipped_byte_of_genesis_is_refused() -> None:
    for position in range(0, len(GENESIS.raw), 17):
        changed = bytearray(GENESIS.raw)
        changed[position] ^= 1
        try:
            other = parse_genesis(bytes(changed))
        except GenesisError:
            continue
        with pytest.raises(ProofError, match="another ledger"):
            verify_proof(RECORD_PROOF, other)


def test_a_genesis_made_up_around_the_right_chain_id_is_refused() -> None:
    """The chain id alone is not what a proof rests on: the keys are."""
    other = World(list(GENESIS.institutions[1:])).genesis
    forged = replace(other, chain_id=GENESIS.chain_id)
    with pytest.raises(ProofError, match="certificate does not hold"):
        verify_proof(RECORD_PROOF, forged)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_every_flipped_byte_of_the_data_is_refused(position: int, mask: int) -> None:
    changed = bytearray(DATA)
    changed[position] ^= mask
    with pytest.raises(ProofError, match="differs in segment 1 of 1"):
        verify_proof(OPEN_PROOF, GENESIS, [bytes(changed)])


def test_data_of_another_size_or_without_opening_is_refused() -> None:
    for data in (b"", DATA[:-1], DATA + b"."):
        with pytest.raises(ProofError, match="not the one that was registered"):
            verify_proof(OPEN_PROOF, GENESIS, [data])
    with pytest.raises(ProofError, match="sidecar is needed"):
        verify_proof(RECORD_PROOF, GENESIS, [DATA])
    other = Fingerprinter(0).finish(bytes(32))
    for proof in (OPEN_PROOF, RECORD_PROOF, SHARE_PROOF, ABSENCE_PROOF, REFUSED_PROOF):
        with pytest.raises(ProofError, match="belongs to another file"):
            verify_proof(proof, GENESIS, None, other)
    # What was refused proves nothing about any data.
    with pytest.raises(ProofError, match="belongs to another file"):
        verify_proof(REFUSED_PROOF, GENESIS, [DATA], OPENING)
    broken = Opening(OPENING.salt, OPENING.size + 2**40, OPENING.segment_bytes, OPENING.segments)
    with pytest.raises(ProofError, match="opening was changed"):
        verify_proof(RECORD_PROOF, GENESIS, [DATA], broken)


# ---- forgeries that are well-formed ------------------------------------------------------------


def forge(raw: bytes, **fields: Any) -> bytes:
    proof = decode_proof(raw)
    return encode_proof(msgspec.structs.replace(proof, **fields))


def record_proof() -> RecordProof:
    proof = decode_proof(RECORD_PROOF)
    assert isinstance(proof, RecordProof)
    return proof


def share_proof() -> TransactionProof:
    proof = decode_proof(SHARE_PROOF)
    assert isinstance(proof, TransactionProof)
    return proof


def decision(height: int) -> Decision:
    found = STORE.decision(height)
    assert found is not None
    return found


def refuse(raw: bytes, reason: str) -> None:
    with pytest.raises(ProofError, match=reason):
        verify_proof(raw, GENESIS)


def test_the_forging_tool_itself_changes_nothing() -> None:
    for raw in PROOFS.values():
        assert forge(raw) == raw


def test_headers_and_certificates_do_not_mix() -> None:
    older, newer = decision(3), decision(4)
    block = older.block
    refuse(forge(RECORD_PROOF, certificate=older.certificate), "for another height")
    refuse(forge(SHARE_PROOF, header=block.header), "for another height")
    certificate = msgspec.structs.replace(newer.certificate, height=3)
    refuse(forge(RECORD_PROOF, header=block.header, certificate=certificate), "for another block")
    certificate = msgspec.structs.replace(certificate, block_hash=block.hash)
    refuse(
        forge(RECORD_PROOF, header=block.header, certificate=certificate),
        "certificate does not hold: the signature of",
    )
    refuse(
        forge(RECORD_PROOF, header=block.header, certificate=older.certificate),
        "Branch 0 of the state proof",
    )


def test_the_genesis_block_proves_nothing() -> None:
    header = STORE.headers[0]
    certificate = msgspec.structs.replace(
        decision(1).certificate, height=0, block_hash=header.hash()
    )
    refuse(forge(ABSENCE_PROOF, header=header, certificate=certificate), "not decided by anyone")
    fresh = World()
    with pytest.raises(ProofError, match="No block has been decided"):
        build_record_proof(fresh.store, bytes(32))


def test_a_certificate_needs_a_quorum_of_every_class() -> None:
    block = decision(4).block
    world = STORY.world
    voters = list(verify_proof(SHARE_PROOF, GENESIS).committee)
    hospitals = [name for name in voters if name.startswith("hospital")]
    for signers in (hospitals, [*hospitals, "authority-0"], voters[:5], []):
        certificate = world.decide(block, 0, signers).certificate
        refuse(forge(SHARE_PROOF, certificate=certificate), "not a quorum in every class")
    enough = world.decide(block, 2, [*hospitals[:3], "authority-0", "authority-2"]).certificate
    verdict = verify_proof(forge(SHARE_PROOF, certificate=enough), GENESIS)
    assert verdict.signers == ("authority-0", "authority-2", *hospitals[:3])
    foreign = world.decide(block, 0, [*voters, "institute-0"]).certificate
    refuse(forge(SHARE_PROOF, certificate=foreign), "certificate does not hold")
    prepared = msgspec.structs.replace(enough, phase=2)
    refuse(forge(SHARE_PROOF, certificate=prepared), "not of phase COMMIT")


def test_a_block_is_not_decided_before_it_was_proposed() -> None:
    world = Story(World()).world
    transaction = world.transaction(key_of("hospital-0"), Revoke(bytes(32)))
    batch = world.batch(transaction)
    block = world.execute(batch, view=2).block
    world.apply(world.check(block, batch), view=0)
    proof = build_transaction_proof(world.store, transaction.id)
    with pytest.raises(ProofError, match="earlier view than the block"):
        verify_proof(proof, world.genesis)
    for view in (2, 3):
        certificate = world.decide(block, view).certificate
        verify_proof(forge(proof, certificate=certificate), world.genesis)


def test_versions_are_named() -> None:
    proof = decode_proof(RECORD_PROOF)
    refuse(sealed(encode(ProofFile(2, proof))), "has version 2; this program reads 1")
    header = msgspec.structs.replace(proof.header, version=2)
    refuse(forge(RECORD_PROOF, header=header), "unknown version 2")
    refuse(b"", "not a proof file")
    refuse(b"PK\x03\x04", "not a proof file")
    refuse(PROOF_MAGIC, "damaged or was changed")
    refuse(sealed(b""), "cannot be read")


def history_without(place: int) -> tuple[EntryBlock, ...]:
    history = record_proof().history
    return history[:place] + history[place + 1 :]


def test_no_entry_can_be_left_out_added_or_moved() -> None:
    proof = record_proof()
    first, second, third = proof.history
    for place in range(3):
        refuse(forge(RECORD_PROOF, history=history_without(place)), "left out or added")
    refuse(forge(RECORD_PROOF, history=()), "shows 0 entries of the record, and the ledger has 4")
    cut = EntryBlock(first.height, first.time_ms, first.entries[:1])
    refuse(forge(RECORD_PROOF, history=(cut, second, third)), "left out or added")
    doubled = EntryBlock(third.height, third.time_ms, third.entries * 2)
    refuse(forge(RECORD_PROOF, history=(first, second, doubled)), "left out or added")
    swapped = EntryBlock(first.height, first.time_ms, first.entries[::-1])
    refuse(forge(RECORD_PROOF, history=(swapped, second, third)), "one was changed")
    moved = EntryBlock(second.height, second.time_ms, third.entries)
    back = EntryBlock(third.height, third.time_ms, second.entries)
    refuse(forge(RECORD_PROOF, history=(first, moved, back)), "one was changed")
    later = EntryBlock(third.height + 1, third.time_ms, third.entries)
    refuse(forge(RECORD_PROOF, history=(first, second, later)), "one was changed")
    redated = EntryBlock(third.height, third.time_ms + 1, third.entries)
    refuse(forge(RECORD_PROOF, history=(first, second, redated)), "one was changed")
    beyond = EntryBlock(proof.header.height + 1, third.time_ms, third.entries)
    for wrong in ((second, first, third), (first, second, beyond), (first, first, third)):
        refuse(forge(RECORD_PROOF, history=wrong), "out of order or above")
    split = EntryBlock(first.height, first.time_ms, first.entries[1:])
    refuse(forge(RECORD_PROOF, history=(cut, split, second, third)), "out of order or above")
    refuse(
        forge(ABSENCE_PROOF, history=(first,)),
        "shows 2 entries of the record, and the ledger has 0",
    )


def test_a_head_is_what_the_state_holds() -> None:
    proof = record_proof()
    head = proof.head
    assert head is not None
    for false in (
        None,
        ChainHead(3, head.accumulated, head.entity),
        ChainHead(4, bytes(32), head.entity),
    ):
        refuse(forge(RECORD_PROOF, head=false), "The state proof shows")
    refuse(forge(ABSENCE_PROOF, head=head), "The state proof shows no value")
    other = decode_proof(build_record_proof(STORE, STORY.plain))
    assert isinstance(other, RecordProof)
    refuse(forge(RECORD_PROOF, record=STORY.plain), "state proof")
    refuse(forge(RECORD_PROOF, state=other.state), "state proof")
    refuse(forge(RECORD_PROOF, head=other.head, state=other.state), "state proof")


def test_a_chain_that_is_no_record_is_refused() -> None:
    chain = institution_chain("hospital-0")
    false = forge(
        RECORD_PROOF,
        record=chain,
        head=chain_head(STORE, chain),
        state=prove_value(STORE, chain_key(chain)),
    )
    refuse(false, "a chain that is not a record's")
    with pytest.raises(ProofError, match="not the id of a record"):
        build_record_proof(STORE, chain)


@pytest.mark.parametrize(
    ("custodian", "entry", "reason"),
    [("hospital-0", b"\x90", "cannot be read"), ("hospital-1", b"", "about another record")],
)
def test_even_a_dishonest_quorum_is_held_to_what_hashes_say(
    custodian: str, entry: bytes, reason: str
) -> None:
    """All voters sign a state in which the record's head is nonsense."""
    proof = record_proof()
    root = tree_root([entry])
    entity = Record(commitment(OPENING), LABELS, custodian, None)
    head = ChainHead(1, accumulate(bytes(32), 1, 2, root, 1), entity)
    store = MemoryStore()
    changes = update(store, {chain_key(STORY.file): encode(head)})
    store.nodes.update(changes.nodes)
    header = msgspec.structs.replace(proof.header, state_root=changes.root)
    false = forge(
        RECORD_PROOF,
        header=header,
        certificate=STORY.world.decide(Block(header, b"")).certificate,
        head=head,
        state=prove_value(store, chain_key(STORY.file)),
        history=(EntryBlock(1, 2, (entry,)),),
    )
    refuse(false, reason)


def test_a_receipt_belongs_to_its_transaction_and_block() -> None:
    proof = share_proof()
    refused = decode_proof(REFUSED_PROOF)
    assert isinstance(refused, TransactionProof)
    refuse(forge(SHARE_PROOF, receipt=refused.receipt), "of another transaction")
    refuse(forge(SHARE_PROOF, transaction=refused.transaction), "of another transaction")
    for code in (ReceiptCode.GRANT_REVOKED, 99):
        false = Receipt(proof.receipt.transaction, int(code), 0)
        refuse(forge(SHARE_PROOF, receipt=false), "not in the block")
    false = Receipt(proof.receipt.transaction, 0, 1)
    refuse(forge(SHARE_PROOF, receipt=false), "not in the block")
    larger = InclusionProof(0, 2, (bytes(32),))
    refuse(forge(SHARE_PROOF, inclusion=larger), "not in the block")
    refuse(forge(SHARE_PROOF, transaction=b"\x90"), "transaction cannot be read")


def test_a_receipt_without_a_verdict_proves_nothing() -> None:
    world = World()
    transaction = world.transaction(key_of("hospital-0"), Revoke(bytes(32)))
    other = world.transaction(key_of("hospital-0"), Revoke(bytes(32)))
    assert world.run(transaction, transaction, other)[1] is ReceiptCode.REPLAYED
    proof = build_transaction_proof(world.store, transaction.id)
    verify_proof(proof, world.genesis)
    receipts = world.store.receipts(1)
    assert receipts is not None
    false = forge(proof, receipt=receipts[1], inclusion=prove([encode(r) for r in receipts], 1))
    with pytest.raises(ProofError, match=r"did not run in this block \(REPLAYED\)"):
        verify_proof(false, world.genesis)


def test_entries_are_those_of_the_transaction() -> None:
    entries = share_proof().entries
    one, two = entries
    change = msgspec.structs.replace
    refuse(forge(SHARE_PROOF, entries=(two, one)), "not in order")
    refuse(forge(SHARE_PROOF, entries=(one, one)), "not in order")
    refuse(forge(SHARE_PROOF, entries=(change(one, operation=1),)), "no operation 1")
    for false in (
        change(one, chain=STORY.plain),
        change(one, entry_root=bytes(32)),
        change(one, entry=two.directory),
        change(one, directory=two.directory),
    ):
        refuse(forge(SHARE_PROOF, entries=(false,)), "is not in the chain")
    refuse(forge(REFUSED_PROOF, entries=entries), "failed has no entries")
    verify_proof(forge(SHARE_PROOF, entries=()), GENESIS)


# ---- building ----------------------------------------------------------------------------------


def test_only_what_ran_can_be_proved() -> None:
    with pytest.raises(ProofError, match="has run on this ledger"):
        build_transaction_proof(STORE, bytes(32))
    with pytest.raises(ProofError, match="no entry in the chain"):
        build_transaction_proof(STORE, STORY.file_shared, [STORY.plain])
    with pytest.raises(ProofError, match="no entry in the chain"):
        build_transaction_proof(STORE, STORY.refused, [STORY.file])


def test_an_opening_must_be_that_of_the_record() -> None:
    other = Fingerprinter(0).finish(bytes(32))
    with pytest.raises(ProofError, match="not that of this record"):
        build_record_proof(STORE, STORY.file, other)
    with pytest.raises(ProofError, match="There is no record"):
        build_record_proof(STORE, bytes(32), OPENING)
    broken = Opening(OPENING.salt, OPENING.size, 1, OPENING.segments)
    with pytest.raises(ProofError, match="opening was changed"):
        build_record_proof(STORE, STORY.file, broken)


def test_long_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.proof_building, "_HEIGHTS_MAX", 2)
    assert build_record_proof(STORE, STORY.file) == RECORD_PROOF
    monkeypatch.setattr(ledger.proof_building, "PROOF_ENTRIES_MAX", 3)
    with pytest.raises(ProofError, match="has 4 entries, and one file shows 3"):
        build_record_proof(STORE, STORY.file)


def test_a_file_that_no_reader_would_take_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    body_bytes = len(RECORD_PROOF) - len(PROOF_MAGIC) - DIGEST_BYTES
    monkeypatch.setattr(ledger.proof_files, "PROOF_BYTES_MAX", body_bytes)
    assert decode_proof(build_record_proof(STORE, STORY.file)) == decode_proof(RECORD_PROOF)
    monkeypatch.setattr(ledger.proof_files, "PROOF_BYTES_MAX", body_bytes - 1)
    with pytest.raises(ProofError, match="prove its transactions one by one"):
        build_record_proof(STORE, STORY.file)


def test_every_record_and_transaction_of_a_ledger_has_a_proof() -> None:
    for id in STORE.positions:
        assert verify_proof(build_transaction_proof(STORE, id), GENESIS).transaction_id == id
    for record in (STORY.record, STORY.plain, STORY.file):
        assert verify_proof(build_record_proof(STORE, record), GENESIS).record_id == record


def test_a_proof_file_is_what_it_was_made_from() -> None:
    proofs: list[Proof] = [decode_proof(raw) for raw in PROOFS.values()]
    assert [encode_proof(proof) for proof in proofs] == list(PROOFS.values())
