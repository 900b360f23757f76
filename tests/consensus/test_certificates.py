"""Sets of signatures: one rule for all of them, and the exact reason for every refusal."""

from collections.abc import Callable

import msgspec
import pytest

from consensus.certificates import (
    SIGNATURES_REMEMBERED_MAX,
    CertificateError,
    SignatureCache,
    assemble,
    check_certificate,
    check_justification,
    check_view_change,
    verified_votes,
)
from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Message,
    Phase,
    Prepare,
    PreparedClaim,
    ViewChange,
    ViewChangeSignature,
    VoteSignature,
    signing_digest,
)
from tests.consensus.support import (
    CHAIN,
    by,
    certify,
    genesis,
    key_of,
    make_block,
    make_committee,
    view_changes,
)

COMMITTEE = make_committee(4, 3)
QUORUM = ("a0", "a1", "r0", "r1", "r2")
BLOCK = make_block(genesis(COMMITTEE), "r1")
OTHER = make_block(genesis(COMMITTEE), "r2")
COMMITTED = certify(Phase.COMMIT, QUORUM, BLOCK)
PREPARED = certify(Phase.PREPARE, QUORUM, BLOCK)


def check(certificate: Certificate, phase: Phase = Phase.COMMIT) -> None:
    check_certificate(certificate, phase, CHAIN, COMMITTEE)


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.COMMIT])
@pytest.mark.parametrize("view", [0, 7])
def test_a_quorum_is_enough(phase: Phase, view: int) -> None:
    check(certify(phase, QUORUM, BLOCK, view), phase)
    check(certify(phase, [voter.id for voter in COMMITTEE.voters], BLOCK, view), phase)


@pytest.mark.parametrize("missing", QUORUM)
def test_one_less_in_any_class_is_not(missing: str) -> None:
    signers = [name for name in QUORUM if name != missing]
    with pytest.raises(CertificateError, match="not a quorum in every class"):
        check(certify(Phase.COMMIT, signers, BLOCK))


def test_all_of_one_class_are_not_enough() -> None:
    with pytest.raises(CertificateError, match="quorum"):
        check(certify(Phase.COMMIT, ["r0", "r1", "r2", "r3"], BLOCK))
    with pytest.raises(CertificateError, match="quorum"):
        check(certify(Phase.COMMIT, [], BLOCK))


def swap_first_two(certificate: Certificate) -> Certificate:
    one, two, *rest = certificate.signatures
    return msgspec.structs.replace(certificate, signatures=(two, one, *rest))


def double_the_first(certificate: Certificate) -> Certificate:
    one, *rest = certificate.signatures
    return msgspec.structs.replace(certificate, signatures=(one, one, *rest))


def add_a_stranger(certificate: Certificate) -> Certificate:
    stranger = VoteSignature("zoe", by("zoe", Commit(1, 0, BLOCK.hash)).signature)
    return msgspec.structs.replace(certificate, signatures=(*certificate.signatures, stranger))


def add_many(certificate: Certificate) -> Certificate:
    many = tuple(VoteSignature(f"z{i}", b"s" * 64) for i in range(9))
    return msgspec.structs.replace(certificate, signatures=(*certificate.signatures, *many))


def break_the_last(certificate: Certificate) -> Certificate:
    *rest, last = certificate.signatures
    broken = VoteSignature(last.signer, bytes([last.signature[0] ^ 1]) + last.signature[1:])
    return msgspec.structs.replace(certificate, signatures=(*rest, broken))


def exchange_two_signatures(certificate: Certificate) -> Certificate:
    one, two, *rest = certificate.signatures
    mixed = (VoteSignature(one.signer, two.signature), VoteSignature(two.signer, one.signature))
    return msgspec.structs.replace(certificate, signatures=(*mixed, *rest))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (swap_first_two, "not sorted"),
        (double_the_first, "not sorted, each once"),
        (add_a_stranger, "zoe is not a voter"),
        (add_many, "more signatures than voters"),
        (break_the_last, "signature of r2 does not verify"),
        (exchange_two_signatures, "signature of a0 does not verify"),
        (lambda c: msgspec.structs.replace(c, phase=Phase.PREPARE), "not of phase COMMIT"),
        (lambda c: msgspec.structs.replace(c, height=2), "does not verify"),
        (lambda c: msgspec.structs.replace(c, view=1), "does not verify"),
        (lambda c: msgspec.structs.replace(c, block_hash=OTHER.hash), "does not verify"),
    ],
)
def test_every_flaw_has_its_reason(
    spoil: Callable[[Certificate], Certificate], reason: str
) -> None:
    with pytest.raises(CertificateError, match=reason):
        check(spoil(COMMITTED))


