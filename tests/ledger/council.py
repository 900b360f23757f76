"""A ledger whose members report each other, vote on changes and rotate keys."""

from collections.abc import Sequence
from typing import Any

import msgspec

from consensus.committee import QuorumRule
from consensus.evidence import Evidence, evidence_of
from consensus.messages import Commit, Message, Prepare, ViewChange, sign
from ledger.changes import Change, Join, RotateKey, possession_digest
from ledger.operations import ApproveChange, Operation, ProposeChange, ReportMisbehaviour, Revoke
from ledger.receipts import ReceiptCode
from ledger.standing import Standing, known_proposal, proposal_id, standing_of
from ledger.state import members
from primitives.institution import Institution
from primitives.keys import PrivateKey
from tests.ledger.world import World, institution, key_of

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


class Council(World):
    """A world with shorter ways to say what members do about members."""

    def __init__(
        self,
        institutions: Sequence[Institution] | None = None,
        quorum: QuorumRule = "per_class",
        **settings: int,
    ) -> None:
        super().__init__(institutions, quorum, **settings)
        self._joined = 100

    @property
    def height(self) -> int:
        """That is decided next."""
        return self.head.height + 1

    @property
    def standing(self) -> Standing:
        return standing_of(self.store)

    @property
    def voters(self) -> list[str]:
        return [voter.id for voter in self.committee.voters]

    @property
    def members(self) -> dict[str, Institution]:
        return {member.id: member for member in members(self.store)}

    def member(self, id: str) -> Institution:
        return self.members[id]

    def say(self, author: str, *operations: Operation, view: int = 0) -> ReceiptCode:
        """One block with one transaction of a member; returns its code."""
        transaction = self.transaction(self.key_of(author), *operations)
        (code,) = self.run(transaction, view=view, batch_author=self._sealer)
        return code

    def pass_block(self, view: int = 0) -> None:
        """A block that changes nothing by its transactions."""
        assert self.say(self._sealer, Revoke(bytes(32)), view=view) is ReceiptCode.UNKNOWN_GRANT

    @property
    def _sealer(self) -> str:
        """Some member that is still there: batches need an author."""
        return next(iter(self.members))

    def newcomer(self, id: str) -> tuple[Join, PrivateKey]:
        """A member to be, with its key."""
        self._joined += 1
        new = institution(id, self._joined)
        key = key_of(id)
        return Join(new, key.sign(possession_digest(self.chain_id, new))), key

    def rotation(self, id: str, key: PrivateKey) -> RotateKey:
        renewed = msgspec.structs.replace(self.member(id), key=key.public)
        return RotateKey(id, key.public, key.sign(possession_digest(self.chain_id, renewed)))

    def propose(self, author: str, change: Change, notice: int = 2) -> bytes:
        """Propose in a block of its own, and return the proposal's id."""
        operation = ProposeChange(change, self.height + notice)
        transaction = self.transaction(self.key_of(author), operation)
        (code,) = self.run(transaction, batch_author=self._sealer)
        assert code is ReceiptCode.OK, code.name
        return proposal_id(transaction.id, 0)

    def approve(self, proposal: bytes, *voters: str) -> list[ReceiptCode]:
        """Approve in one block."""
        approvals = [
            self.transaction(self.key_of(name), ApproveChange(proposal)) for name in voters
        ]
        return self.run(*approvals, batch_author=self._sealer)

    def vote(self, change: Change, voters: Sequence[str] | None = None) -> bytes:
        """Propose and approve a change, so that the next height is the first that it holds for."""
        names = self.voters if voters is None else voters
        proposal = self.propose(names[0], change)
        self.approve(proposal, *names[1:])
        return proposal

    def outcome(self, proposal: bytes) -> int:
        return known_proposal(self.store, proposal).outcome

    def rotate(self, id: str, key: PrivateKey) -> None:
        """Vote a new key in."""
        self.vote(self.rotation(id, key))
        self.keys[id] = key

    def contradiction(self, id: str, height: int | None = None) -> Evidence:
        """Two PREPAREs of a voter in one view."""
        return self.contradict(
            id, Prepare(height or self.height, 0, ONE), Prepare(height or self.height, 0, TWO)
        )

    def contradict(self, id: str, first: Message, second: Message) -> Evidence:
        key = self.key_of(id)
        signed = [sign(self.chain_id, id, key, message) for message in (first, second)]
        return evidence_of(*signed)

    def report(self, reporter: str, evidence: Evidence) -> ReceiptCode:
        return self.say(reporter, ReportMisbehaviour(evidence))


def hidden_commit(height: int) -> tuple[Message, Message]:
    """A COMMIT, and a VIEW-CHANGE that says nothing of it."""
    return Commit(height, 1, ONE), ViewChange(height, 3, None)


def altered(value: Any, **fields: Any) -> Any:
    """A copy of a struct with other fields."""
    return msgspec.structs.replace(value, **fields)
