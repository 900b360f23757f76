"""How ledger objects look to an app: hashes and keys as lower-case hex, codes with their names,
times in ms.
"""

from typing import Annotated, assert_never

import msgspec

from ledger.operations import (
    ApproveChange,
    EnrolPerson,
    Grant,
    InstitutionParty,
    Labels,
    Operation,
    Party,
    ProposeChange,
    RecordShare,
    RegisterRecord,
    ReportMisbehaviour,
    Revoke,
)
from ledger.receipts import ReceiptCode
from ledger.state import grant_id, person_id, record_id
from node.methods.governance_views import (
    ChangeApproved,
    ChangeProposed,
    MisbehaviourReported,
    governing_view,
)
from node.methods.view import View
from primitives.block import BlockHeader
from primitives.codec import UINT_MAX
from primitives.institution import Institution

Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$(?!\n)")]
"""A hash, id or public key of 32 bytes as a parameter."""
Natural = Annotated[int, msgspec.Meta(ge=0, le=UINT_MAX)]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every method's params: a JSON object, or an array in the order of the fields."""


class PartyView(View, frozen=True):
    """An institution by id, or a person by id (hex); exactly one of the two."""

    institution: str | None = None
    person: str | None = None


class LabelsView(View, frozen=True):
    """What kind of data a record is."""

    category: str
    sensitivity: str
    jurisdiction: str
    source: str
    quality: str


class PersonEnrolled(View, frozen=True, tag_field="operation", tag="enrol_person"):
    """An institution attests that a person holds a key."""

    person: str
    key: str
    kind: str


class RecordRegistered(View, frozen=True, tag_field="operation", tag="register_record"):
    """A custodian commits to a record; `record` is absent where the author is no institution."""

    commitment: str
    labels: LabelsView
    record: str | None = None
    subject: str | None = None


class Granted(View, frozen=True, tag_field="operation", tag="grant"):
    """A party may receive records; without `records` all those of the grantor. `expires_ms` 0 means
    never.
    """

    grant: str
    grantee: PartyView
    purpose: str
    expires_ms: int
    records: tuple[str, ...] = ()


class Revoked(View, frozen=True, tag_field="operation", tag="revoke"):
    """A grant has ended."""

    grant: str


class Shared(View, frozen=True, tag_field="operation", tag="record_share"):
    """The custodian handed a record to a party under a grant."""

    record: str
    requester: PartyView
    grant: str
    commitment: str
    purpose: str


OperationView = (
    PersonEnrolled
    | RecordRegistered
    | Granted
    | Revoked
    | Shared
    | MisbehaviourReported
    | ChangeProposed
    | ChangeApproved
)


class TransactionView(View, frozen=True):
    """A transaction of a block. `code` 0 (OK) means that all its operations count, anything else
    that none does.
    """

    id: str
    height: int
    index: int
    time_ms: int
    code: int
    name: str
    meaning: str
    author_key: str
    author: PartyView
    valid_until_height: int
    valid_until_ms: int
    operations: tuple[OperationView, ...]
    failed_operation: int | None = None
    """The index of the operation that failed, where one did."""


class HistoryEntry(View, frozen=True):
    """An operation that took effect and concerns the record, person or institution asked about."""

    height: int
    index: int
    time_ms: int
    transaction: str
    operation_index: int
    author: PartyView
    operation: OperationView


class HeaderView(View, frozen=True):
    """A block's header with its hash."""

    hash: str
    version: int
    chain_id: str
    height: int
    parent_hash: str
    view: int
    proposer: str
    time_ms: int
    batches_root: str
    directory_root: str
    receipts_root: str
    state_root: str
    next_committee_hash: str


class InstitutionView(View, frozen=True):
    """A member of the ledger."""

    id: str
    name: str
    type: str
    consensus_class: str
    region: str
    lei: str
    key: str
    address: str


