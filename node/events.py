"""The line between the node's pure core and its shell: events in, effects out (docs/ARCHITECTURE.md
section 2).

The shell steps the core with one event after another and gathers the effects. All writes of the
gathered effects become durable in one transaction before any of their messages leaves. A step that
asks for a `WriteBlock` ends the gathering: the shell commits, and its next event is `BlockStored`,
so that the core's reader shows the new state.
"""

from dataclasses import dataclass

from consensus.certificates import Verified
from consensus.messages import Decision
from ledger.store import Write, WriteBlock
from ledger.transactions import CheckedBatch, CheckedTransaction
from node.wire import BlockFound, Consensus, Draft, Gossip, Head, Message, Request, Testimony
from primitives.block import BlockHeader
from primitives.institution import Institution

# ---- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """A local client's transactions, already checked."""

    transactions: tuple[CheckedTransaction, ...]


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """A batch came from a peer, unasked or asked for, and has been checked. `peer` sent it; it may
    be another's.
    """

    peer: str
    batch: CheckedBatch
    checked: bool = True
    """Whether the signatures of its transactions were checked as well: not at a member without a
    vote, which waits for a certificate to vouch for them (`read_raw_batch`)."""


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A direct message came from a peer; batches come as BatchArrived instead, and decided blocks
    as DecisionArrived.
    """

    peer: str
    message: Consensus | Head | Testimony | Draft


@dataclass(frozen=True, slots=True)
class GossipArrived:
    """An announcement by a member."""

    author: str
    gossip: Gossip


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """Messages can now be exchanged with this member."""

    peer: str


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """Messages can no longer be exchanged with this member."""

    peer: str


@dataclass(frozen=True, slots=True)
class SyncedBlock:
    """A decided block from a peer with its batches, in the block's order. Only once its certificate
    has been checked are the batches as good as checked (`read_decided_batch`).
    """

    decision: Decision
    batches: tuple[CheckedBatch, ...]
    verified: tuple[Verified, ...] = ()
    """Signatures of the certificate that were found to verify."""

    @property
    def size_bytes(self) -> int:
        """Of its bodies."""
        return len(self.decision.block.payload) + sum(len(batch.raw) for batch in self.batches)


@dataclass(frozen=True, slots=True)
class DecisionArrived:
    """A peer told us of a decided block, without its batches."""

    peer: str
    decision: Decision
    verified: tuple[Verified, ...]
    """Signatures of the certificate that were found to verify."""


@dataclass(frozen=True, slots=True)
class BlocksArrived:
    """The answer to BlocksWanted: ascending from the height asked for, without a gap."""

    peer: str
    blocks: tuple[SyncedBlock, ...]
    head_height: int


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """The answer to BlockWanted."""

    peer: str
    found: BlockFound


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request is over: answered (its content came in other events before) or failed; `invalid` if
    it failed because the answer was none to this question, or a bad one.
    """

    peer: str
    request: Request
    answered: bool
    invalid: bool = False


@dataclass(frozen=True, slots=True)
class BlockStored:
    """The WriteBlock of the last step is durable and the reader shows it."""


@dataclass(frozen=True, slots=True)
class Expired:
    """`deadline` has come."""


Event = (
    Submitted
    | BatchArrived
    | MessageArrived
    | GossipArrived
    | PeerConnected
    | PeerDisconnected
    | DecisionArrived
    | BlocksArrived
    | BlockArrived
    | RequestEnded
    | BlockStored
    | Expired
)

# ---- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send to one member, if it is connected."""

    peer: str
    message: Message


@dataclass(frozen=True, slots=True)
class Publish:
    """Announce to all members by gossip, best effort."""

    gossip: Gossip


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Ask a member; RequestEnded follows in every case."""

    peer: str
    request: Request


@dataclass(frozen=True, slots=True)
class Applied:
    """A block was applied: tell whoever waits for its receipts."""

    header: BlockHeader
    written: WriteBlock


@dataclass(frozen=True, slots=True)
class Admit:
    """Exchange messages with the nodes of these institutions and of no other from now on."""

    institutions: tuple[Institution, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator should read: an event name and facts free of personal data."""

    event: str
    facts: tuple[tuple[str, str | int], ...]


Effect = Write | SendMessage | Publish | SendRequest | Applied | Admit | Report