def test_a_superfluous_signature_must_verify_too() -> None:
    everyone = certify(Phase.COMMIT, [voter.id for voter in COMMITTEE.voters], BLOCK)
    with pytest.raises(CertificateError, match="signature of r3"):
        check(break_the_last(everyone))


def test_a_certificate_of_another_chain_or_phase_is_worthless() -> None:
    with pytest.raises(CertificateError, match="verify"):
        check_certificate(COMMITTED, Phase.COMMIT, b"x" * 32, COMMITTEE)
    disguised = msgspec.structs.replace(PREPARED, phase=Phase.COMMIT)
    with pytest.raises(CertificateError, match="verify"):
        check(disguised)


def test_assemble_sorts() -> None:
    signatures = {name: by(name, Commit(1, 0, BLOCK.hash)).signature for name in QUORUM[::-1]}
    assert assemble(Phase.COMMIT, 1, 0, BLOCK.hash, signatures) == COMMITTED


def test_what_is_calculated_ahead_ends_at_the_first_flaw() -> None:
    """One signer that fills a certificate with its name is worth one check."""
    keys = {name: key_of(name).public for name in QUORUM}

    def count(certificate: Certificate) -> int:
        return len(list(verified_votes(certificate, Phase.COMMIT, CHAIN, keys)))

    assert count(COMMITTED) == len(QUORUM)
    assert count(break_the_last(COMMITTED)) == len(QUORUM) - 1
    assert count(double_the_first(COMMITTED)) == count(swap_first_two(COMMITTED)) == 1
    assert count(add_a_stranger(COMMITTED)) == len(QUORUM)


# ---- the cache -----------------------------------------------------------------------------------


def test_no_signature_is_checked_twice() -> None:
    cache = SignatureCache()
    for _ in range(3):
        check_certificate(COMMITTED, Phase.COMMIT, CHAIN, COMMITTEE, cache)
    assert cache.checks == len(QUORUM)


def test_the_cache_remembers_valid_signatures_only_and_not_too_many() -> None:
    key = key_of("r0")
    digests = [bytes([i]) * 32 for i in range(4)]
    signatures = [key.sign(digest) for digest in digests]
    cache = SignatureCache(remembered_max=3)
    assert not cache.verify(key.public, digests[0], signatures[1])
    assert not cache.verify(key.public, digests[0], signatures[1])
    assert cache.checks == 2
    for digest, signature in zip(digests, signatures, strict=True):
        assert cache.verify(key.public, digest, signature)
    assert cache.checks == 6
    assert cache.verify(key.public, digests[3], signatures[3])
    assert cache.checks == 6
    assert cache.verify(key.public, digests[0], signatures[0]), "forgotten, checked again"
    assert cache.checks == 7
    assert SIGNATURES_REMEMBERED_MAX == 4096


def test_the_cache_is_bound_to_the_key() -> None:
    """After a rotation the old key's signature does not pass for the new key's."""
    cache = SignatureCache()
    signature = key_of("r0").sign(b"d" * 32)
    assert cache.verify(key_of("r0").public, b"d" * 32, signature)
    assert not cache.verify(key_of("r1").public, b"d" * 32, signature)


# ---- view changes --------------------------------------------------------------------------------


def justified(justification: Justification, view: int = 1) -> PreparedClaim | None:
    return check_justification(justification, 1, view, CHAIN, COMMITTEE)


def test_a_justification_without_claims_allows_a_fresh_block() -> None:
    assert justified(view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM))) is None


def test_the_highest_claim_obliges() -> None:
    later = certify(Phase.PREPARE, QUORUM, OTHER, view=2)
    prepared = dict.fromkeys(QUORUM) | {"a0": PREPARED, "r2": later, "r1": PREPARED}
    justification = view_changes(COMMITTEE, 1, 3, prepared)
    assert justified(justification, 3) == PreparedClaim(2, OTHER.hash)


@pytest.mark.parametrize("missing", QUORUM)
def test_view_changes_need_a_quorum_in_every_class(missing: str) -> None:
    full = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM))
    entries = tuple(entry for entry in full.view_changes if entry.signer != missing)
    with pytest.raises(CertificateError, match="quorum"):
        justified(Justification(entries, None))


def test_a_view_change_counts_once() -> None:
    full = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM)).view_changes
    entries = tuple(entry for entry in full if entry.signer != "r2")
    doubled = (*entries, entries[-1])
    with pytest.raises(CertificateError, match="each once"):
        justified(Justification(doubled, None))
    with pytest.raises(CertificateError, match="more signatures than voters"):
        justified(Justification((*full, *full), None))


