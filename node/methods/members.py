"""Methods about the membership: who is in it, who votes, whose turn comes, what is proposed."""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from consensus.committee import Committee
from ledger.committee import committee_at
from ledger.genesis import Genesis
from ledger.standing import (
    EFFECTIVE,
    PENDING,
    Proposal,
    Standing,
    known_proposal,
    offence_of,
    proposal_of,
    proposals_of,
    standing_of,
)
from ledger.state import members
from ledger.store import StateReader
from node.jsonrpc import ErrorCode, RpcError
from node.methods.backend import Reader
from node.methods.governance_views import ChangeView, change_view
from node.methods.reads import ById, NoParams
from node.methods.service import Service
from node.methods.view import View
from node.methods.views import Params
from primitives.institution import Institution

PROPOSALS_SHOWN_MAX: Final = 200


class MemberView(View, frozen=True):
    """A member, and what it may do at the next height."""

    id: str
    name: str
    type: str
    consensus_class: str
    region: str
    lei: str
    key: str
    address: str
    votes: bool
    takes_turns: bool
    """Whether its turn to propose may come."""
    missed_turns: int
    """Turns that passed without a block of it, less one for each block that it proposed since."""
    suspended: bool
    """Whether evidence has cost it its vote, until it is reinstated."""
    passed_over_until: int | None = None
    """The last height at which a recorder that missed its turn is passed over."""
    evidence: str | None = None
    """The id of the evidence that stands against it."""


class MembersView(View, frozen=True):
    """The members, sorted by id, as of the height that is being agreed on."""

    height: int
    members: tuple[MemberView, ...]


class ProposalList(Params, frozen=True):
    """Open proposals; with `closed` the newest of all, open or not."""

    closed: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=PROPOSALS_SHOWN_MAX)] = 50


class LackView(View, frozen=True):
    """What a voting class still lacks of its quorum."""

    voting_class: str
    approved: int
    needed: int


class ProposalView(View, frozen=True):
    """A proposed change. `outcome` is pending, effective or void."""

    id: str
    change: ChangeView
    proposer: str
    height: int
    """Of the block that took it."""
    effective_height: int
    """The first height that the changed committee decides."""
    approvals: tuple[str, ...]
    outcome: str
    quorums: tuple[LackView, ...]
    """For a pending proposal: the approvals of present voters, and how many make a quorum."""


class ProposalsView(View, frozen=True):
    """Proposals, newest first."""

    head_height: int
    proposals: tuple[ProposalView, ...]


async def member_list(service: Service, _: NoParams) -> MembersView:
    """The members with their votes and turns at the next height."""
    return await service.read(_members, service.backend.genesis)


async def proposal_list(service: Service, params: ProposalList) -> ProposalsView:
    """Changes of the membership that wait for approval or for their height."""
    return await service.read(_proposals, service.backend.genesis, params)


async def proposal_get(service: Service, params: ById) -> ProposalView:
    """One proposal, open or not."""
    return await service.read(_proposal, service.backend.genesis, bytes.fromhex(params.id))


def _members(reader: Reader, genesis: Genesis) -> MembersView:
    with reader.snapshot():
        committee, standing = committee_at(reader, genesis), standing_of(reader)
        found = tuple(_member(each, committee, standing, genesis) for each in members(reader))
        return MembersView((reader.head_height() or 0) + 1, found)


def _member(
    member: Institution, committee: Committee, standing: Standing, genesis: Genesis
) -> MemberView:
    bench = next((bench for bench in standing.benches if bench.id == member.id), None)
    offence = offence_of(standing, member.id)
    takes_turns = member.id in committee.roster
    evidence = None if offence is None else offence.evidence
    return MemberView(
        id=member.id,
        name=member.name,
        type=member.type,
        consensus_class=genesis.classes[member.type].value,
        region=member.region,
        lei=member.lei,
        key=member.key.hex(),
        address=member.address,
        votes=member.id in committee.by_id,
        takes_turns=takes_turns,
        missed_turns=0 if bench is None else bench.misses,
        suspended=offence is not None and offence.suspended,
        passed_over_until=None if bench is None or takes_turns else bench.until_height,
        evidence=None if evidence is None else evidence.hex(),
    )


def _proposals(reader: Reader, genesis: Genesis, params: ProposalList) -> ProposalsView:
    with reader.snapshot():
        committee = committee_at(reader, genesis)
        found = []
        for id, proposal in _newest_first(reader, params.closed):
            found.append(_view(id, proposal, committee))
            if len(found) == params.limit:
                break
        return ProposalsView(reader.head_height() or 0, tuple(found))


def _newest_first(state: StateReader, closed: bool) -> Iterator[tuple[bytes, Proposal]]:
    listed = proposals_of(state)
    if not closed:
        for id in reversed(listed.pending):
            yield id, known_proposal(state, id)
        return
    latest = listed.latest
    while latest is not None:
        proposal = known_proposal(state, latest)
        yield latest, proposal
        latest = proposal.previous


def _proposal(reader: Reader, genesis: Genesis, id: bytes) -> ProposalView:
    with reader.snapshot():
        proposal = proposal_of(reader, id)
        if proposal is None:
            raise RpcError(ErrorCode.NOT_FOUND, f"There is no proposal {id.hex()} on this ledger.")
        return _view(id, proposal, committee_at(reader, genesis))


def _view(id: bytes, proposal: Proposal, committee: Committee) -> ProposalView:
    quorums = []
    if proposal.outcome == PENDING:
        voters = [committee.by_id[name] for name in proposal.approvals if name in committee.by_id]
        for group, needed in committee.quorum_sizes.items():
            approved = sum(voter.group == group for voter in voters)
            quorums.append(LackView(group, approved, needed))
    closed = "effective" if proposal.outcome == EFFECTIVE else "void"
    return ProposalView(
        id=id.hex(),
        change=change_view(proposal.change),
        proposer=proposal.proposer,
        height=proposal.height,
        effective_height=proposal.effective_height,
        approvals=proposal.approvals,
        outcome="pending" if proposal.outcome == PENDING else closed,
        quorums=tuple(quorums),
    )
