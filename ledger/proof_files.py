"""What stands in a proof file (docs/protocol.md), and what a verified one proves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgspec

from consensus.committee import VOTERS_MAX, Voter
from consensus.evidence import Evidence
from consensus.messages import Certificate
from ledger.fingerprint import Opening
from ledger.operations import Grant, Operation, RecordShare, Revoke
from ledger.receipts import Receipt, ReceiptCode
from ledger.state import ChainHead, Record
from ledger.trie import MapProof, ProofError
from primitives.block import BlockHeader
from primitives.codec import (
    Canonical,
    CodecError,
    Digest,
    Height,
    Milliseconds,
    UInt,
    decode,
    encode,
)
from primitives.hashing import DIGEST_BYTES, digest
from primitives.merkle import InclusionProof

PROOF_MAGIC: Final = b"\x89medpact proof\n"
PROOF_VERSION: Final = 1
PROOF_BYTES_MAX: Final = 64 * 1024 * 1024
PROOF_ENTRIES_MAX: Final = 100_000
"""Entries of one chain that a file may show."""
COMMITTEE_CHANGES_MAX: Final = 10_000
"""Changes of the committee that a file may follow: with seven voters 1.4 KB and 0.6 ms each."""


class CommitteeChange(Canonical, frozen=True):
    """The last block of one committee, which names the next one, and the voters of that."""

    header: BlockHeader
    certificate: Certificate
    """By the committee that decided the header."""
    voters: Annotated[tuple[Voter, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    """Of the height above the header's; their hash is its next_committee_hash."""


CommitteeChanges = Annotated[
    tuple[CommitteeChange, ...], msgspec.Meta(max_length=COMMITTEE_CHANGES_MAX)
]


class EntryProof(Canonical, frozen=True):
    """The place of one operation in the entry block of a chain, and of that in the directory."""

    operation: UInt
    chain: Digest
    entry_root: Digest
    entry: InclusionProof
    directory: InclusionProof


class TransactionProof(Canonical, frozen=True, tag=1):
    """A transaction, and what became of it."""

    header: BlockHeader
    certificate: Certificate
    committee_changes: CommitteeChanges
    """All from genesis up to the committee that decided the header, ascending by height."""
    transaction: bytes
    receipt: Receipt
    inclusion: InclusionProof
    """The receipt's place under the receipts root."""
    entries: tuple[EntryProof, ...]
    """Sorted by operation and chain id, each once."""


class EntryBlock(Canonical, frozen=True):
    """All entries of one chain in one block."""

    height: Height
    time_ms: Milliseconds
    entries: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1)]


class RecordProof(Canonical, frozen=True, tag=2):
    """A record with all entries of its chain, or the absence of a record."""

    header: BlockHeader
    certificate: Certificate
    committee_changes: CommitteeChanges
    """As in TransactionProof."""
    record: Digest
    head: ChainHead | None
    """None: there is no record of this id."""
    state: MapProof
    history: tuple[EntryBlock, ...]
    """Ascending by height."""
    opening: Opening | None
    """What lets the reader recognise the file itself, if the holder wants that."""


Proof = TransactionProof | RecordProof


class ProofFile(Canonical, frozen=True):
    """What follows PROOF_MAGIC and the digest of these bytes in a proof file."""

    version: UInt
    proof: Proof


@dataclass(frozen=True, slots=True)
class ProvedOperation:
    """An operation that took effect, as an entry of the ledger shows it."""

    height: int
    time_ms: int
    transaction_id: bytes
    index: int
    """Its number in the transaction, from 0."""
    author: bytes
    """The public key that signed the transaction."""
    operation: Operation


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proof file proves, once `verify_proof` returns it."""

    kind: Literal["transaction", "record"]
    ledger: str
    """The name in the genesis file."""
    chain_id: bytes
    height: int
    """Of the header on which all rests; a record's history is complete up to it."""
    time_ms: int
    """Block time of that header."""
    block_hash: bytes
    committee_hash: bytes
    committee: tuple[str, ...]
    """The voters of that height."""
    committee_since: int
    """The first height that they decided."""
    committee_changes: int
    """How many changes lie between the founders' committee and this one."""
    signers: tuple[str, ...]
    """Those of them whose commit signatures were checked."""
    transaction_id: bytes | None = None
    code: ReceiptCode | None = None
    failed_operation: int | None = None
    """The number of the operation that failed, if the code is not OK."""
    chains: tuple[bytes, ...] = ()
    """Chains in which the transaction's entries were shown."""
    record_id: bytes | None = None
    record: Record | None = None
    """None in a record's proof: there is no such record."""
    operations: tuple[ProvedOperation, ...] = ()
    """A record's entries in order; of a transaction, its operations if it succeeded."""
    evidence: tuple[Evidence, ...] = ()
    """Of a transaction that reported misbehaviour: what was shown, its signatures checked."""
    member_ids: Mapping[bytes, str] = field(default_factory=dict)
    """Institution ids by every key that genesis or a committee on the way lists."""
    opening_checked: bool = False
    """An opening of the record's commitment was given and fits."""
    data_checked: bool = False
    """Data was given and is the data committed to."""

    @property
    def shares(self) -> tuple[ProvedOperation, ...]:
        """The sharings among the operations."""
        return tuple(p for p in self.operations if isinstance(p.operation, RecordShare))

    @property
    def grants(self) -> tuple[ProvedOperation, ...]:
        """The grants among the operations; `grant_id(transaction_id, index)` is a grant's id."""
        return tuple(p for p in self.operations if isinstance(p.operation, Grant))

    @property
    def revocations(self) -> tuple[ProvedOperation, ...]:
        """The revocations among the operations."""
        return tuple(p for p in self.operations if isinstance(p.operation, Revoke))


def encode_proof(proof: Proof) -> bytes:
    """Return the bytes of a proof file. Raises ProofError if no reader would take so many."""
    body = encode(ProofFile(PROOF_VERSION, proof))
    if len(body) > PROOF_BYTES_MAX:
        raise ProofError(
            f"The proof would have {len(body)} bytes, and a file may have {PROOF_BYTES_MAX}: if it "
            "is of a record, prove its transactions one by one."
        )
    return PROOF_MAGIC + digest("proof-file", body) + body


def decode_proof(data: bytes) -> Proof:
    """Return what the bytes of a proof file say, none of it proved yet. Raises ProofError.

    The digest inside protects against damage alone: it tells a damaged file from a false one, and
    that a proof of absence was not damaged into one of another record's.
    """
    if not data.startswith(PROOF_MAGIC):
        raise ProofError("This is not a proof file: it does not begin like one.")
    start = len(PROOF_MAGIC) + DIGEST_BYTES
    body = data[start:]
    if data[len(PROOF_MAGIC) : start] != digest("proof-file", body):
        raise ProofError("The proof file is damaged or was changed: its bytes are not as made.")
    try:
        file = decode(body, ProofFile, bytes_max=PROOF_BYTES_MAX)
    except CodecError as error:
        raise ProofError(f"The proof file cannot be read. {error}") from error
    if file.version != PROOF_VERSION:
        raise ProofError(
            f"The proof file has version {file.version}; this program reads {PROOF_VERSION}."
        )
    return file.proof
