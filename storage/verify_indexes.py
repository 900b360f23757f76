"""What `verify` compares of the indexes: the runs of storage/runs.py, with what blocks lead to."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from storage.runs import CHAIN, TRANSACTION, PageError, row, rows_of

_WHAT: Final = {CHAIN: "an entry of the chain", TRANSACTION: "the transaction"}

Rows = Callable[..., list[Any]]
"""storage.reader.SqliteReader.rows, in a snapshot."""


class IndexFault(Exception):
    """What is wrong, as a clause."""


class Indexes:
    """What must be in the runs; 25 bytes a transaction and entry of a chain."""

    def __init__(self) -> None:
        self._expected = _Parts()

    def expect(
        self, height: int, executed: Iterable[tuple[bytes, int]], chains: Iterable[bytes]
    ) -> None:
        """The ids and places of the transactions of a block, and the chains with entries in it."""
        rows = [row(TRANSACTION, id, height << 32 | index) for id, index in executed]
        self._expected.take(rows + [row(CHAIN, chain, height) for chain in chains])

    def check(self, rows: Rows, last: int) -> None:
        """Raise IndexFault unless exactly this is there, in the order that look-ups rely on.

        `last` is the height of the last block.
        """
        found = _Parts()
        above, pages = -1, 0
        for run, height, count in rows("SELECT number, height, rows FROM derived.run ORDER BY 1"):
            pages += _check_run(rows, found, run, range(above + 1, height + 1), count)
            above = height
        if above > last:
            raise IndexFault("the index has a run of blocks that are not there")
        if rows("SELECT COUNT(*) FROM derived.page") != [(pages,)]:
            raise IndexFault("the index has pages of no run")
        self._expected.check(found)


def _check_run(rows: Rows, found: "_Parts", run: int, heights: range, count: int) -> int:
    """Take the rows of a run; return how many pages it has."""
    last, pages = b"", 0
    sql = "SELECT first, rows FROM derived.page WHERE run = ? ORDER BY first"
    for first, page in rows(sql, run):
        try:
            some = rows_of(page)
        except PageError as error:
            raise IndexFault(str(error)) from error
        if first != some[0] or sorted([last, *some]) != [last, *some]:
            raise IndexFault(f"a page of the index at {first.hex()} is out of order")
        if any(_height(one) not in heights for one in some):
            raise IndexFault(f"a page of the index at {first.hex()} is of other heights")
        found.take(some)
        last, pages, count = some[-1], pages + 1, count - len(some)
    if count:
        raise IndexFault("the index has lost pages, or has too many")
    return pages


def _height(one: bytes) -> int:
    number = int.from_bytes(one[-8:], "big")
    return number >> 32 if one.startswith(TRANSACTION) else number


class _Parts:
    """Rows, in any order, close together in memory."""

    def __init__(self) -> None:
        self._parts = [bytearray() for _ in range(1 << 8)]

    def take(self, rows: Iterable[bytes]) -> None:
        for one in rows:
            self._parts[one[1]] += one

    def check(self, found: "_Parts") -> None:
        """Raise IndexFault unless `found` has the same rows."""
        for mine, other in zip(self._parts, found._parts, strict=True):
            if mine == other:
                continue
            expected, there = (set(rows_of(bytes(part)) if part else []) for part in (mine, other))
            for one in sorted(expected - there):
                raise IndexFault(f"the index has lost {_WHAT[one[:1]]} {one[1:-8].hex()}")
            if len(mine) != len(other) or there - expected:
                raise IndexFault("the index has a row too many")
