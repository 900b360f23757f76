"""The published vectors: tests/ledger/vectors.json, docs/protocol.md and the code agree.

The files in tests/ledger/golden were made once; every later version must still read them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.evidence import check_evidence, evidence_id
from ledger.changes import Join, RotateKey, possession_digest
from ledger.entries import Entry, accumulate, directory_leaf
from ledger.execution import payload_batches
from ledger.fingerprint import Fingerprinter, Opening, commitment, decode_sidecar
from ledger.genesis import parse_genesis
from ledger.operations import (
    ApproveChange,
    Operation,
    ProposeChange,
    RecordShare,
    ReportMisbehaviour,
)
from ledger.proofs import verify_proof
from ledger.receipts import Receipt
from ledger.standing import (
    PROPOSALS_KEY,
    STANDING_KEY,
    CommitteeRecord,
    EvidenceRecord,
    KeyOwner,
    Proposal,
    Proposals,
    Standing,
    committee_key,
    evidence_key,
    owner_key,
    proposal_id,
    proposal_key,
)
from ledger.state import (
    ChainHead,
    GrantState,
    grant_id,
    institution_chain,
    person_id,
    record_id,
)
from ledger.transactions import (
    Limits,
    TransactionBody,
    check_batch,
    check_transaction,
    seal_batch,
    sign_transaction,
)
from ledger.trie import MapProof, check_value, prove_value, update
from primitives.codec import decode, encode
from primitives.keys import PrivateKey
from primitives.merkle import tree_root
from tests.ledger.world import MemoryStore

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
DATA = b"an image " * 1_000


def read(text: str, kind: Any) -> Any:
    return decode(bytes.fromhex(text), kind, bytes_max=10_000)


@pytest.mark.parametrize("vector", VECTORS["operations"])
def test_operations(vector: dict[str, str]) -> None:
    assert type(read(vector["encoding"], Operation)).__name__ == vector["name"]


def test_transaction() -> None:
    vector = {name: bytes.fromhex(text) for name, text in VECTORS["transaction"].items()}
    checked = check_transaction(vector["raw"], vector["chain_id"], Limits())
    assert checked.id == vector["id"]
    assert checked.body.author == vector["author"]
    assert encode(checked.body) == vector["body"]
    kind: Any = Operation
    operations = [
        decode(bytes.fromhex(o["encoding"]), kind, bytes_max=999) for o in VECTORS["operations"]
    ]
    assert list(checked.body.operations) == operations
    key = PrivateKey(vector["seed"])
    body = decode(vector["body"], TransactionBody, bytes_max=10_000)
    assert sign_transaction(vector["chain_id"], key, body) == vector["raw"]
    assert vector["raw"].endswith(vector["signature"])


def test_batch() -> None:
    vector = VECTORS["batch"]
    chain_id, raw = bytes.fromhex(vector["chain_id"]), bytes.fromhex(vector["raw"])
    key = PrivateKey(bytes.fromhex(vector["seed"]))
    batch = check_batch(raw, chain_id, Limits(), {vector["author"]: key.public})
    assert (batch.author, batch.sequence, batch.valid_until_height) == ("hospital-0", 7, 1000)
    assert batch.id.hex() == vector["id"]
    assert [t.raw.hex() for t in batch.transactions] == [vector["transaction"]]
    assert seal_batch(chain_id, key, "hospital-0", 7, 1000, batch.transactions) == batch
    assert payload_batches(encode((batch.id,))) == (batch.id,)


def test_ids() -> None:
    person, record, institution, grant = VECTORS["ids"]
    assert person_id(bytes.fromhex(person["of"][0])).hex() == person["id"]
    custodian, committed = record["of"]
    assert record_id(custodian, bytes.fromhex(committed)).hex() == record["id"]
    assert institution_chain(institution["of"][0]).hex() == institution["id"]
    transaction, number = grant["of"]
    assert grant_id(bytes.fromhex(transaction), int(number)).hex() == grant["id"]


def test_receipt_and_entry() -> None:
    vector = VECTORS["receipt"]
    receipt = read(vector["encoding"], Receipt)
    assert receipt.transaction.hex() == vector["transaction"] == VECTORS["transaction"]["id"]
    assert (receipt.code, receipt.operation) == (vector["code"], vector["operation"])
    vector = VECTORS["entry"]
    entry = bytes.fromhex(vector["encoding"])
    assert decode(entry, Entry, bytes_max=999).transaction == receipt.transaction
    root = tree_root([entry])
    assert root.hex() == vector["root"]
    assert directory_leaf(bytes.fromhex(vector["chain"]), root, 1).hex() == vector["directory_leaf"]
    before = bytes.fromhex(vector["before"])
    after = accumulate(before, vector["height"], vector["time_ms"], root, 1)
    assert after.hex() == vector["accumulated"]


def test_state_values() -> None:
    *heads, grant = VECTORS["state_values"]
    names = ["Person", "Record", "Member"]
    assert [type(read(v["value"], ChainHead).entity).__name__ for v in heads] == names
    assert read(grant["value"], GrantState).purpose == "HRESCH"


@pytest.mark.parametrize("vector", VECTORS["governing_operations"])
def test_governing_operations(vector: dict[str, str]) -> None:
    operation = read(vector["encoding"], Operation)
    assert type(operation).__name__ == vector["name"]
    if isinstance(operation, ProposeChange):
        assert type(operation.change).__name__ == vector["change"]


def test_evidence_possession_and_proposals() -> None:
    vector = VECTORS["governing"]
    chain_id = bytes.fromhex(vector["chain_id"])
    key, new_key = (PrivateKey(bytes.fromhex(vector[name])) for name in ("seed", "new_seed"))
    operations = [read(v["encoding"], Operation) for v in VECTORS["governing_operations"]]
    reports = [o.evidence for o in operations if isinstance(o, ReportMisbehaviour)]
    assert [evidence_id(evidence).hex() for evidence in reports] == vector["evidence"]
    for evidence in reports:
        assert evidence.signer == vector["signer"]
        check_evidence(evidence, chain_id, key.public)
    changes = [o.change for o in operations if isinstance(o, ProposeChange)]
    join = changes[0]
    assert isinstance(join, Join)
    (rotation,) = [change for change in changes if isinstance(change, RotateKey)]
    renewed = msgspec.structs.replace(join.institution, id=rotation.id)
    possessions = [join.possession, rotation.possession]
    for institution, possession, expected in zip(
        (join.institution, renewed), possessions, vector["possession"], strict=True
    ):
        signed = possession_digest(chain_id, institution)
        assert (institution.id, signed.hex()) == (expected["institution"], expected["digest"])
        assert institution.key == new_key.public
        assert possession == new_key.sign(signed)
    proposal = proposal_id(bytes.fromhex(vector["transaction"]), 0)
    assert proposal.hex() == vector["proposal"]
    assert operations[-1] == ApproveChange(proposal)


def test_governing_values() -> None:
    vectors = VECTORS["governing_values"]
    kinds: list[Any] = [Standing, CommitteeRecord, KeyOwner, EvidenceRecord, Proposals, Proposal]
    values = [read(v["value"], kind) for v, kind in zip(vectors, kinds, strict=True)]
    assert [kind.__name__ for kind in kinds] == [vector["name"] for vector in vectors]
    governing = VECTORS["governing"]
    keys = [
        STANDING_KEY,
        committee_key(values[0].committee_since),
        owner_key(PrivateKey(bytes.fromhex(governing["new_seed"])).public),
        evidence_key(evidence_id(values[3].evidence)),
        PROPOSALS_KEY,
        proposal_key(bytes.fromhex(governing["proposal"])),
    ]
    assert [key.hex() for key in keys] == [vector["key"] for vector in vectors]


@pytest.mark.parametrize(("name", "changes"), [("followed", 5), ("evidence", 3)])
def test_files_that_pass_through_changes_are_still_read(name: str, changes: int) -> None:
    genesis = parse_genesis((GOLDEN / "changing-genesis.toml").read_bytes())
    verdict = verify_proof((GOLDEN / f"{name}.proof").read_bytes(), genesis)
    assert verdict.committee_changes == changes
    assert len(verdict.evidence) == (name == "evidence")


def numbered_map(keys: int) -> tuple[MemoryStore, bytes]:
    store = MemoryStore()
    changes = update(store, {bytes([n]): bytes([n, n]) for n in range(keys)})
    store.nodes.update(changes.nodes)
    return store, changes.root


@pytest.mark.parametrize("vector", VECTORS["maps"])
def test_maps(vector: dict[str, Any]) -> None:
    assert numbered_map(vector["keys"])[1].hex() == vector["root"]


@pytest.mark.parametrize("vector", VECTORS["map_proofs"])
def test_map_proofs(vector: dict[str, Any]) -> None:
    store, root = numbered_map(vector["keys"])
    key = bytes.fromhex(vector["key"])
    value = None if vector["value"] is None else bytes.fromhex(vector["value"])
    proof = read(vector["encoding"], MapProof)
    assert proof == prove_value(store, key)
    check_value(proof, key, value, root)


@pytest.mark.parametrize("vector", VECTORS["commitments"])
def test_commitments(vector: dict[str, Any]) -> None:
    size = vector["size"]
    fingerprinter = Fingerprinter(size)
    fingerprinter.update(b"abc" if size == 3 else bytes(size))
    opening = fingerprinter.finish(bytes.fromhex(vector["salt"]))
    assert [segment.hex() for segment in opening.segments] == vector["segments"]
    assert commitment(opening).hex() == vector["commitment"]
    assert read(encode(opening).hex(), Opening) == opening


@pytest.mark.parametrize("name", ["record", "share", "absence"])
def test_files_of_the_first_version_are_still_read(name: str) -> None:
    genesis = parse_genesis((GOLDEN / "genesis.toml").read_bytes())
    sidecar = decode_sidecar((GOLDEN / "file.sidecar").read_bytes())
    proof = (GOLDEN / f"{name}.proof").read_bytes()
    if name == "absence":
        assert verify_proof(proof, genesis).record is None
        return
    verdict = verify_proof(proof, genesis, [DATA], sidecar.opening)
    assert verdict.data_checked
    assert verdict.record_id == (sidecar.record if name == "record" else None)
    (share,) = verdict.shares
    assert isinstance(share.operation, RecordShare)
    assert share.operation.record == sidecar.record


def hex_strings(value: Any) -> Iterator[str]:
    match value:
        case str() if re.fullmatch("([0-9a-f]{2})+", value):
            yield value
        case dict():
            for item in value.values():
                yield from hex_strings(item)
        case list():
            for item in value:
                yield from hex_strings(item)


def test_the_page_shows_every_vector() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text()
    without_breaks = "".join(page.split())
    found = list(hex_strings(VECTORS))
    assert len(found) > 50
    for text in found:
        # A long one may be broken over lines; a short one would be found by chance.
        assert f"`{text}`" in page or (len(text) >= 64 and text in without_breaks), text
