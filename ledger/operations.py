"""The operations of a transaction: what institutions and persons can say on the ledger.

No operation carries data or a person's identifying attribute: only keys, salted commitments, labels
and codes. Every member of the ledger reads them.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Final, assert_never

import msgspec

from consensus.evidence import Evidence
from ledger.changes import Change
from primitives.codec import Canonical, Digest, Height, InstitutionId, Milliseconds, PublicKey

GRANT_RECORDS_MAX: Final = 64
"""Records that one grant may name; an empty list means all records of the subject."""

PERSON_KINDS: Final = ("patient", "practitioner", "researcher", "guardian")
PURPOSES: Final = (
    "TREAT",
    "ETREAT",
    "HPAYMT",
    "HOPERAT",
    "HRESCH",
    "CLINTRCH",
    "PUBHLTH",
    "HLEGAL",
    "HQUALIMP",
    "PATRQT",
    "COVERAGE",
    "FAMRQT",
)
"""HL7 v3 PurposeOfUse codes (value set v3-PurposeOfUse) that a grant or a share may name."""

# \Z and not $, which would also match before a final newline.
_LABEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,63}\Z"
_LABEL_LENGTH: Final = msgspec.Meta(min_length=1, max_length=64)
Label = Annotated[str, _LABEL_LENGTH, msgspec.Meta(pattern=_LABEL_PATTERN)]
"""A code of 1 to 64 printable ASCII characters."""
LABELS_REMEMBERED_MAX: Final = 4_096
"""Kinds of data that are known to be described by codes: some 2 MB."""


class InstitutionParty(Canonical, frozen=True, tag=1):
    """An institution, as author or as the other side of a grant or share."""

    id: InstitutionId


class PersonParty(Canonical, frozen=True, tag=2):
    """An enrolled person, by person id, as author or as the other side of a grant or share."""

    id: Digest


Party = InstitutionParty | PersonParty


_LabelText = Annotated[str, _LABEL_LENGTH]


class Labels(Canonical, frozen=True):
    """What kind of data a record is; codes only, readable by every member.

    That each is a Label is for `are_codes` to say, once for each transaction that is checked: five
    patterns took as long as all else in decoding a record.
    """

    category: _LabelText
    sensitivity: _LabelText
    jurisdiction: _LabelText
    source: _LabelText
    quality: _LabelText


@lru_cache(maxsize=LABELS_REMEMBERED_MAX)
def are_codes(labels: Labels) -> bool:
    """Tell whether decoded labels are Labels; most records are of a few kinds of data."""
    return all(re.match(_LABEL_PATTERN, label) for label in msgspec.structs.astuple(labels))


class EnrolPerson(Canonical, frozen=True, tag=1):
    """The author, an institution, attests that a person of this kind holds this key.

    The person id is `person_id(key)`.
    """

    key: PublicKey
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    """One of PERSON_KINDS."""


class RegisterRecord(Canonical, frozen=True, tag=2):
    """The author, an institution and from now on the custodian, commits to a record.

    The record id is `record_id(custodian, commitment)`.
    """

    commitment: Digest
    labels: Labels
    subject: Digest | None
    """The person id of whom the record is about, who then decides on it; None without a subject."""


class Grant(Canonical, frozen=True, tag=3):
    """The subject of the records allows a party to receive them.

    Where a record has no subject its custodian does. The grant id is `grant_id(transaction id,
    operation index)`.
    """

    grantee: Party
    records: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=GRANT_RECORDS_MAX)]
    """Record ids; none means all records of the author, registered already or later."""
    purpose: Annotated[str, msgspec.Meta(max_length=16)]
    """One of PURPOSES."""
    expires_ms: Milliseconds
    """Compared with block time; the grant holds before this moment. 0 means no expiry."""


class Revoke(Canonical, frozen=True, tag=4):
    """The grantor ends a grant: no share may rest on it from the next operation on."""

    grant: Digest


class RecordShare(Canonical, frozen=True, tag=5):
    """The notarised record of a sharing, by the custodian: who got which record under which grant.

    Its time is the block's.
    """

    record: Digest
    requester: Party
    grant: Digest
    commitment: Digest
    """The record's: what the requester received can be compared with it."""
    purpose: Annotated[str, msgspec.Meta(max_length=16)]


class ReportMisbehaviour(Canonical, frozen=True, tag=6):
    """The author, a member, shows that a voter contradicted itself: the voter is suspended."""

    evidence: Evidence


class ProposeChange(Canonical, frozen=True, tag=7):
    """The author, a member, proposes a change of the membership, and approves it if it votes.

    The proposal id is `proposal_id(transaction id, operation index)`.
    """

    change: Change
    effective_height: Height
    """The first height that the changed committee decides; until then voters may approve."""


class ApproveChange(Canonical, frozen=True, tag=8):
    """The author, a voter, approves a proposed change."""

    proposal: Digest


Operation = (
    EnrolPerson
    | RegisterRecord
    | Grant
    | Revoke
    | RecordShare
    | ReportMisbehaviour
    | ProposeChange
    | ApproveChange
)

WORK_MAX: Final = 3 + GRANT_RECORDS_MAX
"""The work of the most expensive operation."""
SIGNATURE_WORK: Final = 4
"""A signature inside an operation costs as much as so many keys."""


def work_of(operations: Iterable[Operation]) -> int:
    """Return the work of `operations`: the most keys of the state map that they can write.

    It depends on nothing but the operations, so that a batch which no block could hold is refused
    before it spreads (docs/ARCHITECTURE.md section 4).
    """
    work = 0
    for operation in operations:
        match operation:
            case RecordShare():
                work += 4
            case RegisterRecord():
                work += 3
            case EnrolPerson():
                work += 2
            case Grant():
                work += 3 + len(operation.records)
            case Revoke():
                work += WORK_MAX
            case ReportMisbehaviour():
                work += 4 + 2 * SIGNATURE_WORK
            case ProposeChange():
                # It is compared with all members: 1 ms where there are a thousand.
                work += WORK_MAX
            case ApproveChange():
                work += 3
            case _:
                assert_never(operation)
    return work
