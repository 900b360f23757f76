"""A node's disk in memory: `LedgerReader` over dictionaries, performing every `Write` at once.

Whatever `write` was given survives a crash, and nothing else of a node does. It keeps to what the
daemon's database keeps: a block drops promises and undecided proposals up to its height, and the
undecided batches that no later block may list.
"""

from collections.abc import Sequence
from typing import Self, assert_never

from consensus.events import Persist
from consensus.messages import Decision
from ledger.receipts import Receipt
from ledger.state import StateInMemory
from ledger.store import StateChanges, Write, WriteBatch, WriteBlock, WriteGenesis, WritePromise
from ledger.transactions import CheckedBatch
from primitives.block import Block, BlockHeader


class MemoryStore(StateInMemory):
    """Implements ledger.store.LedgerReader."""

    def __init__(self) -> None:
        super().__init__()
        self._headers: list[BlockHeader] = []
        self._heights: dict[bytes, int] = {}
        self._decisions: dict[int, Decision] = {}
        self._receipts: dict[int, tuple[Receipt, ...]] = {}
        self._sequences: dict[int, tuple[tuple[str, int], ...]] = {0: ()}
        self._batches: dict[bytes, bytes] = {}
        self._undecided: dict[bytes, int] = {}
        self._positions: dict[bytes, tuple[int, int]] = {}
        self._chains: dict[bytes, tuple[int, ...]] = {}
        self._promises: list[tuple[int, Persist]] = []
        self._proposals: dict[bytes, tuple[int, Block]] = {}

    def copy(self) -> Self:
        """A backup of this disk as it is now."""
        backup = type(self)()
        for name, value in vars(self).items():
            setattr(backup, name, value.copy())
        return backup

    # ---- writing ---------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write]) -> None:
        """Perform all writes, as one transaction. Raises ValueError for one that breaks the order
        of blocks, as the database would.
        """
        for write in writes:
            match write:
                case WriteGenesis(header, changes):
                    self._append(header, changes)
                case WriteBatch(batch):
                    self._keep_batch(batch)
                case WritePromise(height, promise):
                    self._promises.append((height, promise))
                    if promise.block is not None:
                        self._proposals.setdefault(promise.block.hash, (height, promise.block))
                case WriteBlock():
                    self._write_block(write)
                case _:
                    assert_never(write)

    def _append(self, header: BlockHeader, changes: StateChanges) -> None:
        if header.height != len(self._headers):
            raise ValueError(f"block {header.height} does not follow the head")
        self._headers.append(header)
        self._heights[header.hash()] = header.height
        self.take(changes)

    def _keep_batch(self, batch: CheckedBatch) -> None:
        if batch.id not in self._batches:
            self._undecided[batch.id] = batch.valid_until_height
        if batch.id in self._undecided:
            self._batches[batch.id] = batch.raw

    def _write_block(self, write: WriteBlock) -> None:
        header = write.decision.block.header
        height = header.height
        self._append(header, write.changes)
        self._decisions[height] = write.decision
        self._receipts[height] = tuple(write.receipts)
        self._sequences[height] = tuple((batch.author, batch.sequence) for batch in write.batches)
        for batch in write.batches:
            self._keep_batch(batch)
            self._undecided.pop(batch.id, None)
        for index in write.executed:
            transaction_id = write.transaction_ids[index]
            if transaction_id in self._positions:
                raise ValueError(f"transaction {transaction_id.hex()} was executed twice")
            self._positions[transaction_id] = (height, index)
        for chain in write.chains:
            self._chains[chain] = (*self._chains.get(chain, ()), height)
        self._promises = [kept for kept in self._promises if kept[0] > height]
        self._proposals = {h: kept for h, kept in self._proposals.items() if kept[0] > height}
        for batch_id in [b for b, until in self._undecided.items() if until <= height]:
            del self._undecided[batch_id], self._batches[batch_id]

    # ---- reading ---------------------------------------------------------------------------------

    def head_height(self) -> int | None:
        """Height of the newest applied block."""
        return len(self._headers) - 1 if self._headers else None

    def header(self, height: int) -> BlockHeader | None:
        """The header at a height."""
        return self._headers[height] if 0 <= height < len(self._headers) else None

    def height_of(self, block_hash: bytes) -> int | None:
        """The height of an applied block."""
        return self._heights.get(block_hash)

    def decision(self, height: int) -> Decision | None:
        """The decided block with its commit certificate."""
        return self._decisions.get(height)

    def receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """The receipts of a block."""
        return self._receipts.get(height)

    def sequences(self, height: int) -> tuple[tuple[str, int], ...] | None:
        """Author and sequence of every batch of a block."""
        return self._sequences.get(height) if height < len(self._headers) else None

    def has_batch(self, batch_id: bytes) -> bool:
        """Whether a batch is stored."""
        return batch_id in self._batches

    def batch(self, batch_id: bytes) -> bytes | None:
        """The raw bytes of a stored batch."""
        return self._batches.get(batch_id)

    def transaction_position(self, transaction_id: bytes) -> tuple[int, int] | None:
        """(height, index in the block) of the execution of a transaction."""
        return self._positions.get(transaction_id)

    def chain_heights(self, chain_id: bytes, above: int, limit: int) -> tuple[int, ...]:
        """Heights of the blocks with entries in this chain."""
        heights = [height for height in self._chains.get(chain_id, ()) if height > above]
        return tuple(heights[:limit])

    def promises(self, height: int) -> tuple[Persist, ...]:
        """What this node has signed at a height."""
        return tuple(promise for at, promise in self._promises if at == height)

    def proposal(self, block_hash: bytes) -> Block | None:
        """An undecided block stored with a promise."""
        kept = self._proposals.get(block_hash)
        return None if kept is None else kept[1]

    def pending_batches(self) -> tuple[bytes, ...]:
        """Raw bytes of stored batches that no applied block lists."""
        return tuple(self._batches[batch_id] for batch_id in self._undecided)
