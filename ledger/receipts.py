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
    UNKNOWN_KIND = 13
    """The kind of person is not one of PERSON_KINDS."""
    UNKNOWN_PERSON = 14
    """The subject is not enrolled."""
    ALREADY_REGISTERED = 15
    UNKNOWN_RECORD = 16
    NOT_ENTITLED = 17
    """The author (or the grantor of the grant used) may not decide about this record or grant."""
    UNKNOWN_PARTY = 18
    """The grantee or requester is neither a member nor an enrolled person."""
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
