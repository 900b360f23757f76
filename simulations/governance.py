"""What the ledger must say about members, votes and turns, worked out again from their meaning.

The counterpart of simulations/model.py for evidence, changes of the membership and benching: over
plain dictionaries, apart from the ledger's own code, and in the simplest way that is right.
"""

from dataclasses import dataclass, field
from typing import assert_never

from msgspec.structs import replace

from consensus.committee import POOL, Committee, Voter
from consensus.evidence import EvidenceError, check_evidence
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
from ledger.genesis import Genesis
from ledger.operations import ApproveChange, ProposeChange, ReportMisbehaviour
from ledger.receipts import ReceiptCode
from ledger.standing import proposal_id
from primitives.institution import ConsensusClass, Institution, InstitutionError, check_institution
from primitives.keys import verify

Governing = ReportMisbehaviour | ProposeChange | ApproveChange


@dataclass(slots=True)
class _Bench:
    misses: int
    until: int


@dataclass(slots=True)
class _Suit:
    """What stands against a member."""

    accused: bool
    suspended: bool
    forgiven: int


@dataclass(slots=True)
class _Motion:
    change: Change
    proposer: str
    due: int
    approvals: list[str]
    closed: bool = False

    def copy(self) -> "_Motion":
        return _Motion(self.change, self.proposer, self.due, [*self.approvals], self.closed)


