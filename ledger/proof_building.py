"""Making proof files from a stored ledger; what they prove, and how, is in ledger/proofs.py."""

from collections.abc import Sequence

from ledger.entries import Entry, directory_leaves, entries_of, entry_roots
from ledger.execution import StoredBlock, stored_block
from ledger.fingerprint import FingerprintError, Opening, commitment
from ledger.proof_files import (
    COMMITTEE_CHANGES_MAX,
    PROOF_ENTRIES_MAX,
    CommitteeChange,
    EntryBlock,
    EntryProof,
    RecordProof,
    TransactionProof,
    encode_proof,
)
from ledger.standing import committee_record, standing_of
from ledger.state import Record, StateError, chain_head, chain_key, members
from ledger.store import LedgerReader
from ledger.transactions import CheckedTransaction, read_transaction
from ledger.trie import ProofError, prove_value
from primitives.codec import encode
from primitives.merkle import prove

_HEIGHTS_MAX = 1_000
"""Heights of a chain asked from the store at once."""


def build_transaction_proof(
    reader: LedgerReader, transaction: bytes, chains: Sequence[bytes] = ()
) -> bytes:
    """Return the proof file of the transaction with this id, and of its entries in `chains`.

    Raises ProofError if it has not run on this ledger, or has no entry in one of the chains.
    """
    position = reader.transaction_position(transaction)
    if position is None:
        raise ProofError(f"No transaction {transaction.hex()} has run on this ledger.")
    height, index = position
    block = stored_block(reader, height)
    transactions = _transactions(block)
    leaves = [encode(receipt) for receipt in block.receipts]
    proofs: list[EntryProof] = []
    if chains:
        entries = _entries(reader, block, transactions)
        proofs = _entry_proofs(transactions[index], entries, chains)
    return encode_proof(
        TransactionProof(
            header=block.decision.block.header,
            certificate=block.decision.certificate,
            committee_changes=committee_changes(reader, height),
            transaction=transactions[index].raw,
            receipt=block.receipts[index],
            inclusion=prove(leaves, index),
            entries=tuple(proofs),
        )
    )


def build_record_proof(
    reader: LedgerReader, record: bytes, opening: Opening | None = None
) -> bytes:
    """Return the proof file of all entries of a record up to the head, or of its absence.

    Costs the decoding of every block that touches the record. Raises ProofError if no block is
    decided yet, the id is not a record's, its history is too long, or `opening` is another's.
    """
    height = reader.head_height()
    if not height:
        raise ProofError("No block has been decided yet, so nothing can be proved: try later.")
    decision = stored_block(reader, height).decision
    head = chain_head(reader, record)
    if head is not None:
        if not isinstance(head.entity, Record):
            raise ProofError(f"{record.hex()} is not the id of a record but of another chain.")
        if head.count > PROOF_ENTRIES_MAX:
            raise ProofError(
                f"The record has {head.count} entries, and one file shows {PROOF_ENTRIES_MAX}: "
                "prove its transactions one by one."
            )
        if opening is not None:
            _check_opening(opening, head.entity)
    elif opening is not None:
        raise ProofError(f"There is no record {record.hex()} that the file could belong to.")
    return encode_proof(
        RecordProof(
            header=decision.block.header,
            certificate=decision.certificate,
            committee_changes=committee_changes(reader, height),
            record=record,
            head=head,
            state=prove_value(reader, chain_key(record)),
            history=_history(reader, record),
            opening=opening,
        )
    )


def committee_changes(reader: LedgerReader, height: int) -> tuple[CommitteeChange, ...]:
    """Return all changes from the founders' committee to that of `height`, ascending.

    Raises ProofError if there are more than a file may show.
    """
    changes: list[CommitteeChange] = []
    since = standing_of(reader).committee_since
    while since > 1:
        record, decision = committee_record(reader, since), reader.decision(since - 1)
        if record is None or decision is None or record.previous >= since:
            raise StateError(f"The store has lost the committee that began at block {since}.")
        if since <= height:
            changes.append(
                CommitteeChange(decision.block.header, decision.certificate, record.voters)
            )
        since = record.previous
    if len(changes) > COMMITTEE_CHANGES_MAX:
        raise ProofError(
            f"The committee has changed {len(changes)} times up to block {height}, and one file "
            f"follows {COMMITTEE_CHANGES_MAX} changes."
        )
    return tuple(reversed(changes))


def _history(reader: LedgerReader, chain: bytes) -> tuple[EntryBlock, ...]:
    history: list[EntryBlock] = []
    above = 0
    while heights := reader.chain_heights(chain, above, _HEIGHTS_MAX):
        for height in heights:
            block = stored_block(reader, height)
            entries = _entries(reader, block, _transactions(block))[chain]
            time_ms = block.decision.block.header.time_ms
            history.append(EntryBlock(height, time_ms, tuple(entries)))
        above = heights[-1]
    return tuple(history)


def _transactions(block: StoredBlock) -> list[CheckedTransaction]:
    chain_id = block.decision.block.header.chain_id
    return [
        read_transaction(raw, chain_id) for batch in block.batches for raw in batch.transactions
    ]


def _entries(
    reader: LedgerReader, block: StoredBlock, transactions: Sequence[CheckedTransaction]
) -> dict[bytes, list[bytes]]:
    member_ids = {member.key: member.id for member in members(reader)}
    return entries_of(transactions, block.receipts, reader, member_ids)


def _entry_proofs(
    transaction: CheckedTransaction,
    entries: dict[bytes, list[bytes]],
    chains: Sequence[bytes],
) -> list[EntryProof]:
    roots = entry_roots(entries)
    directory = directory_leaves(roots, entries)
    places = {chain: place for place, chain in enumerate(roots)}
    proofs = []
    for number, operation in enumerate(transaction.body.operations):
        entry = encode(Entry(transaction.id, number, transaction.body.author, operation))
        proofs += [
            EntryProof(
                operation=number,
                chain=chain,
                entry_root=roots[chain],
                entry=prove(entries[chain], entries[chain].index(entry)),
                directory=prove(directory, places[chain]),
            )
            for chain in roots
            if chain in chains and entry in entries[chain]
        ]
    shown = [proof.chain for proof in proofs]
    for chain in chains:
        if chain not in shown:
            raise ProofError(
                f"The transaction {transaction.id.hex()} has no entry in the chain {chain.hex()}."
            )
    return proofs


def _check_opening(opening: Opening, record: Record) -> None:
    try:
        found = commitment(opening)
    except FingerprintError as error:
        raise ProofError(str(error)) from error
    if found != record.commitment:
        raise ProofError("The opening is not that of this record's commitment.")
