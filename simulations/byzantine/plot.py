"""What conspirators know together about one height, and what they can make of it.

They pool all that honest members have told any of them. From it follows which blocks can be shown
to be prepared, and which new views can be justified for which block: theirs is the choice which of
the honest VIEW-CHANGEs to show, and their own they write as they need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.certificates import assemble
from consensus.committee import Committee
from consensus.messages import (
    Certificate,
    Justification,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    ViewChangeSignature,
    claim_of,
    view_change_digest,
    vote_digest,
)
from primitives.block import Block

if TYPE_CHECKING:
    from simulations.host import Host


@dataclass(slots=True)
class Plot:
    """One height. Views and hashes are keys; signatures of honest members are values."""

    height: int
    active: bool
    """Whether they lie at this height at all: evidence ends most plots, so some wait."""
    patient: bool = False
    """Whether they keep a certificate that only they have, and show it when there is a newer."""
    blocks: dict[bytes, Block] = field(default_factory=dict)
    styles: dict[int, str] = field(default_factory=dict)
    """What they do in each view."""
    leaving: dict[int, str] = field(default_factory=dict)
    """What they claim as they ask for each view."""
    false: dict[tuple[str, int], Certificate | None] = field(default_factory=dict)
    """What each claims to be prepared below a view and was not."""
    told: dict[int, tuple[PrePrepare, PrePrepare]] = field(default_factory=dict)
    """What each side is to decide, by view."""
    tried: list[int] = field(default_factory=list)
    """The views in which a primary of theirs has looked for two choices."""
    prepares: dict[tuple[int, bytes], dict[str, bytes]] = field(default_factory=dict)
    claims: dict[int, dict[str, tuple[PreparedClaim | None, bytes]]] = field(default_factory=dict)
    certificates: dict[tuple[int, bytes], Certificate] = field(default_factory=dict)

    def learn(self, signed: Signed) -> None:
        """An honest member has said this."""
        match signed.message:
            case PrePrepare(_, view, block, justification):
                self.blocks[block.hash] = block
                if justification is not None:
                    for entry in justification.view_changes:
                        self._claim(view, entry.signer, entry.prepared, entry.signature)
                    self._prove(justification.prepared)
            case Prepare(_, view, block_hash):
                votes = self.prepares.setdefault((view, block_hash), {})
                votes[signed.signer] = signed.signature
            case ViewChange(_, view, prepared):
                self._claim(view, signed.signer, claim_of(prepared), signed.signature)
                self._prove(prepared)
            case _:
                pass

    def _claim(self, view: int, who: str, claim: PreparedClaim | None, signature: bytes) -> None:
        self.claims.setdefault(view, {})[who] = claim, signature

    def _prove(self, certificate: Certificate | None) -> None:
        if certificate is not None:
            self.certificates[certificate.view, certificate.block_hash] = certificate

    def proofs(
        self, hosts: Sequence["Host"], committee: Committee, below: int
    ) -> list[Certificate]:
        """What can be shown to be prepared in views below one, with the conspirators' own votes."""
        for (view, block_hash), votes in self.prepares.items():
            if view >= below or (view, block_hash) in self.certificates:
                continue
            able = [host for host in hosts if host.id in committee.by_id]
            if committee.is_quorum([*votes, *(host.id for host in able)]):
                signatures = {who: s for who, s in votes.items() if who in committee.by_id}
                for host in able:
                    chain_id = host.world.genesis.chain_id
                    signed = vote_digest(
                        chain_id, host.id, Phase.PREPARE, self.height, view, block_hash
                    )
                    signatures[host.id] = host.key.sign(signed)
                self._prove(assemble(Phase.PREPARE, self.height, view, block_hash, signatures))
        return [one for (view, _), one in sorted(self.certificates.items()) if view < below]

    def justify(
        self,
        hosts: Sequence["Host"],
        committee: Committee,
        view: int,
        prepared: Certificate | None,
    ) -> Justification | None:
        """Why `view` may start with the block of `prepared`, or with a fresh one: the honest
        VIEW-CHANGEs that do not stand against it, and whatever the conspirators must say. None if
        these are no quorum.
        """
        wanted = claim_of(prepared)
        entries: dict[str, ViewChangeSignature] = {}
        for who, (claim, signature) in self.claims.get(view, {}).items():
            fits = claim is None or (
                wanted is not None and (claim.view < wanted.view or claim == wanted)
            )
            if fits and who in committee.by_id:
                entries[who] = ViewChangeSignature(who, claim, signature)
        for host in hosts:
            if host.id in committee.by_id:
                chain_id = host.world.genesis.chain_id
                said = view_change_digest(chain_id, host.id, self.height, view, wanted)
                entries[host.id] = ViewChangeSignature(host.id, wanted, host.key.sign(said))
        if not committee.is_quorum(entries):
            return None
        return Justification(tuple(entries[who] for who in sorted(entries)), prepared)
