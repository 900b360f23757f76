"""Changing the membership by vote: proposals, approvals, and what happens when their height comes.

docs/ARCHITECTURE.md section 3. A member proposes a change with the height at which it takes effect;
voters approve. At the end of the block below that height the votes are counted, by the committee as
it then is, with the same quorum rule as for blocks: a quorum of every voting class. The change is
checked once more against what has become of the membership meanwhile, and takes effect or is void.
So nothing that anyone approved can surprise a later committee, and a proposal never stays open.

No change may leave a voting class without a voter or the ledger without a recorder: a quorum of
nobody would decide everything.
"""

from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from consensus.committee import VOTERS_MAX, Committee
from ledger.changes import (
    Change,
    ChangeType,
    Join,
    Leave,
    Reinstate,
    Relocate,
    RotateKey,
    possession_digest,
    subject_of,
)
from ledger.committee import voters_at, voters_of
from ledger.operations import ApproveChange, InstitutionParty, ProposeChange
from ledger.receipts import ReceiptCode
from ledger.standing import (
    EFFECTIVE,
    PENDING,
    PROPOSALS_KEY,
    PROPOSALS_OPEN_MAX,
    STANDING_KEY,
    VOID,
    KeyOwner,
    Offence,
    Proposal,
    Proposals,
    known_proposal,
    offence_of,
    owner_key,
    owner_of,
    proposal_id,
    proposal_key,
    proposal_of,
    proposals_of,
    standing_of,
    suspended_in,
    with_offence,
)
from ledger.state import (
    INSTITUTIONS_MAX,
    MEMBERS_KEY,
    Member,
    Members,
    Overlay,
    chain_head,
    chain_key,
    institution_chain,
    members,
    new_chain,
    person_id,
)
from primitives.institution import Institution, InstitutionError, check_institution
from primitives.keys import verify

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.rules import Situation

PROPOSALS_OF_ONE_MAX: Final = 8
"""Open proposals of one member."""
NOTICE_HEIGHTS_MAX: Final = 100_000
"""How far ahead a change may be proposed."""
OK: Final = ReceiptCode.OK


