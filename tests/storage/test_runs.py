"""Sorted runs: whatever was appended is found, however runs were merged, and with little work."""

import sqlite3
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage.runs
from storage.runs import CHAIN, ROW_BYTES, TRANSACTION, PageError, append, read, row

IDS = [bytes([n]) * 16 for n in (0, 1, 127, 128, 255)]
SCRIPT = Path(storage.runs.__file__).with_name("derived2.sql").read_text("utf-8")


@contextmanager
def file() -> Iterator[sqlite3.Connection]:
    """A database with the two tables, named as a reader names it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "derived"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(SCRIPT)
            connection.execute("ATTACH ? AS derived", (str(path),))
            yield connection


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with file() as opened:
        yield opened


def put(connection: sqlite3.Connection, height: int, rows: list[bytes]) -> int:
    """Append a run; return in how many pieces it was done."""
    return sum(1 for _ in append(connection, height, rows))


def found(
    connection: sqlite3.Connection,
    what: bytes,
    id: bytes,
    least: int = 0,
    above: int = -1,
    seen: list[tuple[str, tuple[object, ...], bytes]] | None = None,
) -> Iterator[int]:
    """What a reader finds; with `seen`, the queries, their parameters and each page."""

    def each(sql: str, *parameters: object) -> Generator[tuple[bytes]]:
        for page in connection.execute(sql, parameters):
            if seen is not None:
                seen.append((sql, parameters, page[0]))
            yield page

    return read(each, what, id, least, above)


def runs(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Height and rows of each."""
    return connection.execute("SELECT height, rows FROM main.run ORDER BY number").fetchall()


steps = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(IDS), st.integers(0, 9)),
        st.sets(st.sampled_from(IDS)),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(steps, st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]), st.sampled_from([5, 1 << 24]))
def test_everything_is_found_in_the_order_of_heights(
    drawn: list[tuple[dict[bytes, int], set[bytes], int]],
    page_rows: int,
    merge_pages: int,
    rows_max: int,
) -> None:
    """As in a model of dictionaries, with pages and portions so small that each edge is met."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage.runs, "TIER_ROWS", 2)
        patched.setattr(storage.runs, "MERGE_PAGES", merge_pages)
        patched.setattr(storage.runs, "RUN_ROWS_MAX", rows_max)
        patched.setattr(storage.runs, "PAGE_ROWS", page_rows)
        check(drawn)


def check(drawn: Iterable[tuple[dict[bytes, int], set[bytes], int]]) -> None:
    chains: dict[bytes, list[int]] = {id: [] for id in IDS}
    places: dict[bytes, list[int]] = {id: [] for id in IDS}
    height = 0
    with file() as connection:
        for executed, touched, blocks in drawn:
            height += blocks
            rows = [row(CHAIN, id, height) for id in sorted(touched)]
            for id, place in executed.items():
                places[id].append(height << 32 | place)
                rows.append(row(TRANSACTION, id, height << 32 | place))
            for id in sorted(touched):
                chains[id].append(height)
            put(connection, height, rows)
        for id in IDS:
            assert list(found(connection, TRANSACTION, id)) == places[id]
            for above in range(height + 1):
                later = [at for at in chains[id] if at > above]
                assert list(found(connection, CHAIN, id, above + 1, above)) == later
        written = sum(map(len, [*chains.values(), *places.values()]))
        assert sum(rows for _, rows in runs(connection)) == written
        used = connection.execute("SELECT DISTINCT run FROM main.page ORDER BY run").fetchall()
        assert used == connection.execute("SELECT number FROM main.run ORDER BY 1").fetchall()


def spread(first: int, count: int) -> list[bytes]:
    """Rows of ids all over."""
    return [
        row(TRANSACTION, (n * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big") * 2, n)
        for n in range(first, first + count)
    ]


def test_each_row_is_written_once_for_each_size_of_run(connection: sqlite3.Connection) -> None:
    steps, each = 64, storage.runs.TIER_ROWS
    written: list[int] = []
    connection.set_trace_callback(
        lambda sql: written.append(sql.count("0, ") + 1) if "INSERT INTO page" in sql else None
    )
    for step in range(steps):
        put(connection, step, spread(step * each, each))
    connection.set_trace_callback(None)
    pages = -(-each // storage.runs.PAGE_ROWS)
    # As it came, and merged with 3, 15 and 63 others.
    assert runs(connection) == [(steps - 1, steps * each)]
    assert sum(written) <= 4 * steps * pages
    assert len(written) <= sum(written) / storage.runs.CALL_PAGES + 2 * steps


def test_runs_of_many_sizes_stay_few(connection: sqlite3.Connection) -> None:
    """A node that steps with few rows writes its large runs no more often for that."""
    most, number = 0, 0
    for step in range(300):
        count = 20_000 if step % 50 == 0 else 3
        put(connection, step, spread(number, count))
        number += count
        most = max(most, len(runs(connection)))
    assert most <= 3 * storage.runs.FAN
    assert sum(rows for _, rows in runs(connection)) == number


def test_runs_that_are_large_enough_are_left_alone(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.runs, "TIER_ROWS", 4)
    monkeypatch.setattr(storage.runs, "RUN_ROWS_MAX", 64)
    for step in range(64):
        put(connection, step, spread(step * 4, 4))
    assert [rows for _, rows in runs(connection)] == [64] * 4
    assert list(found(connection, TRANSACTION, spread(77, 1)[0][1:])) == [77]


def test_a_merge_holds_few_rows_at_a_time(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most rows are of one chain."""
    portions: list[int] = []
    original = storage.runs.write_run

    def write_run(
        at: sqlite3.Connection, height: int, given: Iterator[list[bytes]]
    ) -> Iterator[None]:
        def noted() -> Iterator[list[bytes]]:
            for portion in given:
                portions.append(len(portion))
                yield portion

        return original(at, height, noted())

    rows = 30_000
    for step in range(storage.runs.FAN):
        if step == storage.runs.FAN - 1:
            monkeypatch.setattr(storage.runs, "write_run", write_run)
        heights = range(step * rows, (step + 1) * rows)
        put(connection, heights[-1], [row(CHAIN, IDS[2], height) for height in heights])
    bound = storage.runs.FAN * storage.runs.MERGE_PAGES * storage.runs.PAGE_ROWS
    assert max(portions[1:]) <= bound < rows
    assert runs(connection) == [(4 * rows - 1, 4 * rows)]
    assert list(found(connection, CHAIN, IDS[2], 100_000)) == list(range(100_000, 4 * rows))


