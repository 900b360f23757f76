"""Proof files: one transaction or the whole history of one record, checked without any node.

A proof file and the genesis file are all a verifier needs. The header is believed because a quorum
of every voting class of its committee signed it, and the committee because it was followed from
genesis (ledger/light_client.py); the rest because its hashes lead to the roots in the header:

* a transaction: its author's signature, its id in a receipt, the receipt under the receipts root;
  where asked for, its entries under the entry roots of their chains, and these under the directory;
* a record: the head of its chain under the state root, and ALL entries of the chain, which must
  number and accumulate to exactly what the head says. So the file shows not only what was shared
  but that nothing else was, up to the height of the header. A record that was never registered has
  such a proof as well: of the absence of its chain.

Nothing in a file is taken on its own word, and there is no field whose change goes unnoticed. What
a file does not say: whatever happened above its height, and in other chains (a grant for all
records of a person is an entry in the person's chain, not in the record's). The format is in
docs/protocol.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from consensus.evidence import Evidence, EvidenceError, check_evidence
from ledger.entries import Entry, accumulate, directory_leaf
from ledger.fingerprint import FingerprintError, Opening, check_data, commitment
from ledger.genesis import Genesis
from ledger.light_client import Following, follow_committee
from ledger.operations import Operation, RecordShare, RegisterRecord, ReportMisbehaviour
from ledger.proof_building import build_record_proof, build_transaction_proof
from ledger.proof_files import (
    Proof,
    ProvedOperation,
    RecordProof,
    TransactionProof,
    Verdict,
    decode_proof,
)
from ledger.receipts import DID_NOT_RUN, ReceiptCode
from ledger.state import Record, chain_key, record_id
from ledger.transactions import CheckedTransaction, TransactionError, check_transaction
from ledger.trie import ProofError, check_value
from primitives.codec import CodecError, decode, encode
from primitives.hashing import ZERO_DIGEST
from primitives.merkle import MerkleError, check, tree_root, verify_inclusion

__all__ = [
    "ProofError",
    "ProvedOperation",
    "Verdict",
    "build_record_proof",
    "build_transaction_proof",
    "verify_proof",
]


def verify_proof(
    data: bytes,
    genesis: Genesis,
    file_chunks: Iterable[bytes] | None = None,
    opening: Opening | None = None,
) -> Verdict:
    """Return what the proof file `data` proves about the ledger of `genesis`.

    `file_chunks` is a file that should be the one committed to; its opening is in the proof or
    given here. Raises ProofError with the exact reason if anything at all is wrong.
    """
    proof = decode_proof(data)
    if proof.header.chain_id != genesis.chain_id:
        raise ProofError(
            "The proof is of another ledger than this genesis file, or the genesis file was "
            "changed."
        )
    following = follow_committee(proof.committee_changes, proof.header.height, genesis)
    following.check_decided(proof.header, proof.certificate)
    if isinstance(proof, TransactionProof):
        verdict = _verify_transaction(proof, genesis, following)
        openings = [opening]
    else:
        verdict = _verify_record(proof, genesis, following)
        openings = [opening, proof.opening]
    return _check_openings(verdict, [each for each in openings if each is not None], file_chunks)


def _verify_transaction(proof: TransactionProof, genesis: Genesis, following: Following) -> Verdict:
    try:
        transaction = check_transaction(proof.transaction, genesis.chain_id, genesis.limits)
    except TransactionError as error:
        raise ProofError(f"The transaction does not hold. {error}") from error
    receipt = proof.receipt
    if receipt.transaction != transaction.id:
        raise ProofError("The receipt is of another transaction.")
    try:
        code = ReceiptCode(receipt.code)
        check(encode(receipt), proof.inclusion, proof.header.receipts_root)
    except (ValueError, MerkleError) as error:
        raise ProofError(f"The receipt is not in the block. {error}") from error
    if code in DID_NOT_RUN:
        raise ProofError(
            f"The transaction did not run in this block ({code.name}); a proof must show the block "
            "in which it ran."
        )
    ok = code is ReceiptCode.OK
    _check_entries(proof, transaction, ok)
    operations = transaction.body.operations if ok else ()
    return replace(
        _verdict("transaction", proof, genesis, following),
        transaction_id=transaction.id,
        code=code,
        failed_operation=None if ok else receipt.operation,
        chains=tuple(dict.fromkeys(entry.chain for entry in proof.entries)),
        operations=tuple(
            ProvedOperation(
                height=proof.header.height,
                time_ms=proof.header.time_ms,
                transaction_id=transaction.id,
                index=index,
                author=transaction.body.author,
                operation=operation,
            )
            for index, operation in enumerate(operations)
        ),
        evidence=_checked_evidence(operations, following),
    )


def _checked_evidence(
    operations: Sequence[Operation], following: Following
) -> tuple[Evidence, ...]:
    """Return the evidence that was reported; whoever it names must have signed both statements."""
    found = []
    for operation in operations:
        if isinstance(operation, ReportMisbehaviour):
            evidence = operation.evidence
            voter = following.committee.by_id.get(evidence.signer)
            if voter is None:
                raise ProofError(f"The evidence is against {evidence.signer}, who had no vote.")
            try:
                check_evidence(evidence, following.chain_id, voter.key)
            except EvidenceError as error:
                raise ProofError(f"The evidence does not hold: {error}.") from error
            found.append(evidence)
    return tuple(found)


def _check_entries(proof: TransactionProof, transaction: CheckedTransaction, ok: bool) -> None:
    """Raise ProofError unless every entry is one of this transaction, in the chain it names."""
    if proof.entries and not ok:
        raise ProofError("A transaction that failed has no entries in any chain.")
    order = [(entry.operation, entry.chain) for entry in proof.entries]
    if any(first >= second for first, second in pairwise(order)):
        raise ProofError("The entries of the proof are not in order, each once.")
    body = transaction.body
    for shown in proof.entries:
        if shown.operation >= len(body.operations):
            raise ProofError(f"The transaction has no operation {shown.operation}.")
        operation = body.operations[shown.operation]
        entry = encode(Entry(transaction.id, shown.operation, body.author, operation))
        leaf = directory_leaf(shown.chain, shown.entry_root, shown.entry.size)
        try:
            verify_inclusion(
                entry, shown.entry.index, shown.entry.size, shown.entry.path, shown.entry_root
            )
            check(leaf, shown.directory, proof.header.directory_root)
        except MerkleError as error:
            raise ProofError(
                f"Operation {shown.operation} is not in the chain {shown.chain.hex()}. {error}"
            ) from error


def _verify_record(proof: RecordProof, genesis: Genesis, following: Following) -> Verdict:
    header, head = proof.header, proof.head
    value = None if head is None else encode(head)
    check_value(proof.state, chain_key(proof.record), value, header.state_root)
    record = None if head is None else head.entity
    if record is not None:
        if not isinstance(record, Record):
            raise ProofError("The proof is about a chain that is not a record's.")
        if record_id(record.custodian, record.commitment) != proof.record:
            raise ProofError("The proof is about another record than it says.")
    count, accumulated = _accumulate(proof)
    if count != (head.count if head else 0):
        raise ProofError(
            f"The proof shows {count} entries of the record, and the ledger has "
            f"{head.count if head else 0}: entries were left out or added."
        )
    if accumulated != (head.accumulated if head else ZERO_DIGEST):
        raise ProofError("The entries shown are not those of the ledger: one was changed.")
    return replace(
        _verdict("record", proof, genesis, following),
        record_id=proof.record,
        record=record,
        operations=tuple(_operations(proof)),
    )


def _accumulate(proof: RecordProof) -> tuple[int, bytes]:
    """Return how many entries the history shows, and their accumulated hash."""
    count = above = 0
    accumulated = ZERO_DIGEST
    for block in proof.history:
        if not above < block.height <= proof.header.height:
            raise ProofError(
                f"The entries at height {block.height} are out of order or above the block header."
            )
        above = block.height
        count += len(block.entries)
        root = tree_root(block.entries)
        accumulated = accumulate(accumulated, block.height, block.time_ms, root, len(block.entries))
    return count, accumulated


def _operations(proof: RecordProof) -> Iterator[ProvedOperation]:
    for block in proof.history:
        for raw in block.entries:
            try:
                entry = decode(raw, Entry, bytes_max=len(raw))
            except CodecError as error:
                raise ProofError(f"An entry of the record cannot be read. {error}") from error
            yield ProvedOperation(
                height=block.height,
                time_ms=block.time_ms,
                transaction_id=entry.transaction,
                index=entry.operation_index,
                author=entry.author,
                operation=entry.operation,
            )


def _verdict(
    kind: Literal["transaction", "record"], proof: Proof, genesis: Genesis, following: Following
) -> Verdict:
    header, committee = proof.header, following.committee
    return Verdict(
        kind=kind,
        ledger=genesis.name,
        chain_id=genesis.chain_id,
        height=header.height,
        time_ms=header.time_ms,
        block_hash=proof.certificate.block_hash,
        committee_hash=committee.hash,
        committee=tuple(voter.id for voter in committee.voters),
        committee_since=following.since,
        committee_changes=len(proof.committee_changes),
        signers=tuple(entry.signer for entry in proof.certificate.signatures),
        member_ids=following.member_ids,
    )


def _check_openings(
    verdict: Verdict, openings: Sequence[Opening], file_chunks: Iterable[bytes] | None
) -> Verdict:
    """Compare openings and data with what the verdict says was committed to."""
    if verdict.record is not None:
        commitments = [verdict.record.commitment]
    else:
        commitments = [
            proved.operation.commitment
            for proved in verdict.operations
            if isinstance(proved.operation, RegisterRecord | RecordShare)
        ]
    try:
        if any(commitment(opening) not in commitments for opening in openings):
            raise ProofError("The sidecar or opening belongs to another file than the proof.")
        if file_chunks is None:
            return replace(verdict, opening_checked=bool(openings))
        if not openings:
            raise ProofError("To compare a file with this proof its sidecar is needed as well.")
        check_data(openings[0], file_chunks)
    except FingerprintError as error:
        raise ProofError(f"The file is not the one that was registered. {error}") from error
    return replace(verdict, opening_checked=True, data_checked=True)
