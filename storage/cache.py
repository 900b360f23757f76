"""A bounded memory of what keys hold: what was not used for long is forgotten."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal


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
        return len(self._young.keys() | self._old.keys())

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
