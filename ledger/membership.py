"""Changing the membership by vote: proposals, approvals, and what happens when their height comes.

docs/ARCHITECTURE.md section 3. A member proposes a change with the height at which it takes effect;
voters approve. At the end of the block below that height the votes are counted, by the committee as
it then is, with the same quorum rule as for blocks: a quorum of every voting class. The change is
checked once more against what has become of the membership meanwhile, and takes effect or is void.
So nothing that anyone approved can surprise a later committee, and a proposal never stays open.

No change may leave a voting class without a voter or the ledger without a recorder: a quorum of
nobody would decide everything. Proposals are bounded so that members which fill the room for them
cannot keep the others from changing the membership (`room_of`).
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
    new_key_of,
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
"""Open proposals of one voter."""
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
    mine_max, open_max = room_of(now.author.id, now.committee)
    if mine >= mine_max or len(proposals.pending) >= open_max:
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
    new_key = new_key_of(operation.change)
    if new_key is not None:
        owner = KeyOwner(subject_of(operation.change), listed=False)
        state.write(owner_key(new_key), owner)
    return OK


def room_of(id: str, committee: Committee) -> tuple[int, int]:
    """Return how many proposals a member may have open, and up to how many of all it may add one.

    A member without a vote may have one, and all of these together half of the room. The voters
    share the other half: up to 32 of them never come into each other's way.
    """
    half = PROPOSALS_OPEN_MAX // 2
    if id not in committee.by_id:
        return 1, half
    return min(max(half // len(committee.voters), 1), PROPOSALS_OF_ONE_MAX), PROPOSALS_OPEN_MAX


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
        if offence is None or offence.evidence is None:
            return ReceiptCode.CHANGE_CONFLICTS
    elif after == before:
        return ReceiptCode.CHANGE_CONFLICTS
    if after is not None:
        code = _fault_of_fields(change, after, present, state, genesis)
        if code is not OK:
            return code
    reinstated = isinstance(change, Reinstate)
    return _fault_of_classes(id, after, reinstated, present, state, genesis)


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
    address = after.address.lower()
    if any(address == other.address.lower() or after.lei == other.lei for other in others):
        return ReceiptCode.CHANGE_CONFLICTS
    if isinstance(change, Join) and chain_head(state, institution_chain(after.id)) is not None:
        return ReceiptCode.CHANGE_CONFLICTS
    if isinstance(change, Join | RotateKey):
        # One key is one author for ever.
        owner = owner_of(state, after.key)
        taken = owner is not None and (owner.listed or owner.id != after.id)
        if taken or chain_head(state, person_id(after.key)) is not None:
            return ReceiptCode.CHANGE_CONFLICTS
        signed = possession_digest(genesis.chain_id, after)
        if not verify(after.key, signed, change.possession):
            return ReceiptCode.CHANGE_INVALID
    return OK


def _fault_of_classes(
    id: str,
    after: Institution | None,
    reinstated: bool,
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
    still_suspended = tuple(name for name in suspended if not (reinstated and name == id))
    voters = voters_of(list(later.values()), genesis.classes, genesis.quorum, still_suspended)
    if len(voters) > VOTERS_MAX:
        return ReceiptCode.COMMITTEE_TOO_LARGE
    left = [genesis.classes[later[voter.id].type] for voter in voters]
    for voter in voters_of(list(present.values()), genesis.classes, genesis.quorum, suspended):
        if genesis.classes[present[voter.id].type] not in left:
            return ReceiptCode.CLASS_WOULD_BE_EMPTY
    return OK


def _apply(change: Change, height: int, state: Overlay) -> None:
    """Write what a change does."""
    id = subject_of(change)
    listed = {member.id: member for member in members(state)}
    after = changed(change, listed.pop(id, None))
    if after is not None:
        listed[id] = after
    state.write(MEMBERS_KEY, Members(tuple(listed[name] for name in sorted(listed))))
    new_key = new_key_of(change)
    if new_key is not None:
        state.write(owner_key(new_key), KeyOwner(id, listed=True))
    if isinstance(change, Join):
        state.write(chain_key(institution_chain(id)), new_chain(Member(id)))
    standing = standing_of(state)
    if isinstance(change, Reinstate):
        forgiven = Offence(id, None, suspended=False, forgiven_height=height)
        state.write(STANDING_KEY, with_offence(standing, forgiven))
    elif isinstance(change, Leave):
        kept = tuple(offence for offence in standing.offences if offence.id != id)
        state.write(STANDING_KEY, msgspec.structs.replace(standing, offences=kept))
