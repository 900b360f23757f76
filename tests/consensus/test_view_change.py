"""What a new view's primary may propose, and what a voter accepts from it."""

import msgspec
import pytest

from consensus.certificates import CertificateError, SignatureCache, check_justification
from consensus.messages import Justification, Phase, PreparedClaim, PrePrepare, ViewChange
from consensus.view_change import ProposalError, check_proposal, justify
from primitives.block import Block
from tests.consensus.support import (
    CHAIN,
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
    view_changes,
)

COMMITTEE = make_committee(4, 3)
QUORUM = ("a0", "a1", "r0", "r1", "r2")
HEAD = genesis(COMMITTEE)
BLOCK = make_block(HEAD, "r1")
PREPARED = certify(Phase.PREPARE, QUORUM, BLOCK)
NO_CLAIMS = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM))
CLAIMED = view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM) | {"r0": PREPARED})


def check(message: PrePrepare, primary: str) -> PreparedClaim | None:
    return check_proposal(message, primary, CHAIN, HEAD, COMMITTEE, SignatureCache())


def test_view_0_proposes_a_fresh_block_without_justification() -> None:
    assert check(proposal(BLOCK), "r1") is None


def test_a_justified_view_without_claims_proposes_a_fresh_block() -> None:
    assert check(proposal(make_block(HEAD, "r2", 1), 1, NO_CLAIMS), "r2") is None


def test_a_claim_is_proposed_again_under_its_old_header() -> None:
    assert check(proposal(BLOCK, 1, CLAIMED), "r2") == PreparedClaim(0, BLOCK.hash)


@pytest.mark.parametrize(
    "block",
    [
        make_block(HEAD, "r2", 0),
        make_block(HEAD, "r2", 2),
        make_block(HEAD, "r1", 1),
        make_block(HEAD, "r1", 0),
    ],
)
def test_a_fresh_block_names_this_view_and_this_primary(block: Block) -> None:
    with pytest.raises(ProposalError, match="fresh block must name"):
        check(proposal(block, 1, NO_CLAIMS), "r2")


@pytest.mark.parametrize(
    "block", [make_block(HEAD, "r2", 1), make_block(HEAD, "r1", 0, b"another")]
)
def test_a_claim_allows_no_other_block(block: Block) -> None:
    with pytest.raises(ProposalError, match="not the one"):
        check(proposal(block, 1, CLAIMED), "r2")


def test_a_block_cannot_be_prepared_before_its_first_proposal() -> None:
    """Only too many Byzantine voters can prepare such a block; it is refused all the same."""
    early = make_block(HEAD, "r2", 5)
    prepared = certify(Phase.PREPARE, QUORUM, early, 3)
    claims = view_changes(COMMITTEE, 1, 6, dict.fromkeys(QUORUM) | {"r0": prepared})
    with pytest.raises(ProposalError, match="not the one"):
        check(proposal(early, 6, claims), "r3")


@pytest.mark.parametrize(("view", "claims"), [(1, None), (0, NO_CLAIMS)])
def test_every_view_but_the_first_is_justified(view: int, claims: Justification | None) -> None:
    message = proposal(make_block(HEAD, "r2", view), view, claims)
    with pytest.raises((ProposalError, CertificateError)):
        check(message, "r2")


def test_the_block_extends_our_head_on_our_chain() -> None:
    with pytest.raises(ProposalError, match="another chain"):
        check(proposal(make_block(HEAD, "r1", chain_id=b"x" * 32)), "r1")
    with pytest.raises(ProposalError, match="extend our head"):
        check(proposal(make_block(msgspec.structs.replace(HEAD, time_ms=9), "r1")), "r1")
    higher = Block(msgspec.structs.replace(BLOCK.header, height=2), b"")
    with pytest.raises(ProposalError, match="extend our head"):
        check(PrePrepare(1, 0, higher, None), "r1")
    above = make_block(BLOCK.header, "r1")
    with pytest.raises(ProposalError, match="extend our head"):
        check(PrePrepare(1, 0, above, None), "r1")


def test_a_justification_is_made_of_a_quorum_and_its_best_certificate() -> None:
    later = certify(Phase.PREPARE, QUORUM, BLOCK, 2)
    asked = {"a0": None, "a1": PREPARED, "r0": later, "r1": PREPARED, "r2": None}
    messages = [(name, ViewChange(1, 3, claim)) for name, claim in asked.items()]
    signed = [(by(name, message), message) for name, message in messages]
    for missing in range(len(signed)):
        assert justify(signed[:missing] + signed[missing + 1 :], COMMITTEE) is None
    justification = justify(signed, COMMITTEE)
    assert justification is not None
    assert justification.prepared == later
    claim = check_justification(justification, 1, 3, CHAIN, COMMITTEE)
    assert claim == PreparedClaim(2, BLOCK.hash)
