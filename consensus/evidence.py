"""Proof that a voter broke a promise: two of its signatures that no correct voter gives both.

docs/ARCHITECTURE.md section 4. A correct voter signs one value in one (height, view, phase), and
names in a VIEW-CHANGE for a later view whatever it had prepared before it sent a COMMIT. So there
are two kinds of proof, both of one height and one key: different values in one view and phase; and
a COMMIT in a view below a VIEW-CHANGE whose claim lies below that COMMIT. Signatures cover hashes,
so a proof needs no bodies: it is about 300 bytes, and any reader can check it alone.
"""

from typing import Annotated, assert_never

import msgspec

from consensus.messages import (
    Commit,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
    view_change_digest,
    vote_digest,
)
from primitives.codec import (
    Canonical,
    Digest,
    Height,
    InstitutionId,
    SignatureBytes,
    View,
    encode,
)
from primitives.hashing import digest
from primitives.keys import verify


class EvidenceError(ValueError):
    """What was shown proves nothing; the message is the exact reason."""


class VoteStatement(Canonical, frozen=True, tag=1):
    """A PRE-PREPARE, PREPARE or COMMIT, as far as its signature covers it."""

    phase: Annotated[int, msgspec.Meta(ge=1, le=3)]
    """Phase.PRE_PREPARE, Phase.PREPARE or Phase.COMMIT."""
    view: View
    block_hash: Digest
    signature: SignatureBytes


class ViewChangeStatement(Canonical, frozen=True, tag=2):
    """A VIEW-CHANGE, as far as its signature covers it."""

    view: View
    prepared: PreparedClaim | None
    signature: SignatureBytes


Statement = VoteStatement | ViewChangeStatement


class Evidence(Canonical, frozen=True):
    """Two contradictory statements of one voter, the one with the smaller encoding first."""

    signer: InstitutionId
    height: Height
    first: Statement
    second: Statement


def evidence_of(first: Signed, second: Signed) -> Evidence:
    """Return the evidence in two messages of one signer and height."""
    height = first.message.height
    return evidence_from(first.signer, height, statement_of(first), statement_of(second))


def evidence_from(signer: str, height: int, one: Statement, other: Statement) -> Evidence:
    """Return the evidence in two statements of a voter at one height, in the canonical order."""
    first, second = sorted((one, other), key=encode)
    return Evidence(signer, height, first, second)


def evidence_id(evidence: Evidence) -> bytes:
    """Return what this evidence is known by: 32 bytes."""
    return digest("evidence", encode(evidence))


def phase_accused(evidence: Evidence) -> tuple[Phase, Phase]:
    """Return the phases of the two statements."""
    return _phase(evidence.first), _phase(evidence.second)


def check_evidence(evidence: Evidence, chain_id: bytes, key: bytes) -> None:
    """Raise EvidenceError unless `key` signed both statements and they contradict each other.

    The key is that of the member named as signer; who that is, the caller knows. Costs two checks
    of a signature, 150 microseconds.
    """
    first, second = evidence.first, evidence.second
    if encode(first) >= encode(second):
        raise EvidenceError("the two statements are the same, or not in order")
    if not contradict(first, second):
        raise EvidenceError("a correct voter may sign both statements")
    for statement in (first, second):
        signed = _signed_digest(chain_id, evidence.signer, evidence.height, statement)
        if not verify(key, signed, statement.signature):
            raise EvidenceError(f"a signature is not that of {evidence.signer}")


def statement_of(signed: Signed) -> Statement:
    """Return a message as far as its signature covers it."""
    match signed.message:
        case PrePrepare(_, view, block):
            return VoteStatement(int(Phase.PRE_PREPARE), view, block.hash, signed.signature)
        case Prepare(_, view, block_hash) | Commit(_, view, block_hash):
            phase = int(phase_of(signed.message))
            return VoteStatement(phase, view, block_hash, signed.signature)
        case ViewChange(_, view, prepared):
            return ViewChangeStatement(view, claim_of(prepared), signed.signature)
        case _:
            assert_never(signed.message)


def _phase(statement: Statement) -> Phase:
    if isinstance(statement, VoteStatement):
        return Phase(statement.phase)
    return Phase.VIEW_CHANGE


def _signed_digest(chain_id: bytes, signer: str, height: int, statement: Statement) -> bytes:
    if isinstance(statement, VoteStatement):
        phase = Phase(statement.phase)
        return vote_digest(chain_id, signer, phase, height, statement.view, statement.block_hash)
    return view_change_digest(chain_id, signer, height, statement.view, statement.prepared)


def contradict(first: Statement, second: Statement) -> bool:
    """Tell whether no correct voter makes both statements at one height."""
    if isinstance(first, ViewChangeStatement):
        if isinstance(second, ViewChangeStatement):
            return first.view == second.view and first.prepared != second.prepared
        return _hides(second, first)
    if isinstance(second, ViewChangeStatement):
        return _hides(first, second)
    same_place = (first.phase, first.view) == (second.phase, second.view)
    return same_place and first.block_hash != second.block_hash


def _hides(vote: VoteStatement, view_change: ViewChangeStatement) -> bool:
    """Whether a COMMIT's view was left for a later one without naming what it rested on."""
    claimed = -1 if view_change.prepared is None else view_change.prepared.view
    return vote.phase == Phase.COMMIT and claimed < vote.view < view_change.view
