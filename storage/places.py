"""Nodes of the state map under numbers, in the order of their paths.

SQLite keeps the rows of a table that is ordered by an integer in its leaves alone, so that a page
above them leads to hundreds; ordered by paths, it would keep rows of 500 bytes there as well, and
lead to six. A path of up to `NIBBLES_MAX` nibbles is such a number: its nibbles, filled with zeros,
and how many they are. So a node is followed by those below it. Longer paths, which it takes some
2^28 attempts to make, have a table of their own.
"""

from typing import Final

NIBBLES_MAX: Final = 14


def place(path: bytes) -> int:
    """Return the number of a path of at most `NIBBLES_MAX` nibbles, one byte each."""
    return int(path.hex()[1::2].ljust(NIBBLES_MAX, "0"), 16) << 4 | len(path)


def path_at(number: int) -> bytes | None:
    """Return the path that has this number, None if there is none."""
    length, rest = number & 15, NIBBLES_MAX - (number & 15)
    if (
        rest < 0
        or not 0 <= number < 1 << 4 * (NIBBLES_MAX + 1)
        or number >> 4 & (1 << 4 * rest) - 1
    ):
        return None
    return bytes(number >> 4 * (NIBBLES_MAX - at) & 15 for at in range(length))
