"""From the founders' committee to that of any height, without the blocks between.

docs/ARCHITECTURE.md section 4. Every header names the committee of the next height. So whoever
knows a committee needs only the headers that name another one, each decided by the committee
before: that is the whole way from genesis. Each step rests on a quorum of every class of a
committee that the step before has named, so that a verdict can be false only if such a quorum of
some committee gave away its keys. A rotated or removed key decides nothing in a later committee.

A step that is left out shows itself if the next certificate holds a voter or a key that nobody has
named, which a new voter and a rotated key do. Two kinds do not show: a voter that left, where the
others are a quorum even with it, and steps that together lead back to the same voters. The rule
above holds for a file without them as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.certificates import CertificateError, check_certificate
from consensus.committee import Committee, Voter
from consensus.messages import Certificate, Phase
from ledger.committee import committee_of
from ledger.genesis import Genesis
from ledger.proof_files import CommitteeChange
from ledger.trie import ProofError
from primitives.block import HEADER_VERSION, BlockHeader


@dataclass(slots=True)
class Following:
    """The committee that decides the heights from `since` on, as far as it has been followed."""

    chain_id: bytes
    committee: Committee
    since: int
    member_ids: dict[bytes, str] = field(default_factory=dict)
    """Institution ids by every key seen on the way."""

    def check_decided(self, header: BlockHeader, certificate: Certificate) -> None:
        """Raise ProofError unless the committee has decided this header."""
        if header.version != HEADER_VERSION:
            raise ProofError(f"The block header has the unknown version {header.version}.")
        if header.chain_id != self.chain_id:
            raise ProofError("The block header is of another ledger.")
        if header.height == 0:
            raise ProofError("The genesis block is not decided by anyone and proves nothing.")
        if certificate.height != header.height:
            raise ProofError("The certificate is for another height than the block header.")
        if certificate.block_hash != header.hash():
            raise ProofError(
                "The certificate is for another block, or the block header was changed."
            )
        if certificate.view < header.view:
            raise ProofError("The certificate is of an earlier view than the block it decides.")
        try:
            check_certificate(certificate, Phase.COMMIT, self.chain_id, self.committee)
        except CertificateError as error:
            raise ProofError(f"The certificate does not hold: {error}.") from error

    def take(self, change: CommitteeChange) -> None:
        """Go on to the committee that a change leads to. Raises ProofError."""
        header = change.header
        if header.height < self.since:
            raise ProofError("it is not above the change before")
        self.check_decided(header, change.certificate)
        if header.next_committee_hash == self.committee.hash:
            raise ProofError("the block names the committee that decided it, so nothing changes")
        committee = _committee(change.voters)
        if committee.hash != header.next_committee_hash:
            raise ProofError("the voters shown are not those that the block names")
        self.committee = committee
        self.since = header.height + 1
        self.member_ids |= {voter.key: voter.id for voter in committee.voters}


def follow_committee(
    changes: Sequence[CommitteeChange], height: int, genesis: Genesis
) -> Following:
    """Return the committee of `height`, to which exactly these changes lead from genesis.

    Raises ProofError for a change that is not decided by the committee before it, out of order,
    at `height` or above, or none at all.
    """
    founders = committee_of(genesis.institutions, genesis.classes, genesis.quorum)
    member_ids = {member.key: member.id for member in genesis.institutions}
    following = Following(genesis.chain_id, founders, 1, member_ids)
    for change in changes:
        try:
            if change.header.height >= height:
                raise ProofError(f"it is not below block {height}, whose committee is asked for")
            following.take(change)
        except ProofError as error:
            reason = str(error).removesuffix(".")
            raise ProofError(
                f"The change of the committee at block {change.header.height} does not hold: "
                f"{reason}."
            ) from error
    return following


def _committee(voters: tuple[Voter, ...]) -> Committee:
    """Return the committee of these voters, whose turns do not matter here."""
    try:
        return Committee(voters, tuple(voter.id for voter in voters if voter.proposes))
    except ValueError as error:
        raise ProofError(str(error)) from error
