"""What voters sign and send each other: the four PBFT messages and the certificates made of them.

Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999), section 4, in the form of
docs/ARCHITECTURE.md section 4, one height at a time. A signature covers `signing_digest`: a domain
tag, the chain id, the phase, and hashes instead of bodies, so that a vote can travel alone inside a
certificate and still be checked.
"""

import enum
from typing import Annotated, assert_never

import msgspec

from consensus.committee import VOTERS_MAX
from primitives.block import Block
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
from primitives.keys import PrivateKey


class Phase(enum.IntEnum):
    """The phase a signature belongs to; part of what is signed."""

    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3
    VIEW_CHANGE = 4


class VoteSignature(Canonical, frozen=True):
    """One voter's signature inside a certificate."""

    signer: InstitutionId
    signature: SignatureBytes


class Certificate(Canonical, frozen=True):
    """A quorum's PREPAREs or COMMITs for one block, sorted by signer, each signer once."""

    phase: Annotated[int, msgspec.Meta(ge=2, le=3)]
    """Phase.PREPARE or Phase.COMMIT."""
    height: Height
    view: View
    block_hash: Digest
    signatures: Annotated[tuple[VoteSignature, ...], msgspec.Meta(max_length=VOTERS_MAX)]


class PreparedClaim(Canonical, frozen=True):
    """The best prepared (view, block) that a VIEW-CHANGE's signature speaks for."""

    view: View
    block_hash: Digest


class ViewChangeSignature(Canonical, frozen=True):
    """A VIEW-CHANGE inside a justification: who, what it had prepared, and its signature."""

    signer: InstitutionId
    prepared: PreparedClaim | None
    signature: SignatureBytes


class Justification(Canonical, frozen=True):
    """Why a view above 0 may start.

    A quorum of VIEW-CHANGEs for it, sorted by signer, and the best prepared certificate among them.
    """

    view_changes: Annotated[tuple[ViewChangeSignature, ...], msgspec.Meta(max_length=VOTERS_MAX)]
    prepared: Certificate | None


class PrePrepare(Canonical, frozen=True, tag=1):
    """The primary's proposal. `justification` is None exactly in view 0."""

    height: Height
    view: View
    block: Block
    justification: Justification | None


class Prepare(Canonical, frozen=True, tag=2):
    """A voter has fully checked the proposal of this view and holds it durably."""

    height: Height
    view: View
    block_hash: Digest


class Commit(Canonical, frozen=True, tag=3):
    """A voter has seen a quorum of PREPAREs for this block in this view."""

    height: Height
    view: View
    block_hash: Digest


class ViewChange(Canonical, frozen=True, tag=4):
    """A voter leaves all views below `view` and says what it had prepared in them."""

    height: Height
    view: View
    prepared: Certificate | None


Message = PrePrepare | Prepare | Commit | ViewChange


class Signed(Canonical, frozen=True):
    """A message with its signer; the signature covers `signing_digest` of the message."""

    signer: InstitutionId
    message: Message
    signature: SignatureBytes


class Decision(Canonical, frozen=True):
    """A decided block with the commit certificate that proves it to who knows the committee."""

    block: Block
    certificate: Certificate


def phase_of(message: Message) -> Phase:
    """The phase that a message belongs to."""
    match message:
        case PrePrepare():
            return Phase.PRE_PREPARE
        case Prepare():
            return Phase.PREPARE
        case Commit():
            return Phase.COMMIT
        case ViewChange():
            return Phase.VIEW_CHANGE
        case _:
            assert_never(message)


def vote_digest(
    chain_id: bytes, signer: str, phase: Phase, height: int, view: int, block_hash: bytes
) -> bytes:
    """The 32 bytes that a PRE-PREPARE, PREPARE or COMMIT signature covers."""
    return digest("consensus", encode((chain_id, int(phase), height, view, block_hash, signer)))


def view_change_digest(
    chain_id: bytes, signer: str, height: int, view: int, prepared: PreparedClaim | None
) -> bytes:
    """The 32 bytes that a VIEW-CHANGE signature covers."""
    claim = None if prepared is None else (prepared.view, prepared.block_hash)
    phase = int(Phase.VIEW_CHANGE)
    return digest("consensus", encode((chain_id, phase, height, view, claim, signer)))


def claim_of(certificate: Certificate | None) -> PreparedClaim | None:
    """What a VIEW-CHANGE that carries this certificate claims to have prepared."""
    if certificate is None:
        return None
    return PreparedClaim(certificate.view, certificate.block_hash)


def signing_digest(chain_id: bytes, signer: str, message: Message) -> bytes:
    """The 32 bytes that the signature of a message covers."""
    match message:
        case PrePrepare(height, view, block):
            return vote_digest(chain_id, signer, Phase.PRE_PREPARE, height, view, block.hash)
        case Prepare(height, view, block_hash):
            return vote_digest(chain_id, signer, Phase.PREPARE, height, view, block_hash)
        case Commit(height, view, block_hash):
            return vote_digest(chain_id, signer, Phase.COMMIT, height, view, block_hash)
        case ViewChange(height, view, prepared):
            return view_change_digest(chain_id, signer, height, view, claim_of(prepared))
        case _:
            assert_never(message)


def sign(chain_id: bytes, signer: str, key: PrivateKey, message: Message) -> Signed:
    """Sign a message as `signer`; whoever calls this makes the result durable before it is sent."""
    return Signed(signer, message, key.sign(signing_digest(chain_id, signer, message)))