@dataclass(slots=True)
class Government:
    """Who is a member, who votes, whose turn it is; `finish` ends a block."""

    genesis: Genesis
    members: dict[str, Institution]
    keys: dict[bytes, str]
    """Every node key that any member ever had."""
    ids: dict[str, None]
    """Every id that was ever a member's."""
    reserved: dict[bytes, str] = field(default_factory=dict)
    """Every key that was ever proposed, with the id that it was proposed for."""
    deciding: list[str] = field(default_factory=list)
    """The voters of the height that is being run, and so of the whole block."""
    turns: list[str] = field(default_factory=list)
    """The recorders in turn at that height."""
    benches: dict[str, _Bench] = field(default_factory=dict)
    suits: dict[str, _Suit] = field(default_factory=dict)
    persons: dict[bytes, bytes] = field(default_factory=dict)
    """Person ids by key, as the model of the other operations has them."""
    motions: dict[bytes, _Motion] = field(default_factory=dict)

    @classmethod
    def found(cls, genesis: Genesis) -> "Government":
        """The state of affairs at genesis."""
        members = {member.id: member for member in genesis.institutions}
        keys = {member.key: member.id for member in genesis.institutions}
        first = cls(genesis, members, keys, dict.fromkeys(members))
        first._draw(1)
        return first

    def copy(self) -> "Government":
        """As it is now, to come back to."""
        return Government(
            self.genesis,
            dict(self.members),
            dict(self.keys),
            dict(self.ids),
            dict(self.reserved),
            [*self.deciding],
            [*self.turns],
            {id: _Bench(bench.misses, bench.until) for id, bench in self.benches.items()},
            {id: _Suit(s.accused, s.suspended, s.forgiven) for id, s in self.suits.items()},
            self.persons,
            {id: motion.copy() for id, motion in self.motions.items()},
        )

    # ---- committees ------------------------------------------------------------------------------

    def duty(self, member: Institution) -> ConsensusClass:
        """The class of a member."""
        return self.genesis.classes[member.type]

    def voters(self) -> list[str]:
        """Who votes as things are, sorted."""
        return [
            id
            for id in sorted(self.members)
            if not (id in self.suits and self.suits[id].suspended)
            and (
                self.genesis.quorum == "flat"
                or self.duty(self.members[id]) is not ConsensusClass.OBSERVER
            )
        ]

    def groups(self, voters: list[str]) -> list[list[str]]:
        """The voters as the quorum rule counts them."""
        if self.genesis.quorum != "per_class":
            return [voters]
        duties = [ConsensusClass.RECORDER, ConsensusClass.AUDITOR]
        found = [[id for id in voters if self.duty(self.members[id]) is duty] for duty in duties]
        return [group for group in found if group]

    def committee(self) -> Committee:
        """Who decides the next block."""
        pooled = self.genesis.quorum != "per_class"
        voters = []
        for id in self.deciding:
            member, duty = self.members[id], self.duty(self.members[id])
            group = POOL if pooled else duty.value
            voters.append(Voter(id, member.key, group, duty is ConsensusClass.RECORDER))
        return Committee(tuple(voters), tuple(self.turns))

    def _draw(self, height: int) -> None:
        """Committee and turns of `height`."""
        self.deciding = self.voters()
        recorders = [
            id for id in self.deciding if self.duty(self.members[id]) is ConsensusClass.RECORDER
        ]
        turns = [
            id for id in recorders if id not in self.benches or self.benches[id].until < height
        ]
        n = len(recorders)
        while len(turns) < (n + (n - 1) // 3) // 2 + 1:
            left = [id for id in recorders if id not in turns]
            turns.append(min(left, key=lambda id: (self.benches[id].misses, id)))
        self.turns = sorted(turns)

    # ---- the end of a block ----------------------------------------------------------------------

    def finish(self, height: int, view: int, proposer: str) -> None:
        """The block at `height`, first proposed by `proposer` in `view`, is over."""
        missed = {self.turns[(height + v) % len(self.turns)] for v in range(min(view, 1_000))}
        groups = self.groups(self.voters())
        for motion in self.motions.values():
            if not motion.closed and motion.due == height + 1:
                self._settle(motion, height, groups)
        bench = self.benches.get(proposer)
        if bench is not None:
            bench.misses -= 1
        for id in sorted(missed - {proposer}):
            misses = 1 + (self.benches[id].misses if id in self.benches else 0)
            heights = self.genesis.bench_heights_min * 2 ** (misses - 1)
            until = height + min(heights, self.genesis.bench_heights_max)
            self.benches[id] = _Bench(misses, until)
        voters = self.voters()
        self.benches = {
            id: bench
            for id, bench in self.benches.items()
            if bench.misses > 0
            and id in voters
            and self.duty(self.members[id]) is ConsensusClass.RECORDER
        }
        self._draw(height + 1)

    def _settle(self, motion: _Motion, height: int, groups: list[list[str]]) -> None:
        motion.closed = True
        for group in groups:
            present = sum(id in motion.approvals for id in group)
            if 2 * present <= len(group) + (len(group) - 1) // 3:
                return
        if self._fault(motion.change) is not ReceiptCode.OK:
            return
        change, id = motion.change, subject_of(motion.change)
        after = self._after(change)
        if after is None:
            del self.members[id]
            self.suits.pop(id, None)
        else:
            self.members[id] = after
            self.keys[after.key] = id
            self.ids[id] = None
        if isinstance(change, Reinstate):
            self.suits[id] = _Suit(accused=False, suspended=False, forgiven=height)

    # ---- operations ------------------------------------------------------------------------------

    def run(
        self,
        height: int,
        transaction: bytes,
        index: int,
        author: str,
        operation: Governing,
    ) -> ReceiptCode:
        """The code of an operation by a member."""
        match operation:
            case ReportMisbehaviour():
                return self._hear(height, operation)
            case ProposeChange(change, due):
                if not height + 2 <= due <= height + 100_000:
                    return ReceiptCode.BAD_EFFECTIVE_HEIGHT
                pending = [motion for motion in self.motions.values() if not motion.closed]
                mine = [motion for motion in pending if motion.proposer == author]
                if author in self.deciding:
                    full = len(pending) >= 64
                    share = sorted([1, 32 // len(self.deciding), 8])[1]
                else:
                    full = len(pending) >= 32
                    share = 1
                if full or len(mine) >= share:
                    return ReceiptCode.TOO_MANY_PROPOSALS
                code = self._fault(change)
                if code is ReceiptCode.OK:
                    approvals = [author] if author in self.deciding else []
                    motion = _Motion(change, author, due, approvals)
                    self.motions[proposal_id(transaction, index)] = motion
                    if isinstance(change, Join):
                        self.reserved[change.institution.key] = change.institution.id
                    if isinstance(change, RotateKey):
                        self.reserved[change.key] = change.id
                return code
            case ApproveChange(proposal):
                return self._approve(author, proposal)
            case _:
                assert_never(operation)

    def _approve(self, author: str, proposal: bytes) -> ReceiptCode:
        motion = self.motions.get(proposal)
        if motion is None:
            return ReceiptCode.UNKNOWN_PROPOSAL
        if motion.closed:
            return ReceiptCode.PROPOSAL_CLOSED
        if author not in self.deciding:
            return ReceiptCode.NOT_A_VOTER
        if author in motion.approvals:
            return ReceiptCode.ALREADY_APPROVED
        motion.approvals.append(author)
        return ReceiptCode.OK

    def _hear(self, height: int, operation: ReportMisbehaviour) -> ReceiptCode:
        evidence = operation.evidence
        id = evidence.signer
        if id not in self.members:
            return ReceiptCode.UNKNOWN_MEMBER
        suit = self.suits.get(id, _Suit(accused=False, suspended=False, forgiven=0))
        if (
            evidence.height > height
            or evidence.height < max(1, height - self.genesis.evidence_heights_max)
            or evidence.height <= suit.forgiven
        ):
            return ReceiptCode.EVIDENCE_TOO_OLD
        if suit.accused:
            return ReceiptCode.ALREADY_REPORTED
        if id not in self.deciding:
            return ReceiptCode.NOT_A_VOTER
        try:
            check_evidence(evidence, self.genesis.chain_id, self.members[id].key)
        except EvidenceError:
            return ReceiptCode.EVIDENCE_INVALID
        duty = self.duty(self.members[id])
        peers = [other for other in self.voters() if self.duty(self.members[other]) is duty]
        self.suits[id] = _Suit(True, len(peers) > 1, suit.forgiven)
        return ReceiptCode.OK

    # ---- changes ---------------------------------------------------------------------------------

    def _after(self, change: Change) -> Institution | None:
        match change:
            case Join(institution):
                return institution
            case Leave():
                return None
            case ChangeType(id, kind):
                return replace(self.members[id], type=kind)
            case RotateKey(id, key):
                return replace(self.members[id], key=key)
            case Relocate(id, address):
                return replace(self.members[id], address=address)
            case Reinstate(id):
                return self.members[id]
            case _:
                assert_never(change)

    def _fault(self, change: Change) -> ReceiptCode:
        id = subject_of(change)
        if isinstance(change, Join):
            if id in self.members:
                return ReceiptCode.CHANGE_CONFLICTS
        elif id not in self.members:
            return ReceiptCode.UNKNOWN_MEMBER
        after = self._after(change)
        later = self.copy()
        if isinstance(change, Reinstate):
            if id not in self.suits or not self.suits[id].accused:
                return ReceiptCode.CHANGE_CONFLICTS
            later.suits[id].suspended = False
        elif after == self.members.get(id):
            return ReceiptCode.CHANGE_CONFLICTS
        elif after is not None:
            code = self._fault_of_fields(change, after)
            if code is not ReceiptCode.OK:
                return code
        before = [self.duty(self.members[voter]) for voter in self.voters()]
        later.members.pop(id, None)
        if after is not None:
            later.members[id] = after
        left = [later.duty(later.members[voter]) for voter in later.voters()]
        if len(left) > 256 or len(later.members) > 1_024:
            return ReceiptCode.COMMITTEE_TOO_LARGE
        emptied = any(duty not in left for duty in before)
        return ReceiptCode.CLASS_WOULD_BE_EMPTY if emptied else ReceiptCode.OK

    def _fault_of_fields(self, change: Change, after: Institution) -> ReceiptCode:
        try:
            check_institution(after)
        except InstitutionError:
            return ReceiptCode.CHANGE_INVALID
        for other in self.members.values():
            if other.id == after.id:
                continue
            if after.address.lower() == other.address.lower() or after.lei == other.lei:
                return ReceiptCode.CHANGE_CONFLICTS
        if isinstance(change, Join) and after.id in self.ids:
            return ReceiptCode.CHANGE_CONFLICTS
        if isinstance(change, Join | RotateKey):
            another = self.reserved.get(after.key, after.id) != after.id
            if after.key in self.keys or after.key in self.persons or another:
                return ReceiptCode.CHANGE_CONFLICTS
            signed = possession_digest(self.genesis.chain_id, after)
            if not verify(after.key, signed, change.possession):
                return ReceiptCode.CHANGE_INVALID
        return ReceiptCode.OK
