"""Checking sets of signatures: prepared, decided, and view-change sets, by one code path.

docs/ARCHITECTURE.md section 4: every set is checked with the full quorum rule. That means: the
signers are distinct and in order, all are of this committee, they are a quorum in every group, and
EVERY signature verifies, also those beyond the quorum, so that a certificate that one node accepts
is accepted by all. What costs nothing is checked first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from consensus.committee import VOTERS_MAX, Committee
from consensus.messages import (
    Certificate,
    Justification,
    Phase,
    PreparedClaim,
    ViewChange,
    VoteSignature,
    claim_of,
    view_change_digest,
    vote_digest,
)
from primitives.keys import verify

SIGNATURES_REMEMBERED_MAX = 16 * VOTERS_MAX
"""Verified signatures that one node keeps: 160 bytes each, all phases of a few views."""

Verified = tuple[bytes, bytes, bytes]
"""A signature that verifies: key, digest, signature."""


class CertificateError(ValueError):
    """A set of signatures does not prove what it says; the message is the exact reason."""


class SignatureCache:
    """Remembers which signatures have been verified, so that a node checks none twice.

    A vote comes alone first and later inside certificates and justifications. Only valid signatures
    are kept, under their key, digest and own bytes; the oldest goes first.
    """

    def __init__(self, remembered_max: int = SIGNATURES_REMEMBERED_MAX) -> None:
        self._remembered_max = remembered_max
        self._valid: dict[tuple[bytes, bytes, bytes], None] = {}
        self.checks = 0
        """Signatures checked by calculation so far: what the cache did not save."""

    def verify(self, public_key: bytes, digest: bytes, signature: bytes) -> bool:
        """Tell whether `signature` is that of `digest` by `public_key`. 75 us, or 1 us if known."""
        if (public_key, digest, signature) in self._valid:
            return True
        self.checks += 1
        if not verify(public_key, digest, signature):
            return False
        self.remember(public_key, digest, signature)
        return True

    def remember(self, public_key: bytes, digest: bytes, signature: bytes) -> None:
        """Take a signature as verified: one that we have made or checked elsewhere."""
        if len(self._valid) >= self._remembered_max:
            del self._valid[next(iter(self._valid))]
        self._valid[public_key, digest, signature] = None


def check_certificate(
    certificate: Certificate,
    phase: Phase,
    chain_id: bytes,
    committee: Committee,
    signatures: SignatureCache | None = None,
) -> None:
    """Raise CertificateError unless a quorum of `committee` signed in `phase` for the block.

    The committee is that of the certificate's height; the caller compares height, view and hash
    with what they should be. OSDI'99 section 4.2: "prepared" and "committed" certificates.
    """
    if certificate.phase != phase:
        raise CertificateError(f"the certificate is not of phase {phase.name}")
    signers = [entry.signer for entry in certificate.signatures]
    _check_signatures(signers, _votes(certificate, phase, chain_id), committee, signatures)


def verified_votes(
    certificate: Certificate, phase: Phase, chain_id: bytes, key_of: Mapping[str, bytes]
) -> Iterator[Verified]:
    """Yield the signatures of a certificate that verify, up to the first that does not by `key_of`.

    That they do says nothing about the certificate: this calculates ahead, on another thread, what
    `check_certificate` will ask for, by keys that may have changed until then. Who is named twice
    is checked once, or one signer could fill a certificate.
    """
    last = ""
    for name, digest, signature in _votes(certificate, phase, chain_id):
        key = key_of.get(name)
        if name <= last or key is None or not verify(key, digest, signature):
            return
        last = name
        yield key, digest, signature


def _votes(
    certificate: Certificate, phase: Phase, chain_id: bytes
) -> Iterator[tuple[str, bytes, bytes]]:
    """Signer, what is signed, and signature."""
    for entry in certificate.signatures:
        digest = vote_digest(
            chain_id,
            entry.signer,
            phase,
            certificate.height,
            certificate.view,
            certificate.block_hash,
        )
        yield entry.signer, digest, entry.signature


def check_justification(
    justification: Justification,
    height: int,
    view: int,
    chain_id: bytes,
    committee: Committee,
    signatures: SignatureCache | None = None,
) -> PreparedClaim | None:
    """Return what must be proposed again in `view`, or None if a fresh block may be.

    OSDI'99 section 4.4: a NEW-VIEW carries a quorum of VIEW-CHANGEs, and its choice of request can
    be computed from them. The VIEW-CHANGEs' signatures cover claims, and one certificate must prove
    the highest claim, or the whole set is refused: a claim without its proof could hide a decided
    block behind an invented one. Raises CertificateError.
    """
    for entry in justification.view_changes:
        if entry.prepared is not None and entry.prepared.view >= view:
            raise CertificateError(f"{entry.signer} claims a block prepared in a view not before")
    digests = (
        (
            entry.signer,
            view_change_digest(chain_id, entry.signer, height, view, entry.prepared),
            entry.signature,
        )
        for entry in justification.view_changes
    )
    signers = [entry.signer for entry in justification.view_changes]
    _check_signatures(signers, digests, committee, signatures)
    highest = _highest_claim([entry.prepared for entry in justification.view_changes])
    if claim_of(justification.prepared) != highest:
        raise CertificateError("the certificate is not that of the highest prepared claim")
    if justification.prepared is not None:
        _check_prepared(justification.prepared, height, view, chain_id, committee, signatures)
    return highest


def check_view_change(
    message: ViewChange,
    chain_id: bytes,
    committee: Committee,
    signatures: SignatureCache | None = None,
) -> None:
    """Raise CertificateError unless the prepared certificate in a VIEW-CHANGE proves its claim."""
    if message.prepared is not None:
        _check_prepared(
            message.prepared, message.height, message.view, chain_id, committee, signatures
        )


def _highest_claim(claims: Iterable[PreparedClaim | None]) -> PreparedClaim | None:
    present = [claim for claim in claims if claim is not None]
    highest = max(present, key=lambda claim: claim.view, default=None)
    if any(highest and claim.view == highest.view and claim != highest for claim in present):
        raise CertificateError("two blocks are claimed to be prepared in the highest view")
    return highest


def assemble(
    phase: Phase, height: int, view: int, block_hash: bytes, signatures: Mapping[str, bytes]
) -> Certificate:
    """Make a certificate of signatures by signer; whether they suffice is the caller's affair."""
    entries = tuple(VoteSignature(name, signatures[name]) for name in sorted(signatures))
    return Certificate(int(phase), height, view, block_hash, entries)


