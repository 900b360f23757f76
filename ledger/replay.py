"""Which transactions have run and which batch sequences were used in the last blocks.

A transaction may run up to its valid_until_height, at most `replay_window_blocks` above the block
that runs it; a batch likewise. So what ran in the last `replay_window_blocks` blocks is all that a
new block can repeat, and memory stays bounded however long the ledger grows
(docs/ARCHITECTURE.md section 6).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Block:
    height: int
    transactions: tuple[bytes, ...]
    sequences: tuple[tuple[str, int], ...]


class ReplayWindow:
    """The ids of transactions and the (author, sequence) of batches in the last `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        """Start empty, before the first block."""
        self._blocks = blocks
        self._heights: deque[_Block] = deque()
        self._transactions: set[bytes] = set()
        self._sequences: dict[str, dict[int, None]] = {}

    def seen(self, transaction_id: bytes) -> bool:
        """Tell whether a block of the window ran this transaction."""
        return transaction_id in self._transactions

    def used(self, author: str, sequence: int) -> bool:
        """Tell whether a block of the window lists a batch with this author and sequence."""
        return sequence in self._sequences.get(author, ())

    def highest_sequence(self, author: str) -> int | None:
        """Return the highest sequence of an author's batches in the window, or None."""
        return max(self._sequences.get(author, ()), default=None)

    def add(
        self, height: int, transaction_ids: Iterable[bytes], sequences: Iterable[tuple[str, int]]
    ) -> None:
        """Note the block at `height`, and forget the one that leaves the window.

        `transaction_ids` are those of `ExecutedBlock.ran`, `sequences` those of its `sequences`.
        Raises ValueError if a height is left out or repeated.
        """
        if self._heights and height != self._heights[-1].height + 1:
            raise ValueError(
                f"Block {height} cannot follow block {self._heights[-1].height} in the window."
            )
        block = _Block(height, tuple(transaction_ids), tuple(sequences))
        self._heights.append(block)
        self._transactions.update(block.transactions)
        for author, sequence in block.sequences:
            self._sequences.setdefault(author, {})[sequence] = None
        while self._heights[0].height <= height - self._blocks:
            self._forget(self._heights.popleft())

    def _forget(self, block: _Block) -> None:
        self._transactions.difference_update(block.transactions)
        for author, sequence in block.sequences:
            left = self._sequences[author]
            del left[sequence]
            if not left:
                del self._sequences[author]
