"""What the state map holds about who may vote and whose turn it is: values, keys and readers.

All of it follows from the blocks, so every node has the same, and a header's state root vouches for
it. Histories (committees, evidence, proposals) are linked lists: the newest is named in one value,
and each names the one before, so that they are read with point reads and never scanned.
"""

from typing import Annotated, Final

import msgspec

from consensus.committee import VOTERS_MAX, Voter
from consensus.evidence import Evidence
from ledger.changes import Change
from ledger.operations import InstitutionParty, Party
from ledger.state import INSTITUTIONS_MAX, StateError, party_of, read_value
from ledger.store import StateReader
from primitives.codec import Canonical, Digest, Height, InstitutionId, UInt
from primitives.hashing import digest

STANDING_KEY: Final = b"standing"
PROPOSALS_KEY: Final = b"proposals"
PROPOSALS_OPEN_MAX: Final = 64
"""Proposals that may wait for their height at once; see `ledger.membership.room_of`."""


class Bench(Canonical, frozen=True):
    """A recorder that missed turns."""

    id: InstitutionId
    misses: UInt
    """One more for every missed turn, one less for every block that it proposed and that was
    decided."""
    until_height: Height
    """The last height at which it is passed over."""


class Offence(Canonical, frozen=True):
    """A member that evidence was heard against; kept when it is forgiven."""

    id: InstitutionId
    evidence: Digest | None
    """The id of the evidence that stands against it; None once a vote has forgiven it."""
    suspended: bool
    """Whether it is without a vote now; not where its class would have been left empty."""
    forgiven_height: Height
    """Evidence of this height and below is not heard again; 0 before the first reinstatement."""


class Standing(Canonical, frozen=True):
    """The value under STANDING_KEY."""

    roster: Annotated[tuple[InstitutionId, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    """The recorders that take turns at the next height, sorted by id."""
    benches: Annotated[tuple[Bench, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    """Sorted by id."""
    offences: Annotated[tuple[Offence, ...], msgspec.Meta(max_length=INSTITUTIONS_MAX)]
    """Sorted by id."""
    committee_since: Height
    """The first height that the present committee decides; see CommitteeRecord."""
    latest_evidence: Digest | None
    """The id of the newest evidence heard."""


class CommitteeRecord(Canonical, frozen=True):
    """The value under `committee_key(since)`: a committee that began to decide at height `since`.

    Light clients follow these from genesis (ledger/proofs.py).
    """

    voters: Annotated[tuple[Voter, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    previous: Height
    """The first height of the committee before; 0 for the founders'."""


class KeyOwner(Canonical, frozen=True):
    """The value under `owner_key(key)`: which member has this node key, or had it before.

    A key stays its first owner's for ever: nobody can use it again, and what it signed in old
    blocks can still be attributed. It is kept from the moment at which it is proposed, or anyone
    could undo a change by having the key enrolled as a person's.
    """

    id: InstitutionId
    listed: bool
    """Whether it is or was a member's key; if not, it has only been proposed."""


class EvidenceRecord(Canonical, frozen=True):
    """The value under `evidence_key(evidence id)`."""

    evidence: Evidence
    reporter: InstitutionId
    height: Height
    """Of the block that heard it."""
    transaction: Digest
    suspended: bool
    """Whether the signer lost its vote; not where its class would have been left empty."""
    previous: Digest | None
    """The evidence heard before."""


PENDING: Final = 0
EFFECTIVE: Final = 1
VOID: Final = 2


class Proposal(Canonical, frozen=True):
    """The value under `proposal_key(proposal id)`."""

    change: Change
    proposer: InstitutionId
    height: Height
    """Of the block that took the proposal."""
    effective_height: Height
    approvals: Annotated[tuple[InstitutionId, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    """In the order in which they came."""
    outcome: Annotated[int, msgspec.Meta(ge=0, le=2)]
    """PENDING, EFFECTIVE, or VOID: not enough approved, or it was no longer possible."""
    previous: Digest | None
    """The proposal made before."""


class Proposals(Canonical, frozen=True):
    """The value under PROPOSALS_KEY."""

    pending: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=PROPOSALS_OPEN_MAX)]
    """Proposal ids in the order in which they were made."""
    latest: Digest | None


def committee_key(since: int) -> bytes:
    """Return the key of the state map under which a CommitteeRecord is."""
    return b"committee/" + since.to_bytes(8, "big")


def owner_key(key: bytes) -> bytes:
    """Return the key of the state map under which the owner of a node key is."""
    return b"key/" + key


def evidence_key(evidence: bytes) -> bytes:
    """Return the key of the state map under which an EvidenceRecord is."""
    return b"evidence/" + evidence


def proposal_key(proposal: bytes) -> bytes:
    """Return the key of the state map under which a Proposal is."""
    return b"proposal/" + proposal


def proposal_id(transaction: bytes, operation: int) -> bytes:
    """Return the id of the proposal made by operation number `operation` of a transaction."""
    return digest("proposal", transaction + operation.to_bytes(8, "big"))


def standing_of(state: StateReader) -> Standing:
    """Return who takes turns and who is suspended. Raises StateError."""
    value = read_value(state, STANDING_KEY, Standing)
    if value is None:
        raise StateError("The state does not say whose turn it is: it was not made from genesis.")
    return value


def proposals_of(state: StateReader) -> Proposals:
    """Return which proposals are open."""
    return read_value(state, PROPOSALS_KEY, Proposals) or Proposals((), None)


def proposal_of(state: StateReader, proposal: bytes) -> Proposal | None:
    """Return a proposal, or None if there is none of this id."""
    return read_value(state, proposal_key(proposal), Proposal)


def known_proposal(state: StateReader, proposal: bytes) -> Proposal:
    """Return a proposal that must be there. Raises StateError."""
    found = proposal_of(state, proposal)
    if found is None:
        raise StateError(f"The state has lost proposal {proposal.hex()}.")
    return found


def evidence_record(state: StateReader, evidence: bytes) -> EvidenceRecord | None:
    """Return evidence that was heard, or None if there is none of this id."""
    return read_value(state, evidence_key(evidence), EvidenceRecord)


def committee_record(state: StateReader, since: int) -> CommitteeRecord | None:
    """Return the committee that began to decide at height `since`, or None."""
    return read_value(state, committee_key(since), CommitteeRecord)


def owner_of(state: StateReader, key: bytes) -> KeyOwner | None:
    """Return whose node key this is, was, or is proposed to be; None for a key of nobody."""
    return read_value(state, owner_key(key), KeyOwner)


def author_of(state: StateReader, member_ids: dict[bytes, str], key: bytes) -> Party | None:
    """Return who spoke with `key` in any block so far; `member_ids` are ids by the keys of now."""
    author = party_of(state, member_ids, key)
    if author is None:
        # Of an old block: the member has another key since, or has left.
        former = owner_of(state, key)
        author = None if former is None else InstitutionParty(former.id)
    return author


def suspended_in(standing: Standing) -> tuple[str, ...]:
    """Return the ids of the members without a vote, sorted."""
    return tuple(offence.id for offence in standing.offences if offence.suspended)


def offence_of(standing: Standing, id: str) -> Offence | None:
    """Return what stands against a member, or None."""
    return next((offence for offence in standing.offences if offence.id == id), None)


def with_offence(standing: Standing, offence: Offence) -> Standing:
    """Return the standing with this offence in place of the member's last."""
    kept = [other for other in standing.offences if other.id != offence.id]
    offences = tuple(sorted([*kept, offence], key=lambda each: each.id))
    return msgspec.structs.replace(standing, offences=offences)