def _check_prepared(
    certificate: Certificate,
    height: int,
    view: int,
    chain_id: bytes,
    committee: Committee,
    signatures: SignatureCache | None,
) -> None:
    if certificate.height != height:
        raise CertificateError("the prepared certificate is of another height")
    if certificate.view >= view:
        raise CertificateError("the prepared certificate is not of a view before")
    check_certificate(certificate, Phase.PREPARE, chain_id, committee, signatures)


def _check_signatures(
    signers: Sequence[str],
    entries: Iterable[tuple[str, bytes, bytes]],
    committee: Committee,
    signatures: SignatureCache | None,
) -> None:
    # `entries` is lazy: no digest is computed for a set that fails the checks above it.
    if len(signers) > len(committee.voters):
        raise CertificateError("there are more signatures than voters")
    if any(first >= second for first, second in pairwise(signers)):
        raise CertificateError("the signers are not sorted, each once")
    for name in signers:
        if name not in committee.by_id:
            raise CertificateError(f"{name} is not a voter at this height")
    if not committee.is_quorum(signers):
        raise CertificateError("the signers are not a quorum in every class")
    cache = SignatureCache() if signatures is None else signatures
    for name, digest, signature in entries:
        if not cache.verify(committee.by_id[name].key, digest, signature):
            raise CertificateError(f"the signature of {name} does not verify")
