"""What waits for a turn of the core, so that no peer can make another wait, or us hold much.

Each source has a queue of its own, bounded in items and bytes, and the sources take turns, one item
at a time: a source with a thousand items delays another's by one item each.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class _Queue(Generic[Item]):
    items: deque[tuple[Item, int]] = field(default_factory=deque)
    size_bytes: int = 0


class Inbox(Generic[Item]):
    """Items by source, taken in turn. Sources with nothing waiting are forgotten."""

    def __init__(self, items_max: int, bytes_max: int) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._queues: OrderedDict[str, _Queue[Item]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, source: str, item: Item, size_bytes: int) -> bool:
        """False, and nothing done, if the source has no room."""
        count, held_bytes = self.waiting(source)
        if count >= self._items_max or held_bytes + size_bytes > self._bytes_max:
            return False
        self.force(source, item, size_bytes)
        return True

    def force(self, source: str, item: Item, size_bytes: int = 0) -> None:
        """Add what must not be lost; whoever calls this bounds it."""
        queue = self._queues.get(source)
        if queue is None:
            queue = self._queues[source] = _Queue()
        queue.items.append((item, size_bytes))
        queue.size_bytes += size_bytes
        self._count += 1

    def waiting(self, source: str) -> tuple[int, int]:
        """How many items of a source wait, and their bytes."""
        queue = self._queues.get(source)
        return (0, 0) if queue is None else (len(queue.items), queue.size_bytes)

    def take(self, may: Callable[[str], bool]) -> tuple[str, Item] | None:
        """The next item of the source whose turn it is, among those that `may` go; None if none is.

        `may` is asked in the order of turns, and the first for which it says yes goes.
        """
        for source, queue in self._queues.items():
            if may(source):
                item, size_bytes = queue.items.popleft()
                queue.size_bytes -= size_bytes
                self._count -= 1
                if queue.items:
                    self._queues.move_to_end(source)
                else:
                    del self._queues[source]
                return source, item
        return None