def propose_change(
    operation: ProposeChange, index: int, now: "Situation", state: Overlay
) -> ReceiptCode:
    """Section 3: a member proposes; if it votes, that is its approval as well."""
    if not isinstance(now.author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    notice = operation.effective_height - now.height
    if not 2 <= notice <= NOTICE_HEIGHTS_MAX:
        return ReceiptCode.BAD_EFFECTIVE_HEIGHT
    proposals = proposals_of(state)
    mine = sum(known_proposal(state, id).proposer == now.author.id for id in proposals.pending)
    if len(proposals.pending) >= PROPOSALS_OPEN_MAX or mine >= PROPOSALS_OF_ONE_MAX:
        return ReceiptCode.TOO_MANY_PROPOSALS
    code = _fault(operation.change, state, now.genesis)
    if code is not OK:
        return code
    id = proposal_id(now.transaction, index)
    proposal = Proposal(
        change=operation.change,
        proposer=now.author.id,
        height=now.height,
        effective_height=operation.effective_height,
        approvals=(now.author.id,) if now.author.id in now.committee.by_id else (),
        outcome=PENDING,
        previous=proposals.latest,
    )
    state.write(proposal_key(id), proposal)
    state.write(PROPOSALS_KEY, Proposals((*proposals.pending, id), id))
    return OK


def approve_change(operation: ApproveChange, now: "Situation", state: Overlay) -> ReceiptCode:
    """Section 3: a voter approves; whether enough did is counted when the height comes."""
    if not isinstance(now.author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    proposal = proposal_of(state, operation.proposal)
    if proposal is None:
        return ReceiptCode.UNKNOWN_PROPOSAL
    if proposal.outcome != PENDING:
        return ReceiptCode.PROPOSAL_CLOSED
    if now.author.id not in now.committee.by_id:
        return ReceiptCode.NOT_A_VOTER
    if now.author.id in proposal.approvals:
        return ReceiptCode.ALREADY_APPROVED
    if len(proposal.approvals) == VOTERS_MAX:
        # Approvals of former voters stay listed; so many changes never wait for one proposal.
        return ReceiptCode.COMMITTEE_TOO_LARGE
    approvals = (*proposal.approvals, now.author.id)
    approved = msgspec.structs.replace(proposal, approvals=approvals)
    state.write(proposal_key(operation.proposal), approved)
    return OK


def settle_changes(height: int, state: Overlay, genesis: "Genesis") -> None:
    """Let the changes whose height is the one after `height` take effect, or be void."""
    proposals = proposals_of(state)
    due = [
        (id, proposal)
        for id in proposals.pending
        if (proposal := known_proposal(state, id)).effective_height == height + 1
    ]
    if not due:
        return
    voters = voters_at(state, genesis)
    committee = Committee(voters, tuple(voter.id for voter in voters if voter.proposes))
    for id, proposal in due:
        takes_effect = (
            committee.is_quorum(proposal.approvals)
            and _fault(proposal.change, state, genesis) is OK
        )
        if takes_effect:
            _apply(proposal.change, height, state)
        outcome = EFFECTIVE if takes_effect else VOID
        state.write(proposal_key(id), msgspec.structs.replace(proposal, outcome=outcome))
    closed = [id for id, _ in due]
    pending = tuple(id for id in proposals.pending if id not in closed)
    state.write(PROPOSALS_KEY, Proposals(pending, proposals.latest))


def changed(change: Change, member: Institution | None) -> Institution | None:
    """Return the member as it is after a change, None once it has left; `member` is as it was."""
    match change:
        case Join(institution):
            return institution
        case Leave():
            return None
        case _ if member is None:
            return None
        case ChangeType(_, kind):
            return msgspec.structs.replace(member, type=kind)
        case RotateKey(_, key):
            return msgspec.structs.replace(member, key=key)
        case Relocate(_, address):
            return msgspec.structs.replace(member, address=address)
        case Reinstate():
            return member
        case _:
            assert_never(change)


def _fault(change: Change, state: Overlay, genesis: "Genesis") -> ReceiptCode:
    """Say why a change is not possible as things are; OK if it is."""
    present = {member.id: member for member in members(state)}
    id = subject_of(change)
    before = present.get(id)
    if (before is None) != isinstance(change, Join):
        return ReceiptCode.UNKNOWN_MEMBER if before is None else ReceiptCode.CHANGE_CONFLICTS
    after = changed(change, before)
    if isinstance(change, Reinstate):
        offence = offence_of(standing_of(state), id)
        stands = offence is not None and offence.evidence is not None
        return OK if stands else ReceiptCode.CHANGE_CONFLICTS
    if after == before:
        return ReceiptCode.CHANGE_CONFLICTS
    if after is not None:
        code = _fault_of_fields(change, after, present, state, genesis)
        if code is not OK:
            return code
    return _fault_of_classes(id, after, present, state, genesis)


def _fault_of_fields(
    change: Change,
    after: Institution,
    present: dict[str, Institution],
    state: Overlay,
    genesis: "Genesis",
) -> ReceiptCode:
    """Check the institution that a change would list."""
    try:
        check_institution(after)
    except InstitutionError:
        return ReceiptCode.CHANGE_INVALID
    others = [member for member in present.values() if member.id != after.id]
    if any(after.address == other.address or after.lei == other.lei for other in others):
        return ReceiptCode.CHANGE_CONFLICTS
    if isinstance(change, Join) and chain_head(state, institution_chain(after.id)) is not None:
        return ReceiptCode.CHANGE_CONFLICTS
    if isinstance(change, Join | RotateKey):
        # One key is one author for ever.
        if owner_of(state, after.key) or chain_head(state, person_id(after.key)):
            return ReceiptCode.CHANGE_CONFLICTS
        signed = possession_digest(genesis.chain_id, after)
        if not verify(after.key, signed, change.possession):
            return ReceiptCode.CHANGE_INVALID
    return OK


def _fault_of_classes(
    id: str,
    after: Institution | None,
    present: dict[str, Institution],
    state: Overlay,
    genesis: "Genesis",
) -> ReceiptCode:
    """Check that every class which votes still has a voter, and the ledger a recorder."""
    later = {name: member for name, member in present.items() if name != id}
    if after is not None:
        later[id] = after
    if len(later) > INSTITUTIONS_MAX:
        return ReceiptCode.COMMITTEE_TOO_LARGE
    suspended = suspended_in(standing_of(state))
    groups = []
    for listed in (list(present.values()), list(later.values())):
        voters = voters_of(listed, genesis.classes, genesis.quorum, suspended)
        if len(voters) > VOTERS_MAX:
            return ReceiptCode.COMMITTEE_TOO_LARGE
        duties = {each.id: genesis.classes[each.type] for each in listed}
        groups.append({duties[voter.id] for voter in voters})
    return OK if groups[0] <= groups[1] else ReceiptCode.CLASS_WOULD_BE_EMPTY


def _apply(change: Change, height: int, state: Overlay) -> None:
    """Write what a change does."""
    id = subject_of(change)
    listed = {member.id: member for member in members(state)}
    after = changed(change, listed.pop(id, None))
    if after is not None:
        listed[id] = after
    state.write(MEMBERS_KEY, Members(tuple(listed[name] for name in sorted(listed))))
    if isinstance(change, Join | RotateKey) and after is not None:
        state.write(owner_key(after.key), KeyOwner(id))
    if isinstance(change, Join):
        state.write(chain_key(institution_chain(id)), new_chain(Member(id)))
    standing = standing_of(state)
    if isinstance(change, Reinstate):
        forgiven = Offence(id, None, suspended=False, forgiven_height=height)
        state.write(STANDING_KEY, with_offence(standing, forgiven))
    elif isinstance(change, Leave):
        kept = tuple(offence for offence in standing.offences if offence.id != id)
        state.write(STANDING_KEY, msgspec.structs.replace(standing, offences=kept))
