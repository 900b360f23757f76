"""The measurement writes what the daemon writes; its figures are the machine's own."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

import storage.cost
from storage.cost import measure

BLOCK = 20
BLOCKS = 10
SIZES = (300, 600)


@pytest.fixture(autouse=True)
def few_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.cost, "PERSONS", 50)
    monkeypatch.setattr(storage.cost, "MEASURED_TRANSACTIONS", BLOCKS * BLOCK)


async def test_every_transaction_leaves_its_rows(tmp_path: Path) -> None:
    costs = await measure(tmp_path, SIZES, BLOCK)
    assert [cost.transactions for cost in costs] == list(SIZES)
    for cost in costs:
        assert 0 < cost.loop <= cost.write
        assert cost.disk_bytes > storage.cost.TRANSACTION_BYTES
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as found:
        found.execute("ATTACH ? AS derived", (str(tmp_path / "ledger.db-derived"),))

        def count(table: str) -> int:
            number: int = found.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            return number

        # Its place, and those of the chains of its record and person; institutions by block.
        ((rows,),) = found.execute("SELECT SUM(rows) FROM run")
        assert 2 * SIZES[-1] < rows < 4 * SIZES[-1]
        assert count("state_value") == SIZES[-1] + 50 + storage.cost.INSTITUTIONS
        # Genesis, a large block before each measurement, and the blocks measured.
        assert count("block") == 1 + len(SIZES) * (1 + BLOCKS)


def test_a_line_for_each_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cost", "--sizes", ",".join(map(str, SIZES)), "--block", str(BLOCK)]
    monkeypatch.setattr(sys, "argv", arguments)
    storage.cost.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["300", "600"]
