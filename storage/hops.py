"""Whether a write is worth a hop to the writer's thread.

For a hop that thread has to be woken, waits for the interpreter's lock after each statement, and
has to wake the event loop in the end. Where others want the processors too, that takes several
times as long as a small write. So a small one is performed on the loop's own thread, which then
stands still for it, as a rule for no longer than a turn of the core may take; and none is where the
disk needs longer (docs/adr/0025).
"""

from collections.abc import Iterable
from typing import Final

from ledger.store import Write, WriteBatch, WriteBlock

SMALL_BYTES_MAX: Final = 128 * 1024
"""Of the batches in a write that is small: some 0.5 ms of the processor."""
STILL_SECONDS_MAX: Final = 0.010
"""What a commit may usually take where the loop waits for it: as much as a turn of the core."""
_WEIGHT: Final = 1 / 8
"""Of the last commit in what they usually take."""


class Hops:
    """Decides for one database, on which nothing else is under way."""

    def __init__(self) -> None:
        self._usual_s = 0.0

    def needed(self, writes: Iterable[Write]) -> bool:
        """Whether the thread is to perform `writes`: they are not small, or the disk is slow."""
        if self._usual_s > STILL_SECONDS_MAX:
            return True
        return sum(map(_size_bytes, writes)) > SMALL_BYTES_MAX

    def took(self, seconds: float) -> None:
        """A commit, here or there, was on the disk after so long."""
        self._usual_s += (seconds - self._usual_s) * _WEIGHT


def _size_bytes(write: Write) -> int:
    match write:
        case WriteBatch(batch):
            return len(batch.raw)
        case WriteBlock():
            return sum(len(batch.raw) for batch in write.batches)
        case _:
            return 0
