"""Where transactions are and which blocks have entries in a chain, as sorted runs of rows.

An id is a hash, so in a table ordered by ids every row changes a page of its own. Nothing needs
these rows to execute a block; so those of a step (storage/recent.py) are sorted and appended as one
*run*, and runs are merged, as in a log-structured merge tree (O'Neil et al., "The Log-Structured
Merge-Tree", 1996): `FAN` of about one size become one. A row is written again each time, but with
its neighbours, and once for every four times that the ledger has grown. A look-up searches one page
of each run: a dozen at a million transactions.

A row has 25 bytes: what it says, the first 16 bytes of an id, and a number of 8 bytes (big-endian):

    b"t"  of a transaction   its height and its place in the block, 4 bytes each
    b"c"  of a chain         the height of a block with entries in it, a row for each

A page is a row of the table `page`: up to `PAGE_ROWS` rows, sorted, with the first one beside it.
Runs follow each other as the blocks do, each with the height at which it ends.
"""

import sqlite3
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from struct import Struct
from typing import Any, Final

CHAIN: Final = b"c"
TRANSACTION: Final = b"t"
ID_BYTES: Final = 16
"""Of the ids of transactions and chains. Two that agree in them take 2^64 attempts to make."""
ROW_BYTES: Final = 25
PAGE_ROWS: Final = 160
"""So that SQLite has four in a page of 16 KiB."""
FAN: Final = 4
TIER_ROWS: Final = 1 << 8
"""Runs with fewer than `FAN` times as many rows count as of one size. All of them are written again
at every third step, and a node that rests between blocks makes small ones.
"""
RUN_ROWS_MAX: Final = 1 << 24
"""A merge that would give more rows is not made: it takes some 0.3 us a row."""
MERGE_PAGES: Final = 16
"""Of each run, read at a time."""
CALL_PAGES: Final = 64
"""Written by one statement; see storage/derived.py."""

_NUMBER: Final = Struct(">Q")
_ROW: Final = Struct(f"{ROW_BYTES}s")
_PAGES: Final = (
    "INSERT INTO page (run, first, rows) SELECT ?1, substr(?2, key * ?3 + 1, ?4),"
    " substr(?2, key * ?3 + 1, ?3) FROM json_each(?5)"
)
"""A blob of rows of ?4 bytes, cut into as many pages of ?3 bytes as the array has items."""
_FOUND: Final = (
    "SELECT page.rows FROM derived.run CROSS JOIN derived.page ON page.run = run.number"
    " AND page.first <= ?2 AND page.first >= COALESCE("
    "(SELECT MAX(first) FROM derived.page AS before"
    " WHERE before.run = run.number AND before.first <= ?1), ?1)"
    " WHERE run.height > ?3 ORDER BY run.number, page.first"
)
"""Pages with rows from ?1 to ?2 of the runs that end above height ?3, the older first."""


Each = Callable[..., Generator[Any]]


class PageError(ValueError):
    """A page that was not written like this; the message is a clause."""


def row(what: bytes, id: bytes, number: int) -> bytes:
    """Return the row that says `number` of an id."""
    return what + id[:ID_BYTES] + _NUMBER.pack(number)


def rows_of(page: object) -> list[bytes]:
    """Take a page apart. Raises PageError."""
    if not isinstance(page, bytes) or len(page) % ROW_BYTES or not page:
        raise PageError("a page of the index cannot be read")
    return [found for (found,) in _ROW.iter_unpack(page)]


# ---- writing -------------------------------------------------------------------------------------


def append(connection: sqlite3.Connection, height: int, rows: list[bytes]) -> Iterator[None]:
    """Write the rows of the blocks up to `height`, and merge what is due.

    `rows` may be in any order. It is done piece by piece, for who pauses. Raises PageError if an
    older run is not as it was written.
    """
    if rows:
        yield from write_run(connection, height, _sorted(rows))
        while due := _due(connection):
            yield from write_run(connection, height, _merged(connection, due))
            for number in due:
                connection.execute("DELETE FROM page WHERE run = ?", (number,))
                connection.execute("DELETE FROM run WHERE number = ?", (number,))
                yield


def _sorted(rows: list[bytes]) -> Iterator[list[bytes]]:
    """In ascending portions: to sort a step's rows at once would keep the interpreter's lock for
    more than 50 ms.
    """
    parts = defaultdict[bytes, list[bytes]](list)
    for one in rows:
        parts[one[:2]].append(one)
    for begin in sorted(parts):
        yield sorted(parts[begin])


