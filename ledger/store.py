"""The port to durable storage: what the ledger reads, point by point, and what it has written.

Reads are synchronous and constant in size, so that the pure core can execute a block without
waiting; they see all that was written before. Writes are values: the shell gathers those of a batch
of events and commits them in one transaction (docs/ARCHITECTURE.md sections 2 and 8). SQLite in the
daemon and dictionaries in the simulator both implement `LedgerReader` and perform every `Write`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.events import Persist
from consensus.messages import Decision
from ledger.receipts import Receipt
from ledger.transactions import CheckedBatch
from primitives.block import Block, BlockHeader


class StateReader(Protocol):
    """The state map at one height: values by key, and the nodes of the trie by path."""

    def value(self, key: bytes) -> bytes | None:
        """The canonical value bytes under a key, or None."""
        ...

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """What those of `keys` hold that hold anything: many keys cost less than one by one."""
        ...

    def node(self, path: bytes) -> bytes | None:
        """The encoded trie node at a path of nibbles (one byte each), or None."""
        ...

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The nodes at those of `paths` that have one: many cost less than one by one."""
        ...


class LedgerReader(StateReader, Protocol):
    """Everything that a node reads back from its own disk."""

    def head_height(self) -> int | None:
        """Height of the newest applied block (0 is genesis), or None in an empty store."""
        ...

    def header(self, height: int) -> BlockHeader | None:
        """The header at a height; genesis has height 0."""
        ...

    def height_of(self, block_hash: bytes) -> int | None:
        """The height of an applied block."""
        ...

    def decision(self, height: int) -> Decision | None:
        """The decided block with its commit certificate; genesis has none."""
        ...

    def receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """The receipts of a block, in the order of its transactions."""
        ...

    def sequences(self, height: int) -> tuple[tuple[str, int], ...] | None:
        """Author and sequence of every batch that the block at a height lists, in its order.

        Without reading the batches: they are large. None where there is no such block or one of
        its batches is lost.
        """
        ...

    def has_batch(self, batch_id: bytes) -> bool:
        """Whether a batch is stored, decided or not, without reading it: it may have a megabyte."""
        ...

    def batch(self, batch_id: bytes) -> bytes | None:
        """The raw bytes of a stored batch, decided or not."""
        ...

    def transaction_position(self, transaction_id: bytes) -> tuple[int, int] | None:
        """(height, index in the block) of the execution of a transaction."""
        ...

    def chain_heights(self, chain_id: bytes, above: int, limit: int) -> tuple[int, ...]:
        """Up to `limit` heights above `above` whose block has entries in this chain, ascending."""
        ...

    def promises(self, height: int) -> tuple[Persist, ...]:
        """What this node has signed at a height, in the order it was written."""
        ...

    def proposal(self, block_hash: bytes) -> Block | None:
        """An undecided block stored with a promise."""
        ...

    def pending_batches(self) -> tuple[bytes, ...]:
        """Raw bytes of stored batches that no applied block lists."""
        ...


@dataclass(frozen=True, slots=True)
class StateChanges:
    """New values by key and new trie nodes by path, and the state root that they lead to.

    Nothing is ever deleted.
    """

    values: Mapping[bytes, bytes]
    nodes: Mapping[bytes, bytes]
    root: bytes


@dataclass(frozen=True, slots=True)
class WriteGenesis:
    """The first write of an empty store."""

    header: BlockHeader
    changes: StateChanges


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """Keep a batch until a block lists it or it expires."""

    batch: CheckedBatch


@dataclass(frozen=True, slots=True)
class WritePromise:
    """Keep what we have signed at a height, with the block and certificate inside the effect."""

    height: int
    promise: Persist


@dataclass(frozen=True, slots=True)
class WriteBlock:
    """Apply a decided block.

    Promises of this height and below, undecided proposals, and batches that expired are dropped in
    the same transaction.
    """

    decision: Decision
    batches: Sequence[CheckedBatch]
    receipts: Sequence[Receipt]
    transaction_ids: Sequence[bytes]
    """In block order, repetitions included."""
    executed: Sequence[int]
    """Indexes, in block order, of the transactions that ran here, with success or without: all but
    those whose code is in DID_NOT_RUN. An id is executed at most once in the life of a ledger."""
    chains: Sequence[bytes]
    """The ids of the chains (records, persons, institutions) that the block touches, sorted."""
    changes: StateChanges


Write = WriteGenesis | WriteBatch | WritePromise | WriteBlock