@pytest.mark.parametrize(
    ("last", "what"), [(b"t" + bytes(24), "out of order"), (b"t" + b"\xff" * 24, "lost pages")]
)
def test_a_merge_of_a_spoilt_page_ends_with_what_is_wrong(
    connection: sqlite3.Connection, last: bytes, what: str
) -> None:
    """Whether the last row that was read together leads back, or over the pages after it."""
    count = 2 * storage.runs.MERGE_PAGES * storage.runs.PAGE_ROWS
    for step in range(storage.runs.FAN - 1):
        put(connection, step, spread(step * count, count))
    connection.execute(
        "UPDATE main.page SET rows = CAST(substr(rows, 1, length(rows) - ?1) || ?2 AS BLOB)"
        " WHERE number ="
        " (SELECT number FROM main.page WHERE run = 1 ORDER BY first LIMIT 1 OFFSET ?3)",
        (ROW_BYTES, last, storage.runs.MERGE_PAGES - 1),
    )
    pieces = append(connection, 9, spread(9 * count, count))
    with pytest.raises(PageError, match=what):
        for _ in islice(pieces, 1_000):
            pass


def test_small_runs_are_written_again_a_few_times_only(connection: sqlite3.Connection) -> None:
    """Those of the steps of a node that is idle in between."""
    written: list[int] = []
    connection.set_trace_callback(
        lambda sql: written.append(sql.count("0, ") + 1) if "INSERT INTO page" in sql else None
    )
    connection.execute("BEGIN")
    for step in range(1_000):
        put(connection, step, spread(step * 4, 4))
    connection.set_trace_callback(None)
    assert sum(written) <= 3 * 1_000


def test_rows_are_sorted_in_portions(connection: sqlite3.Connection) -> None:
    rows = spread(0, 50_000)
    portions = list(storage.runs._sorted(rows))
    assert [one for portion in portions for one in portion] == sorted(rows)
    assert max(map(len, portions)) < 1_000


def test_a_look_up_reads_a_page_of_each_run(connection: sqlite3.Connection) -> None:
    for step in range(11):
        put(connection, step, spread(step * 20_000, 20_000))
    seen: list[tuple[str, tuple[object, ...], bytes]] = []
    assert list(found(connection, TRANSACTION, spread(7, 1)[0][1:], seen=seen)) == [7]
    assert len(seen) <= 2 * len(runs(connection))
    query, parameters, _ = seen[0]
    assert {len(page) for _, _, page in seen} == {storage.runs.PAGE_ROWS * ROW_BYTES}
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
    assert len([step for step in plan if "SEARCH" in step[3]]) == 2
    assert not [step for step in plan if "TEMP B-TREE" in step[3]]


def test_a_long_chain_is_read_as_far_as_it_is_asked_for(connection: sqlite3.Connection) -> None:
    put(connection, 99_999, [row(CHAIN, IDS[1], height) for height in range(100_000)])
    seen: list[tuple[str, tuple[object, ...], bytes]] = []
    numbers = found(connection, CHAIN, IDS[1], 50_000, 49_999, seen)
    count = storage.runs.PAGE_ROWS
    assert list(islice(numbers, count)) == list(range(50_000, 50_000 + count))
    assert len(seen) == 2


@pytest.mark.parametrize("page", [None, "text", 7, b"x" * (ROW_BYTES + 1)])
def test_a_page_that_cannot_be_taken_apart_is_refused(page: object) -> None:
    def each(sql: str, *parameters: object) -> Generator[tuple[object]]:
        yield (page,)

    with pytest.raises(PageError, match="cannot be read"):
        list(read(each, CHAIN, IDS[0], 0, -1))
    with pytest.raises(PageError, match="cannot be read"):
        storage.runs.rows_of(page)


def test_a_row_of_another_length_is_not_written(connection: sqlite3.Connection) -> None:
    with pytest.raises(PageError, match="too long or too short"):
        put(connection, 1, [row(CHAIN, IDS[0], 1), row(CHAIN, b"short", 1)])