def write_run(
    connection: sqlite3.Connection, height: int, portions: Iterable[list[bytes]]
) -> Iterator[None]:
    """Write one run, given in ascending portions of sorted rows, piece by piece."""
    insert = "INSERT INTO run (height, rows) VALUES (?, 0)"
    number = connection.execute(insert, (height,)).lastrowid
    count, left, many = 0, list[bytes](), PAGE_ROWS * CALL_PAGES
    for portion in portions:
        count += len(portion)
        left += portion
        done = 0
        while len(left) - done >= many:
            _write_pages(connection, number, left[done : done + many])
            done += many
            yield
        del left[:done]
    if left:
        _write_pages(connection, number, left)
    if count:
        connection.execute("UPDATE run SET rows = ? WHERE number = ?", (count, number))
    else:
        connection.execute("DELETE FROM run WHERE number = ?", (number,))
    yield


def _write_pages(connection: sqlite3.Connection, run: int | None, rows: list[bytes]) -> None:
    joined, pages = b"".join(rows), -(-len(rows) // PAGE_ROWS)
    if len(joined) != ROW_BYTES * len(rows):
        raise PageError("a row of the index is too long or too short")
    connection.execute(_PAGES, (run, joined, PAGE_ROWS * ROW_BYTES, ROW_BYTES, str([0] * pages)))


def _due(connection: sqlite3.Connection) -> list[int]:
    """The runs to be merged, if any: the newest ones, `FAN` of a tier and all smaller ones."""
    newest = connection.execute("SELECT number, rows FROM run ORDER BY number DESC").fetchall()
    runs = [(number, rows, _tier(rows)) for number, rows in newest]
    for tier in range(_tier(RUN_ROWS_MAX)):
        some = runs[: next((n for n, run in enumerate(runs) if run[2] > tier), len(runs))]
        count = sum(run[2] == tier for run in some)
        if count >= FAN and sum(run[1] for run in some) <= RUN_ROWS_MAX:
            return [run[0] for run in some]
    return []


def _tier(rows: int) -> int:
    """How often a run of so many rows has been merged, about."""
    tier = 0
    while rows >= TIER_ROWS * FAN:
        rows //= FAN
        tier += 1
    return tier


def _merged(connection: sqlite3.Connection, numbers: list[int]) -> Iterator[list[bytes]]:
    """The rows of several runs, in ascending portions. Raises PageError if some are lost."""
    marks = ", ".join("?" * len(numbers))
    sum_of = f"SELECT SUM(rows) FROM run WHERE number IN ({marks})"  # noqa: S608
    (left,) = connection.execute(sum_of, numbers).fetchone()
    held = {number: list[bytes]() for number in numbers}
    last = dict.fromkeys(numbers, b"")
    while held:
        for number in list(held):
            if not held[number]:
                held[number] = _next(connection, number, last[number])
                if not held[number]:
                    del held[number]
                    continue
                last[number] = held[number][-1]
        # What lies above the lowest of the last rows may have others before it that are not read.
        bound = min((rows[-1] for rows in held.values()), default=b"")
        portion: list[bytes] = []
        for rows in held.values():
            cut = bisect_right(rows, bound)
            portion += rows[:cut]
            del rows[:cut]
        portion.sort()
        left -= len(portion)
        yield portion
    if left:
        raise PageError("the index has lost pages, or has too many")


def _next(connection: sqlite3.Connection, run: int, above: bytes) -> list[bytes]:
    """The rows of the next pages of a run, after its row `above`."""
    select = "SELECT rows FROM page WHERE run = ? AND first > ? ORDER BY first LIMIT ?"
    pages = connection.execute(select, (run, above, MERGE_PAGES)).fetchall()
    found = [one for (page,) in pages for one in rows_of(page)]
    if sorted([above, *found]) != [above, *found]:
        raise PageError("a page of the index is out of order")
    return found


# ---- reading -------------------------------------------------------------------------------------


def read(each: Each, what: bytes, id: bytes, least: int, above: int) -> Iterator[int]:
    """The numbers of an id from `least` on, in runs that end above the height `above`.

    Those of older runs come first, those of one run ascend. `each` yields the rows of a query; it
    is asked for no page before its turn. Raises PageError and what `each` does.
    """
    low, high = row(what, id, least), row(what, id, (1 << 64) - 1)
    with closing(each(_FOUND, low, high, above)) as pages:
        for (page,) in pages:
            yield from _numbers(page, low, high)


def _numbers(page: object, low: bytes, high: bytes) -> Iterator[int]:
    """The numbers of the rows of a page from `low` to `high`."""
    if not isinstance(page, bytes) or len(page) % ROW_BYTES:
        raise PageError("a page of the index cannot be read")
    places = range(0, len(page), ROW_BYTES)
    for place in places[bisect_left(places, low, key=lambda at: page[at : at + ROW_BYTES]) :]:
        found = page[place : place + ROW_BYTES]
        if found > high:
            break
        yield int.from_bytes(found[-_NUMBER.size :], "big")
