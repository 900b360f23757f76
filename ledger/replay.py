"""Which transactions have run and which batch sequences were used in the last blocks.

A transaction may run up to its valid_until_height, at most `replay_window_blocks` above the block
that runs it; a batch likewise. So what ran in the last `replay_window_blocks` blocks is all that a
new block can repeat, and memory stays bounded however long the ledger grows
(docs/ARCHITECTURE.md section 6).

A window may hold a million ids. In a set they take 120 bytes each or more, here 50 to 75: in the
joined ids of its block, and with eight of its bytes and the height in one of many small byte
strings. A transaction costs 3 us here, 2 more than with a set.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from primitives.hashing import DIGEST_BYTES

_HINT_BYTES: Final = 8
"""How much of an id, after what chooses its place, is kept beside the height of its block."""
_HEIGHT_BYTES: Final = 4
"""The lowest bytes of a height; no window is so long that they would repeat in it."""
_ENTRY_BYTES: Final = _HINT_BYTES + _HEIGHT_BYTES
_ID: Final = Struct(f">H{_HINT_BYTES}s{DIGEST_BYTES - 2 - _HINT_BYTES}x")
"""Two bytes of an id, whose upper 14 bits choose its place, and the hint."""


@dataclass(frozen=True, slots=True)
class _Block:
    height: int
    transactions: bytes
    """The ids, joined."""
    sequences: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Places:
    """In which blocks ids may be: by 14 bits of the id, entries of hint and height."""

    _entries: dict[int, bytearray] = field(default_factory=dict)

    def add(self, ids: bytes, height: int) -> None:
        """Note the joined `ids` of a block."""
        entries, tail = self._entries, _tail(height)
        for number, hint in _ID.iter_unpack(ids):
            known = entries.get(number >> 2)
            if known is None:
                entries[number >> 2] = bytearray(hint + tail)
            else:
                known += hint + tail

    def remove(self, ids: bytes, height: int) -> None:
        """Forget the joined `ids` of a block."""
        entries, tail = self._entries, _tail(height)
        for number, hint in _ID.iter_unpack(ids):
            known = entries[number >> 2]
            found = _aligned(known, hint + tail, _ENTRY_BYTES)
            del known[found : found + _ENTRY_BYTES]
            if not known:
                del entries[number >> 2]

    def heights(self, id: bytes) -> list[int]:
        """Return the lowest bytes of the heights of blocks that may have `id`."""
        number, hint = _ID.unpack(id)
        known = self._entries.get(number >> 2)
        if known is None or hint not in known:
            return []
        heights = []
        at = _aligned(known, hint, _ENTRY_BYTES)
        while at >= 0:
            height = known[at + _HINT_BYTES : at + _ENTRY_BYTES]
            heights.append(int.from_bytes(height, "big"))
            at = _aligned(known, hint, _ENTRY_BYTES, at + _ENTRY_BYTES)
        return heights


class ReplayWindow:
    """The ids of transactions and the (author, sequence) of batches in the last `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        """Start empty, before the first block."""
        self._blocks = blocks
        self._heights: deque[_Block] = deque()
        self._places = _Places()
        self._sequences: dict[str, dict[int, None]] = {}

    def seen(self, transaction_id: bytes) -> bool:
        """Tell whether a block of the window ran this transaction."""
        for low in self._places.heights(transaction_id):
            block = self._heights[(low - self._heights[0].height) % (1 << 8 * _HEIGHT_BYTES)]
            if _aligned(block.transactions, transaction_id, DIGEST_BYTES) >= 0:
                return True
        return False

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

        `transaction_ids` are those of `ExecutedBlock.ran`, 32 bytes each, `sequences` those of its
        `sequences`. Raises ValueError if a height is left out or repeated.
        """
        if self._heights and height != self._heights[-1].height + 1:
            raise ValueError(
                f"Block {height} cannot follow block {self._heights[-1].height} in the window."
            )
        block = _Block(height, b"".join(transaction_ids), tuple(sequences))
        self._heights.append(block)
        self._places.add(block.transactions, height)
        for author, sequence in block.sequences:
            self._sequences.setdefault(author, {})[sequence] = None
        while self._heights[0].height <= height - self._blocks:
            self._forget(self._heights.popleft())

    def _forget(self, block: _Block) -> None:
        self._places.remove(block.transactions, block.height)
        for author, sequence in block.sequences:
            left = self._sequences[author]
            del left[sequence]
            if not left:
                del self._sequences[author]


def _tail(height: int) -> bytes:
    return (height % (1 << 8 * _HEIGHT_BYTES)).to_bytes(_HEIGHT_BYTES, "big")


def _aligned(within: bytes | bytearray, what: bytes, width: int, start: int = 0) -> int:
    """Return where an item of `width` bytes begins with `what`, from `start` on; -1 for nowhere."""
    at = within.find(what, start)
    while at >= 0 and at % width:
        at = within.find(what, at + 1)
    return at
