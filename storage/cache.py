"""A bounded memory of what keys hold: what was not used for long is forgotten."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal

NIBBLES_KEPT: Final = 4
"""Of the paths of nodes that are never forgotten: 69,905 at most, of which a map of a million keys
has nearly all, some 45 MB.
"""


class Unknown(Enum):
    """What is not remembered, which absence may be."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN


class Cache:
    """What keys hold, about `entries_max` of them; None is held too, and means absent.

    The entries lie in two dictionaries. Whatever is put or used goes to the younger one; once that
    has half of the entries it becomes the older one, and what the older one held is forgotten. That
    costs a tenth of an order of use, which is kept for every entry. A block that changes more than
    half of `entries_max` is remembered whole.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, entries_max: int) -> None:
        self._young: dict[bytes, bytes | None] = {}
        self._old: dict[bytes, bytes | None] = {}
        self._half = entries_max // 2

    def __len__(self) -> int:
        return len(dict.fromkeys(key for part in self.parts() for key in part))

    def get(self, key: bytes) -> bytes | Literal[Unknown.UNKNOWN] | None:
        """Return what `key` holds, UNKNOWN if that is not remembered. An exception would cost more.

        Most keys that are asked for are new ones.
        """
        found = self._young.get(key, UNKNOWN)
        if found is UNKNOWN:
            found = self._old.get(key, UNKNOWN)
            if found is not UNKNOWN:
                self.put(key, found)
        return found

    def parts(self) -> tuple[Mapping[bytes, bytes | None], ...]:
        """Return all that is remembered, the younger part first."""
        return self._young, self._old

    def put(self, key: bytes, held: bytes | None) -> None:
        """Remember what `key` holds."""
        self._young[key] = held
        self._age()

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Remember what many keys hold."""
        self._young.update(entries)
        self._age()

    def _age(self) -> None:
        if len(self._young) > self._half:
            self._old = self._young
            self._young = {}


class NodeCache(Cache):
    """Nodes of the state map by their paths; the upper ones are never forgotten.

    Each key that a block changes goes through all levels, so a node is needed the more often the
    higher it lies. Up to `NIBBLES_KEPT` there are few whatever the map holds; of those below, which
    a large map has by the hundred thousand, about `entries_max` are remembered.
    """

    __slots__ = ("_upper",)

    def __init__(self, entries_max: int) -> None:
        super().__init__(entries_max)
        self._upper: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | Literal[Unknown.UNKNOWN] | None:
        """Return what is at a path, UNKNOWN if that is not remembered."""
        if len(key) <= NIBBLES_KEPT:
            return self._upper.get(key, UNKNOWN)
        return super().get(key)

    def parts(self) -> tuple[Mapping[bytes, bytes | None], ...]:
        """Return all that is remembered."""
        return (self._upper, *super().parts())

    def put(self, key: bytes, held: bytes | None) -> None:
        """Remember what is at a path."""
        if len(key) <= NIBBLES_KEPT:
            self._upper[key] = held
        else:
            super().put(key, held)

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Remember what is at many paths."""
        upper = self._upper
        # A third less than to tell them apart first: it is done in every block.
        upper.update(entries)
        below = {path: entries[path] for path in entries if len(path) > NIBBLES_KEPT}
        for path in below:
            del upper[path]
        super().put_all(below)
