"""What the newest blocks changed, in memory, until it is written to the derived file.

A block is durable in the ledger's file before it comes here. What follows from it (values and nodes
of the state, places of transactions, heights of chains) can be had again by executing it, so it
waits and is written in large steps: rows that many blocks change are written once, and rows that
lie in one page together. Blocks gather in one step until it is large enough; then it is closed and
written while the next one gathers.

Whoever writes takes blocks in, any thread reads. Reads of single entries take no lock: they
look at the gathering step first, then at the closed one, then at the file, and an entry that moves
meanwhile only ever moves to where they look next. A snapshot takes the steps' dictionaries as they
are; the next block copies them before it changes anything (20 ns an entry, once a block at most).
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.store import WriteBlock, WriteGenesis

STEP_ROWS: Final = 100_000
"""Values and nodes after which a step is closed: some 25,000 registrations, 70 MB."""
STEP_VALUE_BYTES: Final = 64 * 1024 * 1024
"""Of values, whichever blocks they came with, after which it is closed."""
STEP_PLACES: Final = 200_000
"""Rows of the indexes after which it is closed: shares have such rows, but no values of their own.
50 MB.
"""
STEP_BLOCKS: Final = 1_000
"""Blocks after which it is closed in any case: a start executes those of two steps again."""
NO_CHAINS: Final[Sequence[bytes]] = ()

Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BlockChains:
    """Which chains a block has entries in."""

    height: int
    hash: bytes
    chains: Sequence[bytes]
    """Sorted."""

    def touches(self, chain: bytes) -> bool:
        """Whether the block has entries in `chain`."""
        place = bisect_left(self.chains, chain)
        return place < len(self.chains) and self.chains[place] == chain


@dataclass(frozen=True, slots=True)
class View:
    """The blocks in memory as they were at one height. Later ones do not appear."""

    height: int
    values: Sequence[Mapping[bytes, bytes]]
    nodes: Sequence[Mapping[bytes, bytes]]
    positions: Sequence[Mapping[bytes, Position]]
    """All by step, the newer first. Positions of later blocks may join those that were there."""
    blocks: Sequence[BlockChains]
    """Ascending."""


NOTHING: Final = View(-1, (), (), (), ())
"""Of a reader that sees the files alone."""


class Step:
    """Blocks that are written together, and what holds after the last of them."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, bytes] = {}
        self.positions: dict[bytes, Position] = {}
        self.blocks: list[BlockChains] = []
        self.shared = False
        """Whether a snapshot may hold `values` and `nodes`."""
        self._value_bytes = 0
        self._entries = 0
        """Of chains."""

    def take(self, write: WriteBlock | WriteGenesis) -> None:
        """Add the next block."""
        changes = write.changes
        if isinstance(write, WriteGenesis):
            header, chains = write.header, NO_CHAINS
        else:
            header, chains = write.decision.block.header, write.chains
            ids = write.transaction_ids
            self.positions.update((ids[index], (header.height, index)) for index in write.executed)
        if self.shared:
            self.values, self.nodes, self.shared = dict(self.values), dict(self.nodes), False
        self.values.update(changes.values)
        self.nodes.update(changes.nodes)
        self._value_bytes += sum(map(len, changes.values.values()))
        self.blocks.append(BlockChains(header.height, header.hash(), chains))
        self._entries += len(chains)

    @property
    def is_due(self) -> bool:
        """Whether it is large enough to be written."""
        return self._share >= 1

    @property
    def is_nearly_due(self) -> bool:
        """Whether it is three quarters as large as that, or larger."""
        return self._share >= 3 / 4

    @property
    def _share(self) -> float:
        return max(
            (len(self.values) + len(self.nodes)) / STEP_ROWS,
            self._value_bytes / STEP_VALUE_BYTES,
            (len(self.positions) + self._entries) / STEP_PLACES,
            len(self.blocks) / STEP_BLOCKS,
        )


class Recent:
    """The step that gathers, and the one that is being written, if any."""

    def __init__(self, height: int) -> None:
        """`height` is that of the derived file."""
        self._height = height
        self._lock = threading.Lock()
        """Held while a block is taken in, a step closed, and a view made."""
        self.gathering = Step()
        self.closed: Step | None = None

    def take(self, write: WriteBlock | WriteGenesis) -> None:
        """Add the next block; close the step if it is due and the one before it is written.

        Raises RuntimeError if blocks between were not derived: storage/redo.py does that.
        """
        header = write.header if isinstance(write, WriteGenesis) else write.decision.block.header
        if header.height != self._height + 1:
            raise RuntimeError(f"block {header.height} was to follow {self._height} in the state")
        with self._lock:
            self._height = header.height
            self.gathering.take(write)
            if self.gathering.is_due and self.closed is None:
                self._close()

    def close_step(self) -> Step:
        """Close the gathering step. Raises RuntimeError while another is being written."""
        with self._lock:
            if self.closed is not None:
                raise RuntimeError("a step was to be closed while another is being written")
            return self._close()

    def _close(self) -> Step:
        # Readers look at the gathering step first: it is never out of both their looks.
        closed = self.closed = self.gathering
        self.gathering = Step()
        return closed

    def written(self) -> None:
        """The closed step is in the file."""
        self.closed = None

    def steps(self) -> tuple[Step, ...]:
        """Return the steps, the newer first."""
        gathering, closed = self.gathering, self.closed
        if closed is None or closed is gathering:
            return (gathering,)
        return (gathering, closed)

    def blocks(self) -> tuple[BlockChains, ...]:
        """The blocks that may not be in the file yet, ascending."""
        steps = [tuple(step.blocks) for step in self.steps()]
        return tuple(block for blocks in reversed(steps) for block in blocks)

    def view(self) -> View:
        """All that is in memory, as it is now."""
        with self._lock:
            steps = list(self.steps())
            for step in steps:
                step.shared = True
            values, nodes = [step.values for step in steps], [step.nodes for step in steps]
            positions = [step.positions for step in steps]
            return View(self._height, values, nodes, positions, self.blocks())
