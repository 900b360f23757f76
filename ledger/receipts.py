"""Receipts: what became of every transaction of a block, as a code with one meaning everywhere."""

import enum
from typing import Final

from primitives.codec import Canonical, Digest, UInt


class ReceiptCode(enum.IntEnum):
    """0 is success; with any other code no operation of the transaction had any effect."""

    OK = 0
    EXPIRED = 1
    """The block is above valid_until_height, or its time above valid_until_ms."""
    TOO_FAR_AHEAD = 2
    """valid_until_height is further ahead than the replay window."""
    REPLAYED = 3
    """The transaction has run before, in this block or an earlier one."""
    UNKNOWN_AUTHOR = 10
    """The author's key is neither a member's nor an enrolled person's."""
    NOT_AN_INSTITUTION = 11
    """Only an institution may do this."""
    ALREADY_ENROLLED = 12
    """The key is a person's, or it is or was a member's, or has been proposed as one's."""
    UNKNOWN_KIND = 13
    """The kind of person is not one of PERSON_KINDS."""
    UNKNOWN_PERSON = 14
    """The subject is not enrolled."""
    ALREADY_REGISTERED = 15
    UNKNOWN_RECORD = 16
    NOT_ENTITLED = 17
    """The author (or the grantor of the grant used) may not decide about this record or grant."""
    UNKNOWN_PARTY = 18
    """The grantee or requester is neither a member, now or before, nor an enrolled person."""
    UNKNOWN_PURPOSE = 19
    """The purpose is not one of PURPOSES."""
    UNKNOWN_GRANT = 20
    GRANT_REVOKED = 21
    GRANT_EXPIRED = 22
    GRANT_NOT_COVERING = 23
    """The grant is for another party, another record or another purpose."""
    NOT_CUSTODIAN = 24
    """Only the record's custodian may share it."""
    COMMITMENT_DIFFERS = 25
    """The commitment is not the record's."""
    ALREADY_REVOKED = 26
    UNKNOWN_MEMBER = 27
    """The institution that this is about is not a member."""
    NOT_A_VOTER = 28
    """Only members that vote now may approve changes, and only against such is evidence heard."""
    EVIDENCE_INVALID = 29
    """The statements do not contradict each other, or are not signed with the key that the member
    has now."""
    EVIDENCE_TOO_OLD = 30
    """The statements are of a height outside the evidence window, or forgiven since."""
    ALREADY_REPORTED = 31
    """Evidence against this member has been heard; the way back is a vote."""
    UNKNOWN_PROPOSAL = 32
    PROPOSAL_CLOSED = 33
    """The proposal has taken effect, or come to nothing."""
    ALREADY_APPROVED = 34
    TOO_MANY_PROPOSALS = 35
    """Too many proposals are open, of this member or together: wait until some are closed, or, as a
    member without a vote, ask a voter to propose."""
    BAD_EFFECTIVE_HEIGHT = 36
    """A change takes effect two blocks after its proposal at the earliest, and not too late."""
    CHANGE_CONFLICTS = 37
    """An id, key, address or LEI is in use, or was; or the change changes nothing."""
    CHANGE_INVALID = 38
    """The institution's fields are not acceptable, or its key did not sign."""
    CLASS_WOULD_BE_EMPTY = 39
    """A class that votes would be left without a voter, or without anyone who proposes."""
    COMMITTEE_TOO_LARGE = 40


DID_NOT_RUN: Final = (
    ReceiptCode.EXPIRED,
    ReceiptCode.TOO_FAR_AHEAD,
    ReceiptCode.REPLAYED,
)
"""Codes that say nothing final about a transaction: it has run before, may run later, or never.

A transaction gets any other code at most once in the life of a ledger; only that receipt counts.
"""


class Receipt(Canonical, frozen=True):
    """The outcome of one transaction of a block."""

    transaction: Digest
    code: UInt
    """A ReceiptCode."""
    operation: UInt
    """The index of the operation that failed; 0 on success or if none was tried."""
