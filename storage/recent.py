"""What the newest blocks changed, in memory, until it is written to the derived file.

A block is durable in the ledger's file before it comes here. What follows from it (values and nodes
of the state, places of transactions, heights of chains) can be had again by executing it, so it
waits and is written in large steps: rows that many blocks change are written once, and rows that
lie in one page together. Blocks gather in one step until it is large enough; then it is closed and
written while the next one gathers.

The writer's thread takes blocks in. Any thread may read: the dictionaries and lists of the
gathering step only grow, and it is read before the closed one, and that before the file.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.store import WriteBlock, WriteGenesis

STEP_BYTES: Final = 48 * 1024 * 1024
"""Of values and nodes, after which a step is closed: some 12,000 registrations."""
STEP_BLOCKS: Final = 1_000
"""Blocks after which it is closed in any case: a start executes those of two steps again."""

NO_CHAINS: Final[Sequence[bytes]] = ()

Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BlockChanges:
    """What one block changed."""

    height: int
    hash: bytes
    values: Mapping[bytes, bytes]
    nodes: Mapping[bytes, bytes]
    chains: Sequence[bytes]
    """Sorted."""

    def touches(self, chain: bytes) -> bool:
        """Whether the block has entries in `chain`."""
        place = bisect_left(self.chains, chain)
        return place < len(self.chains) and self.chains[place] == chain


@dataclass(slots=True)
class Step:
    """Blocks that are written together, and what holds after the last of them."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    nodes: dict[bytes, bytes] = field(default_factory=dict)
    positions: dict[bytes, Position] = field(default_factory=dict)
    blocks: list[BlockChanges] = field(default_factory=list)
    size_bytes: int = 0

    def take(self, write: WriteBlock | WriteGenesis) -> None:
        """Add the next block."""
        changes = write.changes
        if isinstance(write, WriteGenesis):
            header, chains = write.header, NO_CHAINS
        else:
            header, chains = write.decision.block.header, write.chains
            ids = write.transaction_ids
            self.positions.update((ids[index], (header.height, index)) for index in write.executed)
        self.values.update(changes.values)
        self.nodes.update(changes.nodes)
        self.size_bytes += sum(map(len, changes.values.values()))
        self.size_bytes += sum(map(len, changes.nodes.values()))
        self.blocks.append(
            BlockChanges(header.height, header.hash(), changes.values, changes.nodes, chains)
        )

    @property
    def is_due(self) -> bool:
        """Whether it is large enough to be written."""
        return self.size_bytes >= STEP_BYTES or len(self.blocks) >= STEP_BLOCKS


class Recent:
    """The step that gathers, and the one that is being written, if any."""

    def __init__(self, height: int) -> None:
        """`height` is that of the derived file."""
        self._height = height
        self.gathering = Step()
        self.closed: Step | None = None

    def take(self, write: WriteBlock | WriteGenesis) -> None:
        """Add the next block; close the step if it is due and the one before it is written.

        Raises RuntimeError if blocks between were not derived: storage/redo.py does that.
        """
        header = write.header if isinstance(write, WriteGenesis) else write.decision.block.header
        if header.height != self._height + 1:
            raise RuntimeError(f"block {header.height} was to follow {self._height} in the state")
        self._height = header.height
        self.gathering.take(write)
        if self.gathering.is_due and self.closed is None:
            self.close_step()

    def close_step(self) -> Step:
        """Close the gathering step. Raises RuntimeError while another is being written."""
        if self.closed is not None:
            raise RuntimeError("a step was to be closed while another is being written")
        # Readers look at the gathering step first: it is never out of both their looks.
        closed = self.closed = self.gathering
        self.gathering = Step()
        return closed

    def written(self) -> None:
        """The closed step is in the file."""
        self.closed = None

    def steps(self) -> Iterator[Step]:
        """Yield the steps, the newer first."""
        gathering, closed = self.gathering, self.closed
        yield gathering
        if closed is not None and closed is not gathering:
            yield closed

    def blocks(self) -> tuple[BlockChanges, ...]:
        """The blocks that may not be in the file yet, ascending. Later ones do not appear."""
        steps = [tuple(step.blocks) for step in self.steps()]
        return tuple(block for blocks in reversed(steps) for block in blocks)
