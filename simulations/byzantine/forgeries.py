"""Certificates and justifications that prove nothing, in every way in which a check could be
forgotten.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from consensus.messages import (
    Certificate,
    Justification,
    Phase,
    PreparedClaim,
    ViewChangeSignature,
    VoteSignature,
    view_change_digest,
    vote_digest,
)

if TYPE_CHECKING:
    from simulations.host import Host


def invented(
    host: "Host", height: int, view: int, block_hash: bytes, phase: Phase = Phase.PREPARE
) -> Certificate:
    """A certificate in which all signatures are the forger's own."""
    chain_id = host.world.genesis.chain_id
    entries = tuple(
        VoteSignature(
            voter, host.key.sign(vote_digest(chain_id, voter, phase, height, view, block_hash))
        )
        for voter in sorted(host.running.chain.committee.by_id)
    )
    return Certificate(int(phase), height, view, block_hash, entries)


def altered(
    chance: random.Random, true: Certificate, height: int, view: int, block_hash: bytes
) -> Certificate:
    """A true certificate made to say something else: about a place below `view` at `height`."""
    below = max(view - 1, 0)
    replace = msgspec.structs.replace
    style = chance.randrange(6)
    if style == 0:
        return replace(true, height=height, view=below)
    if style == 1:
        return replace(true, height=height, view=min(true.view, below), block_hash=block_hash)
    if style == 2:
        kept = true.signatures[: max(len(true.signatures) - 1, 0)]
        return replace(true, height=height, view=min(true.view, below), signatures=kept)
    if style == 3:
        first = true.signatures[:1]
        return replace(true, height=height, signatures=first * len(true.signatures))
    if style == 4:
        return replace(true, height=height, phase=int(Phase.COMMIT))
    return replace(true, view=view, height=height)


def spoilt(
    chance: random.Random,
    true: Justification,
    certificates: Sequence[Certificate],
    groups: Sequence[Sequence[str]],
) -> Justification:
    """A justification that should be refused, though much of it is true."""
    replace = msgspec.structs.replace
    entries = true.view_changes
    style = chance.randrange(6)
    if style == 0:
        # Its claims without their proof: a fresh block would be allowed.
        return replace(true, prepared=None)
    if style == 1:
        # One group is short by one; the total may still look enough.
        group = chance.choice(groups)
        present = [entry for entry in entries if entry.signer in group]
        return replace(true, view_changes=tuple(e for e in entries if e not in present[:1]))
    if style == 2:
        # One group is missing.
        group = chance.choice(groups)
        return replace(true, view_changes=tuple(e for e in entries if e.signer not in group))
    if style == 3:
        return replace(true, view_changes=entries[:1] * len(entries))
    if style == 4 and certificates:
        # The proof of a lower claim, or of one at another height.
        return replace(true, prepared=chance.choice(certificates))
    # What others claimed is made unsaid.
    return Justification(
        tuple(ViewChangeSignature(e.signer, None, e.signature) for e in entries), None
    )


def unasked(host: "Host", height: int, view: int) -> Justification:
    """A reason for a view that nobody has asked for: all signatures are the forger's own."""
    chain_id = host.world.genesis.chain_id
    entries = tuple(
        ViewChangeSignature(
            voter, None, host.key.sign(view_change_digest(chain_id, voter, height, view, None))
        )
        for voter in sorted(host.running.chain.committee.by_id)
    )
    return Justification(entries, None)


def relabelled(claim: PreparedClaim, true: Certificate) -> Certificate:
    """A true certificate that says to be the proof of a claim."""
    return msgspec.structs.replace(true, view=claim.view, block_hash=claim.block_hash)