MEANINGS: dict[ReceiptCode, str] = {
    ReceiptCode.OK: "done",
    ReceiptCode.EXPIRED: "it was ordered after its validity had ended: submit a new one",
    ReceiptCode.TOO_FAR_AHEAD: "its valid_until_height is further ahead than the ledger allows",
    ReceiptCode.REPLAYED: "it had been executed before",
    ReceiptCode.UNKNOWN_AUTHOR: "its author's key belongs to no institution or enrolled person",
    ReceiptCode.NOT_AN_INSTITUTION: "only an institution may do this",
    ReceiptCode.ALREADY_ENROLLED: "the key is that of an enrolled person or institution already",
    ReceiptCode.UNKNOWN_KIND: "there is no such kind of person",
    ReceiptCode.UNKNOWN_PERSON: "the person is not enrolled",
    ReceiptCode.ALREADY_REGISTERED: "the record is registered already",
    ReceiptCode.UNKNOWN_RECORD: "the record is not registered",
    ReceiptCode.NOT_ENTITLED: "its author has no right to decide this",
    ReceiptCode.UNKNOWN_PARTY: "the other party is no member and no enrolled person",
    ReceiptCode.UNKNOWN_PURPOSE: "there is no such purpose of use",
    ReceiptCode.UNKNOWN_GRANT: "there is no such grant",
    ReceiptCode.GRANT_REVOKED: "the grant has been revoked",
    ReceiptCode.GRANT_EXPIRED: "the grant has expired",
    ReceiptCode.GRANT_NOT_COVERING: "the grant is for another party, record or purpose",
    ReceiptCode.NOT_CUSTODIAN: "only the record's custodian may do this",
    ReceiptCode.COMMITMENT_DIFFERS: "the commitment is not the one that was registered",
    ReceiptCode.ALREADY_REVOKED: "the grant had been revoked before",
    ReceiptCode.UNKNOWN_MEMBER: "the institution that this is about is not a member",
    ReceiptCode.NOT_A_VOTER: "the institution has no vote now",
    ReceiptCode.EVIDENCE_INVALID: "the two statements prove nothing against the institution",
    ReceiptCode.EVIDENCE_TOO_OLD: "the statements are too old, or forgiven since",
    ReceiptCode.ALREADY_REPORTED: "evidence against the institution has been heard before",
    ReceiptCode.UNKNOWN_PROPOSAL: "there is no proposal of this id",
    ReceiptCode.PROPOSAL_CLOSED: "the proposal has taken effect or come to nothing",
    ReceiptCode.ALREADY_APPROVED: "the institution had approved the proposal before",
    ReceiptCode.TOO_MANY_PROPOSALS: "too many proposals are open: wait until some are closed",
    ReceiptCode.BAD_EFFECTIVE_HEIGHT: "a change takes effect two blocks later at the earliest",
    ReceiptCode.CHANGE_CONFLICTS: "an id, key, address or LEI is in use, or nothing would change",
    ReceiptCode.CHANGE_INVALID: "a field is not acceptable, or the new key did not sign",
    ReceiptCode.CLASS_WOULD_BE_EMPTY: "a class of voters would be left without a voter",
    ReceiptCode.COMMITTEE_TOO_LARGE: "the ledger would have more members or voters than it may",
}
"""What a receipt's code says, for people."""


def code_name(code: int) -> str:
    """The name of a receipt code; one that this version does not know is UNKNOWN_CODE."""
    try:
        return ReceiptCode(code).name
    except ValueError:
        return "UNKNOWN_CODE"


def code_meaning(code: int) -> str:
    """What a receipt code says."""
    try:
        return MEANINGS[ReceiptCode(code)]
    except ValueError:
        return "this version of the software does not know the code: update it"


def party_view(party: Party | None) -> PartyView:
    """A party; empty if the key is nobody's."""
    if party is None:
        return PartyView()
    if isinstance(party, InstitutionParty):
        return PartyView(institution=party.id)
    return PartyView(person=party.id.hex())


def labels_view(labels: Labels) -> LabelsView:
    """The labels of a record."""
    return LabelsView(
        labels.category, labels.sensitivity, labels.jurisdiction, labels.source, labels.quality
    )


def operation_view(
    operation: Operation, transaction: bytes, index: int, author: Party | None
) -> OperationView:
    """Operation number `index` of a transaction, with the id of what it makes."""
    match operation:
        case EnrolPerson(key, kind):
            return PersonEnrolled(person_id(key).hex(), key.hex(), kind)
        case RegisterRecord(commitment, labels, subject):
            made = None
            if isinstance(author, InstitutionParty):
                made = record_id(author.id, commitment).hex()
            return RecordRegistered(
                commitment.hex(),
                labels_view(labels),
                made,
                None if subject is None else subject.hex(),
            )
        case Grant(grantee, records, purpose, expires_ms):
            return Granted(
                grant_id(transaction, index).hex(),
                party_view(grantee),
                purpose,
                expires_ms,
                tuple(record.hex() for record in records),
            )
        case Revoke(grant):
            return Revoked(grant.hex())
        case RecordShare(record, requester, grant, commitment, purpose):
            return Shared(
                record.hex(), party_view(requester), grant.hex(), commitment.hex(), purpose
            )
        case ReportMisbehaviour() | ProposeChange() | ApproveChange():
            return governing_view(operation, transaction, index)
        case _:
            assert_never(operation)


def header_view(header: BlockHeader) -> HeaderView:
    """A block's header."""
    return HeaderView(
        hash=header.hash().hex(),
        version=header.version,
        chain_id=header.chain_id.hex(),
        height=header.height,
        parent_hash=header.parent_hash.hex(),
        view=header.view,
        proposer=header.proposer,
        time_ms=header.time_ms,
        batches_root=header.batches_root.hex(),
        directory_root=header.directory_root.hex(),
        receipts_root=header.receipts_root.hex(),
        state_root=header.state_root.hex(),
        next_committee_hash=header.next_committee_hash.hex(),
    )


def institution_view(institution: Institution, consensus_class: str) -> InstitutionView:
    """A member and its class."""
    return InstitutionView(
        id=institution.id,
        name=institution.name,
        type=institution.type,
        consensus_class=consensus_class,
        region=institution.region,
        lei=institution.lei,
        key=institution.key.hex(),
        address=institution.address,
    )
