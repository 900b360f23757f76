"""Whose batches are ordered first, and when a proposal has passed over somebody's: pure functions
of what waits and what a block lists.

A primary takes one batch of each member in turn, and again, until the block is full: a member with
thousands of them cannot starve the others. Of one member the batch with the lowest sequence comes
first; who has not been served for the longest goes first in each round.

Another node cannot know what a primary held, nor in what order members were served in its eyes. But
where a block lists nothing of a member, an honest primary that holds a batch of it found no room
for that beside what may have come earlier: if R older ones of the member come before it, the first
R + 1 of every other member that are listed. `Listed.leaves_room` says whether there would have been
room; if so, the member was passed over. This never blames an honest primary that has the batch,
however the members' batches differ in size.

Only a member that gets nothing is passed over, though a primary could choose among its batches: if
a single batch that is left out counted, a member could make primaries hold other batches than the
other voters, each up to its quota, and have them blamed for not proposing what they cannot hold.
Whatever it makes them hold is listed, and so it gets something.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from ledger.transactions import CheckedBatch, Limits

Item = TypeVar("Item")


def take_turns(queues: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """The first of each queue, then the second of each, and so on; the queues keep their order.
    Nothing is looked at before its turn comes, since most of what waits is not reached.
    """
    waiting = [iter(queue) for queue in queues]
    while waiting:
        left: list[Iterator[Item]] = []
        for queue in waiting:
            for item in queue:
                yield item
                left.append(queue)
                break
        waiting = left


class Listed:
    """The batches of one block, for asking what else it had room for."""

    def __init__(self, batches: Sequence[CheckedBatch], limits: Limits) -> None:
        self._limits = limits
        self._of: dict[str, list[CheckedBatch]] = {}
        for batch in sorted(batches, key=lambda batch: batch.sequence):
            self._of.setdefault(batch.author, []).append(batch)
        self._used: dict[int, tuple[int, int, int]] = {}

    def serves(self, author: str) -> bool:
        """Whether anything of this member is listed."""
        return author in self._of

    def leaves_room(self, batch: CheckedBatch, older: int) -> bool:
        """Whether a batch of a member that is not served would have fitted beside those that may
        come before it in any honest order: `older` is how many of its member's come before it.
        """
        count, size_bytes, work = self._before(older + 1)
        return (
            count < self._limits.block_batches_max
            and size_bytes + len(batch.raw) <= self._limits.block_bytes_max
            and work + batch.work <= self._limits.block_work_max
        )

    def _before(self, rounds: int) -> tuple[int, int, int]:
        """Number, bytes and work of the first so many listed batches of each member."""
        used = self._used.get(rounds)
        if used is None:
            taken = [batch for queue in self._of.values() for batch in queue[:rounds]]
            size_bytes = sum(len(batch.raw) for batch in taken)
            used = len(taken), size_bytes, sum(batch.work for batch in taken)
            self._used[rounds] = used
        return used
