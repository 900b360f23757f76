"""Where this node stands: its head, the committee and members of the next height, and the replay
window.
"""

from consensus.messages import Decision
from ledger.committee import committee_at
from ledger.execution import ExecutedBlock
from ledger.genesis import Genesis
from ledger.replay import ReplayWindow
from ledger.standing import STANDING_KEY
from ledger.state import MEMBERS_KEY, members
from ledger.store import LedgerReader, WriteBlock
from node.events import Applied
from node.outbox import Outbox
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

    @property
    def next_height(self) -> int:
        """The height that is being agreed on."""
        return self.head.height + 1

    def write(self, decision: Decision, executed: ExecutedBlock) -> None:
        """Apply a decided block: ask for it to be written; `advance` follows when it is durable."""
        if self.writing is not None:
            raise RuntimeError("a second block was to be written before the first was stored")
        self.writing = WriteBlock(
            decision,
            executed.batches,
            executed.receipts,
            executed.transaction_ids,
            executed.executed,
            executed.chains,
            executed.changes,
        )
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
        return written

    def _read_committee(self) -> None:
        self.committee = committee_at(self.reader, self.genesis)
        listed = members(self.reader)
        self.members: dict[str, Institution] = {member.id: member for member in listed}
