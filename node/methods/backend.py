"""What the RPC needs from the node that it serves."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ledger.genesis import Genesis
from ledger.receipts import Receipt
from ledger.store import LedgerReader


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How the node is doing now. Hashes are hex; times of day are milliseconds since the Unix
    epoch.
    """

    institution: str
    name: str
    institution_type: str
    """`none` for an institution that is not a member yet, or no longer."""
    consensus_class: str
    """`none` likewise."""
    version: str
    chain_id: str
    height: int
    head_hash: str
    head_time_ms: int
    view: int
    primary: str | None
    """Whose turn it is at the next height, or None while the node does not take part."""
    peers: tuple[str, ...]
    """Ids of the institutions connected now, sorted."""
    pending_batches: int
    pending_transactions: int
    syncing: bool
    """Whether the node knows that it lacks decided blocks."""
    abstaining: bool
    """Whether the node does not vote, because its database may be a restored backup."""
    uptime_ms: int
    counters: dict[str, int]
    """Counts since the start, by name."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other member, as this node has met it since it started."""

    institution: str
    name: str
    connected: bool
    paused: bool
    """Whether it is not read now, because it sends more than its share."""
    waiting_messages: int
    """Messages of it that wait for their turn."""
    waiting_bytes: int
    faults: Mapping[str, int]
    """How often it did something wrong or too much, by reason (docs/operating.md)."""


@dataclass(frozen=True, slots=True)
class AppliedBlock:
    """What became of the transactions that a block lists, in its order."""

    receipts: Sequence[Receipt]
    executed: Sequence[int]
    """Indexes of those that ran in this block."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the node takes of its machine."""

    memory_bytes: int
    """Resident memory of the process."""
    database_bytes: int
    """The database with its log, on disk."""


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """What became of one submitted transaction: accepted under an id (also if it was known), or
    refused with a sentence.
    """

    id: bytes | None
    refused: str | None = None


class Reader(LedgerReader, Protocol):
    """A reader of the node's own disk that can hold still while a proof is made."""

    def snapshot(self) -> AbstractContextManager[object]:
        """While the block runs, all reads see the ledger as it was at its start."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class Backend(Protocol):
    """The node as the RPC sees it."""

    @property
    def genesis(self) -> Genesis:
        """The genesis of the ledger."""
        ...

    def status(self) -> NodeStatus:
        """Answered from memory, at any time."""
        ...

    def peers(self) -> tuple[PeerStatus, ...]:
        """All other members, sorted by id. Answered from memory."""
        ...

    def resources(self) -> Resources:
        """Asked of the operating system."""
        ...

    def reader(self) -> Reader:
        """Open a reader for the RPC alone. It is called, used and closed in one thread, which is
        not the event loop's.
        """
        ...

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitOutcome]:
        """Check and take transactions, one outcome each in the order given.

        Signatures are checked off the loop. A full queue refuses with a sentence that says to try
        again; a transaction already known is accepted under its id. Never cancelled by the RPC.
        """
        ...

    async def applied(self, above: int) -> int:
        """Wait until the head is higher than `above`; the head's height, whose block every reader
        then sees.
        """
        ...

    def recent(self, height: int) -> AppliedBlock | None:
        """What became of the transactions of a block, if that is one of the last few."""
        ...
