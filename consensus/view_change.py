"""The rules of a new view: what its primary may propose, and what a voter accepts from it.

OSDI'99 section 4.4, with a justification inside the PRE-PREPARE instead of a NEW-VIEW message, as
in Moniz, "The Istanbul BFT Consensus Algorithm" (2020). Pure functions of their arguments.

Why this keeps agreement, with one class of voters within its bound f and any number of liars in the
others (docs/ARCHITECTURE.md section 4 has the argument in full). Call that class c.

* Two quorums have q voters of c each, and 2q - n > f: they share a correct voter of c. Nothing
  below asks anything of another class.
* So one block at most is prepared in a view: a correct voter of c would have sent PREPARE for both.
* A block B decided in view u has COMMITs of a quorum. Take any later view w in which some quorum
  prepares a block: a correct voter of c accepted a justification there, a quorum of VIEW-CHANGEs
  for w. This shares a correct voter r of c with those COMMITs. r sent its COMMIT before it left u,
  and its VIEW-CHANGE names what its latest COMMIT rests on: a claim of view u or later.
* The highest claim of the justification is therefore of a view x with u <= x < w, and its
  certificate is checked, so its block was prepared in x. By induction over the views that is B, and
  `check_proposal` lets nothing else pass in w.

A claim without its certificate, a lower claim than the highest, a fresh block in spite of claims:
each would break the last step, and each is a mutant that the simulator must find
(`claim-unproven`, `lowest-claim`, `claim-ignored` in simulations/mutations.toml) and a run of the
model that must fork. A block proposed again keeps its header, and with it the view of its first
proposal and its hash: else it would be another block, and the induction would end there.

Why it lets work go on: a voter's own lock is never a reason to refuse. What the justification says
is accepted by all correct voters alike, so nobody has to wait for somebody else's lock.
"""

from collections.abc import Sequence

from consensus.certificates import SignatureCache, check_justification
from consensus.committee import Committee
from consensus.messages import (
    Certificate,
    Justification,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    ViewChangeSignature,
    claim_of,
)
from primitives.block import BlockHeader


class ProposalError(ValueError):
    """A PRE-PREPARE may not propose what it does; the message is the exact reason."""


def justify(
    view_changes: Sequence[tuple[Signed, ViewChange]], committee: Committee
) -> Justification | None:
    """Make the justification of a new view, or None while these VIEW-CHANGEs are no quorum.

    They are all for that view, sorted by signer, and their certificates have been checked.
    """
    if not committee.is_quorum(signed.signer for signed, _ in view_changes):
        return None
    entries: list[ViewChangeSignature] = []
    best: Certificate | None = None
    for signed, message in view_changes:
        prepared = message.prepared
        entries.append(ViewChangeSignature(signed.signer, claim_of(prepared), signed.signature))
        if prepared is not None and (best is None or prepared.view > best.view):
            best = prepared
    return Justification(tuple(entries), best)


def check_proposal(
    message: PrePrepare,
    primary: str,
    chain_id: bytes,
    head: BlockHeader,
    committee: Committee,
    signatures: SignatureCache,
) -> PreparedClaim | None:
    """Check that the view may start and may propose this block; return the claim it repeats.

    OSDI'99 sections 4.2 and 4.4; the caller knows that `primary` is the view's and has signed. What
    the block's header says of its content is the ledger's to check, after this. Raises
    CertificateError for the justification, ProposalError for the rest.
    """
    header = message.block.header
    if header.chain_id != chain_id:
        raise ProposalError("the block is of another chain")
    if header.height != message.height or header.parent_hash != head.hash():
        raise ProposalError("the block does not extend our head")
    claim = None
    if message.justification is not None:
        claim = check_justification(
            message.justification,
            message.height,
            message.view,
            chain_id,
            committee,
            signatures,
        )
    if (message.justification is None) != (message.view == 0):
        raise ProposalError("a justification belongs to every view but 0")
    if claim is None:
        # Whose turn a block was is counted from its header, so a fresh one must tell the truth.
        if header.view != message.view or header.proposer != primary:
            raise ProposalError("a fresh block must name this view and this primary")
    elif message.block.hash != claim.block_hash or header.view > claim.view:
        raise ProposalError("the block is not the one that the view change obliges to")
    return claim
