"""The table of aims, and a chain grown a little."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from simulations.bench import plots
from simulations.bench.__main__ import judge, table
from simulations.bench.bench import Result
from simulations.bench.figures import latency
from simulations.bench.growth import CatchUp, Growth, Mark, grow, lines
from simulations.bench.options import BenchError, Options
from simulations.bench.report import fields, percent_of_floor
from simulations.bench.results import of_floor, phase
from simulations.command import CLI
from tests.simulations.test_bench import FLOOR, seen

_TOLD = ("date", "cores", "processor", "kernel", "python", "sqlite", "file_system")
MACHINE: dict[str, object] = {**dict.fromkeys(_TOLD, "x"), "load_average_before": 0.5}
MARK = Mark(10, 2, 100.0, 150.0, 90.0, 2**20, 1.0, {"record_get": latency([1.0])}, 2**21)
GROWTH = Growth(
    MACHINE,
    (MARK, replace(MARK, transactions=20, tx_per_second=80.0, floor_tx_per_second=100.0)),
    CatchUp(1.0, 2.0, 20.0, 5.0),
)


def result() -> Result:
    loaded = phase(seen(), 1)
    loops = {"50%": loaded, "80%": loaded}
    near, lone = of_floor(loaded, FLOOR), latency([31.0])
    return Result(
        MACHINE, Options(), 300, 50, FLOOR, (FLOOR, FLOOR), loaded, near, loops, lone, 900.0
    )


def test_each_aim_is_told_with_what_was_got() -> None:
    found = judge(result(), result(), result(), GROWTH, 1.5)
    assert [line.met for line in found] == [
        False,
        True,
        False,
        True,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        False,
    ]
    assert {line.aim: line.got for line in found}["  the same in shares of the floor"] == "1.20"
    assert table(found, MACHINE).row_count == len(found)


def test_a_result_is_told_in_lines() -> None:
    told = dict(fields(result()))
    assert percent_of_floor(result()) == 12.5
    assert told["of the floor, by clock"] == "12.5 % of floor"
    assert told["own cost"] == "40.0 us a transaction and node beyond the check"


def test_plots_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchError, match="not installed: pip install"):
        plots.check()


def test_growth_is_told_in_lines_and_needs_ascending_marks() -> None:
    first, _, last = lines(GROWTH)
    assert first.startswith("10 transactions, height 2: 100 tx/s (floor 150),")
    assert last.endswith("5.0 times live speed")
    for marks in ((), (5, 5), (6, 5), (0,)):
        with pytest.raises(BenchError, match="each above the last"):
            grow(marks, print)


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_small_chain_grows_and_an_empty_node_catches_up() -> None:
    command = [sys.executable, "-m", "simulations.bench.growth", "--marks", "200,300", "--json"]
    ended = subprocess.run(command, cwd=CLI.parent, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [mark["transactions"] for mark in found["marks"]] == [200, 300]
    for mark in found["marks"]:
        assert list(mark["queries"]) == ["transaction_get", "record_get", "proof_record"]
        assert min(mark["height"], mark["tx_per_second"], mark["start_seconds"]) > 0
        assert mark["floor_tx_per_second"] > mark["tx_per_second"]
        assert mark["database_bytes"] > 50_000
    assert found["catch_up"]["times_live_speed"] > 0
