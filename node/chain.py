"""Where this node stands: its head, the committee and members of the next height, and the replay
window.
"""

from collections.abc import Iterable, Sequence

from consensus.certificates import (
    CertificateError,
    SignatureCache,
    Verified,
    check_certificate,
)
from consensus.committee import Committee
from consensus.messages import Decision, Phase
from ledger.changes import Join
from ledger.committee import committee_at
from ledger.execution import ExecutedBlock, check_block, execute_block
from ledger.genesis import Genesis
from ledger.replay import ReplayWindow
from ledger.standing import STANDING_KEY, known_proposal, proposals_of
from ledger.state import MEMBERS_KEY, members
from ledger.store import LedgerReader, StateReader, WriteBlock
from ledger.transactions import CheckedBatch
from node.events import Admit, Applied
from node.outbox import Outbox
from primitives.block import Block
from primitives.institution import Institution


class Chain:
    """The applied part of the ledger, as the core's parts see it. The reader always shows the state
    of `head`.
    """

    def __init__(
        self, genesis: Genesis, reader: LedgerReader, replay: ReplayWindow, outbox: Outbox
    ) -> None:
        height = reader.head_height()
        header = None if height is None else reader.header(height)
        if header is None:
            raise ValueError("the store holds no genesis block yet")
        self.genesis = genesis
        self.reader = reader
        self.replay = replay
        self.head = header
        self.head_hash = header.hash()
        self.writing: WriteBlock | None = None
        self._outbox = outbox
        self._read_committee()
        self.admitted = admitted_at(reader, self.members.values(), self.committee)
        """With whom messages are exchanged."""

    @property
    def next_height(self) -> int:
        """The height that is being agreed on."""
        return self.head.height + 1

    def lists(self, id: str, key: bytes) -> bool:
        """Whether this is a member's present key: then it may act as that member."""
        member = self.members.get(id)
        return member is not None and member.key == key

    def execute(
        self, view: int, proposer: str, time_ms: int, batches: Sequence[CheckedBatch]
    ) -> ExecutedBlock:
        """Execute a block of ours, or of another that has drafted it. Raises BlockError."""
        self._count(batches)
        return execute_block(
            self.head, view, proposer, time_ms, batches, self.reader, self.replay, self.genesis
        )

    def check(self, block: Block, batches: Sequence[CheckedBatch]) -> ExecutedBlock:
        """Execute a block and demand exactly its header. Raises BlockError."""
        self._count(batches)
        return check_block(block, self.head, batches, self.reader, self.replay, self.genesis)

    def _count(self, batches: Sequence[CheckedBatch]) -> None:
        """What is executed takes most of a node's time."""
        self._outbox.counters["blocks_executed"] += 1
        count = sum(len(batch.transactions) for batch in batches)
        self._outbox.counters["transactions_executed"] += count

    def proves(
        self, decision: Decision, verified: Iterable[Verified], signatures: SignatureCache
    ) -> bool:
        """Whether the committee of the next height has decided this block, if it is of that height,
        by its certificate; `verified` are signatures in it that were found to verify.
        """
        header, certificate = decision.block.header, decision.certificate
        if (certificate.height, certificate.block_hash) != (header.height, header.hash()):
            return False
        for vote in verified:
            signatures.remember(*vote)
        chain_id = self.genesis.chain_id
        try:
            check_certificate(certificate, Phase.COMMIT, chain_id, self.committee, signatures)
        except CertificateError:
            return False
        return True

    def write(self, decision: Decision, executed: ExecutedBlock) -> None:
        """Apply a decided block: ask for it to be written; `advance` follows when it is durable."""
        if self.writing is not None:
            raise RuntimeError("a second block was to be written before the first was stored")
        self.writing = executed.write(decision)
        self._outbox.add(self.writing)

    def advance(self) -> WriteBlock:
        """The block is durable and the reader shows it: it is the head now."""
        written, self.writing = self.writing, None
        if written is None:
            raise RuntimeError("no block was being written")
        self.head = written.decision.block.header
        self.head_hash = written.decision.certificate.block_hash
        executed = [written.transaction_ids[index] for index in written.executed]
        sequences = [(batch.author, batch.sequence) for batch in written.batches]
        self.replay.add(self.head.height, executed, sequences)
        if not written.changes.values.keys().isdisjoint((MEMBERS_KEY, STANDING_KEY)):
            self._read_committee()
        self._outbox.add(Applied(self.head, written))
        self._admit()
        return written

    def _admit(self) -> None:
        """Say with whom messages are exchanged, where that has changed."""
        admitted = admitted_at(self.reader, self.members.values(), self.committee)
        if admitted != self.admitted:
            self.admitted = admitted
            self._outbox.add(Admit(admitted))

    def _read_committee(self) -> None:
        self.committee = committee_at(self.reader, self.genesis)
        listed = members(self.reader)
        self.members: dict[str, Institution] = {member.id: member for member in listed}


def admitted_at(
    state: StateReader, members: Iterable[Institution], committee: Committee
) -> tuple[Institution, ...]:
    """Return the members, and whoever enough voters have approved to join: it may catch up."""
    admitted = {member.id: member for member in members}
    for id in proposals_of(state).pending:
        proposal = known_proposal(state, id)
        if isinstance(proposal.change, Join) and committee.is_quorum(proposal.approvals):
            joining = proposal.change.institution
            admitted.setdefault(joining.id, joining)
    return tuple(admitted.values())