def test_view_changes_of_another_height_or_view_do_not_count() -> None:
    for height, view in ((2, 1), (1, 2)):
        with pytest.raises(CertificateError, match="signature of a0"):
            justified(view_changes(COMMITTEE, height, view, dict.fromkeys(QUORUM)))


def test_the_highest_claim_must_be_proven() -> None:
    """A claim without certificate could hide a decided block behind an invented one."""
    honest = view_changes(COMMITTEE, 1, 3, dict.fromkeys(QUORUM) | {"r0": PREPARED})
    lie = PreparedClaim(2, OTHER.hash)
    forged = certify(Phase.PREPARE, ["r2"], OTHER, 2)
    entries = tuple(
        entry
        if entry.signer != "r2"
        else ViewChangeSignature("r2", lie, by("r2", ViewChange(1, 3, forged)).signature)
        for entry in honest.view_changes
    )
    assert justified(honest, 3) == PreparedClaim(0, BLOCK.hash)
    for certificate in (None, PREPARED):
        with pytest.raises(CertificateError, match="not that of the highest"):
            justified(Justification(entries, certificate), 3)
    with pytest.raises(CertificateError, match="quorum"):
        justified(Justification(entries, forged), 3)


def test_a_claim_cannot_be_left_out() -> None:
    justification = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM) | {"r0": PREPARED})
    with pytest.raises(CertificateError, match="not that of the highest"):
        justified(Justification(justification.view_changes, None))
    stripped = tuple(
        ViewChangeSignature(entry.signer, None, entry.signature)
        for entry in justification.view_changes
    )
    with pytest.raises(CertificateError, match="signature of r0"):
        justified(Justification(stripped, None))


def test_a_certificate_that_nobody_claims_is_refused() -> None:
    plain = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM))
    with pytest.raises(CertificateError, match="not that of the highest"):
        justified(Justification(plain.view_changes, PREPARED))


@pytest.mark.parametrize("view", [1, 2])
def test_a_claim_for_the_new_view_or_later_is_refused(view: int) -> None:
    later = certify(Phase.PREPARE, QUORUM, BLOCK, view)
    with pytest.raises(CertificateError, match="r0 claims"):
        justified(view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM) | {"r0": later}))


def test_two_blocks_claimed_in_the_highest_view_are_refused() -> None:
    rival = certify(Phase.PREPARE, QUORUM, OTHER)
    prepared = dict.fromkeys(QUORUM) | {"r0": PREPARED, "r1": rival}
    with pytest.raises(CertificateError, match="two blocks"):
        justified(view_changes(COMMITTEE, 1, 1, prepared))


def test_the_prepared_certificate_must_be_of_prepares() -> None:
    as_prepared = dict.fromkeys(QUORUM) | {"r0": PREPARED}
    justification = view_changes(COMMITTEE, 1, 1, as_prepared)
    with pytest.raises(CertificateError, match="phase PREPARE"):
        justified(Justification(justification.view_changes, COMMITTED))


def test_the_prepared_certificate_must_be_of_this_height() -> None:
    above = make_block(BLOCK.header, "r2")
    elsewhere = certify(Phase.PREPARE, QUORUM, above)
    justification = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM) | {"r0": elsewhere})
    with pytest.raises(CertificateError, match="another height"):
        justified(justification)


@pytest.mark.parametrize(
    ("prepared", "reason"),
    [
        (certify(Phase.PREPARE, QUORUM, BLOCK, 1), "not of a view before"),
        (certify(Phase.PREPARE, QUORUM, make_block(BLOCK.header, "r2")), "another height"),
        (certify(Phase.PREPARE, QUORUM[1:], BLOCK), "quorum"),
        (COMMITTED, "phase PREPARE"),
    ],
)
def test_a_view_change_needs_a_true_certificate(prepared: Certificate, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        check_view_change(ViewChange(1, 1, prepared), CHAIN, COMMITTEE)


def test_a_true_view_change_passes() -> None:
    check_view_change(ViewChange(1, 1, None), CHAIN, COMMITTEE)
    check_view_change(ViewChange(1, 1, PREPARED), CHAIN, COMMITTEE)


def test_what_is_signed_differs_in_every_field() -> None:
    messages: list[Message] = [
        Prepare(1, 0, BLOCK.hash),
        Commit(1, 0, BLOCK.hash),
        Prepare(2, 0, BLOCK.hash),
        Prepare(1, 1, BLOCK.hash),
        Prepare(1, 0, OTHER.hash),
        ViewChange(1, 1, None),
        ViewChange(1, 1, PREPARED),
    ]
    digests = {signing_digest(CHAIN, "r0", message) for message in messages}
    digests |= {
        signing_digest(CHAIN, "r1", messages[0]),
        signing_digest(b"x" * 32, "r0", messages[0]),
    }
    assert len(digests) == len(messages) + 2
