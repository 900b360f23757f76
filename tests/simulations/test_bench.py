"""`medpact bench`: its statistics and options with small numbers, and tiny runs of daemons."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.transactions import Limits, check_transaction
from primitives.keys import PrivateKey
from simulations.bench import payload
from simulations.bench.figures import latency, percentile, series, sizes
from simulations.bench.floor import Floor
from simulations.bench.machine import file_system, used
from simulations.bench.options import BenchError, OptionError, Options
from simulations.bench.results import of_floor, phase
from simulations.command import CLI, run

FLOOR = Floor(1_000.0, 80.0, 60.0, "3")


def seen(**changed: Any) -> dict[str, Any]:
    """What a loading process could tell: two nodes, 400 transactions in four seconds."""
    used = {"cpu_seconds": 1.0, "rss_bytes": 5, "rss_peak_bytes": 9, "written_bytes": 0}
    later = {**used, "cpu_seconds": 1.04, "rss_bytes": 7, "written_bytes": 4_000}
    counted = {"wire_bytes_sent": 1_000}
    return {
        "seconds": 4.0,
        "blocks": [100, 300],
        "views": [0, 1],
        "latencies_ms": [10.0, 20.0, 30.0],
        "series_finals": [(1.5, 100), (3.5, 300)],
        "series_latencies": [(0.2, 10.0), (0.4, 30.0), (3.0, 20.0)],
        "nodes": {"a": {"before": used, "after": later}, "b": {"before": used, "after": later}},
        "counters": {
            "a": {"before": {}, "after": {**counted, "view_changes": 2}},
            "b": {"before": counted, "after": counted},
        },
        "client_cpu_seconds": 0.02,
        "client_late_ms": 0.0,
        "failed": {},
        "refused": 0,
        "exhausted": False,
        **changed,
    }


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0, 1, 50, 95, 99, 100)] == [1, 1, 50, 95, 99, 100]
    assert percentile([], 50) == 0
    found = latency([3.0, 1.0, 2.0])
    assert (found.count, found.p50_ms, found.p99_ms, found.max_ms) == (3, 2.0, 3.0, 3.0)
    assert latency([]).max_ms == 0
    assert (sizes([4, 2, 9]).p50, sizes([4, 2, 9]).mean, sizes([]).blocks) == (4, 5.0, 0)


def test_a_series_has_what_was_final_and_what_was_sent_in_each_second() -> None:
    found = series([(0.5, 3), (0.9, 4), (2.0, 1)], [(0.1, 5.0), (1.0, 7.0)])
    assert [(s.second, s.transactions, s.p50_ms) for s in found] == [
        (0, 7, 5.0),
        (1, 0, 7.0),
        (2, 1, 0.0),
    ]


def test_figures_follow_from_what_was_seen() -> None:
    found = phase(seen(), operations=3)
    assert (found.tx_per_second, found.operations_per_second) == (100, 300)
    assert found.cpu_us_per_transaction == 100
    assert found.nodes["a"].wire_bytes == 2.5
    assert found.wire_bytes_per_transaction == 1.2
    assert found.written_bytes_per_transaction == 10
    assert (found.view_changes, found.late_views, found.warnings) == (2, 1, ())
    assert found.client_share == 0.2
    near = of_floor(found, FLOOR)
    assert (near.by_clock, near.by_clock_with_client) == (0.125, 0.1)
    assert (near.by_cpu, near.own_cost_us) == (0.8, 40.0)


def test_what_makes_figures_doubtful_is_said() -> None:
    doubtful = seen(
        client_cpu_seconds=3.9, client_late_ms=500.0, exhausted=True, failed={"EXPIRED": 3}
    )
    assert len(phase(doubtful, 1).warnings) == 4
    with pytest.raises(BenchError, match="more --seconds, or another --in-flight"):
        phase(seen(blocks=[]), 1)


def test_transactions_are_valid_of_the_size_wanted_and_follow_from_the_seed() -> None:
    for size in (250, 300, 450):
        shape = payload.shape(1, size)
        assert size <= shape.size_bytes <= size + 2
    shape = payload.shape(100, 300)
    key = PrivateKey(bytes(32))
    twice = [
        list(payload.sign(bytes(32), [key], shape, 500, 2, random.Random(4))) for _ in range(2)
    ]
    for signed in twice[0]:
        checked = check_transaction(signed.raw, bytes(32), Limits())
        assert (checked.id.hex(), len(checked.body.operations)) == (signed.id, 100)
    first, again = ([s.raw for s in made] for made in twice)
    assert [len(raw) for raw in first] == [len(raw) for raw in again]


def test_what_a_node_uses_is_counted_with_the_processes_that_it_started() -> None:
    child = "print(' '.join(map(str, [os.getppid(), os.getpid()])), flush=True); sys.stdin.read()"
    child = f"import os, sys; {child}"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        both, one = (used(int(pid)) for pid in process.stdout.readline().split())
        assert one.rss_bytes > 1_000_000
        assert both.rss_bytes > 1.5 * one.rss_bytes
        assert both.rss_peak_bytes > one.rss_peak_bytes


def test_a_process_that_has_ended_and_is_not_reaped_yet_takes_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert used(process.pid).rss_bytes == 0
        assert used(os.getpid()).rss_bytes > 1_000_000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(recorders=0, observers=4), "at least one recorder"),
        (Options(recorders=1), "at least two nodes"),
        (Options(recorders=41), "at most 40"),
        (Options(seconds=0.5), "1 to 3600 seconds, not 0.5"),
        (Options(in_flight=16_001), "at most 16000"),
        (Options(lone=-1), "0 to 1000 lone"),
        (Options(operations=501), "1 to 500 operations, not 501"),
        (Options(transaction_bytes=100), "bytes, not 100"),
        (Options(operations=500, transaction_bytes=400), "a transaction holds 65536"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(options: Options, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        options.check()


def test_what_is_final_is_seen_at_a_node_that_took_nothing() -> None:
    options = Options(recorders=3, auditors=1, observers=1)
    assert options.watched == "observer-1"
    assert options.submitters == ("recorder-1", "recorder-2", "recorder-3")
    assert Options(recorders=2).submitters == ("recorder-1",)


def test_the_file_system_is_that_of_the_innermost_mount() -> None:
    mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tmp/x xfs rw 0 0\n"
    assert file_system(Path("/tmp/x/y"), mounts) == "xfs"
    assert file_system(Path("/var"), mounts) == "ext4"


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    ended = run("bench", "--recorders", "1")
    assert (ended.code, "at least two nodes" in ended.errors) == (2, True)
    ended = run("bench", "--output", tmp_path / "no" / "file")
    assert (ended.code, "cannot be written" in ended.errors) == (5, True)


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_tiny_benchmark_has_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    shape = ("--recorders", "2", "--observers", "1", "--operations", "2")
    load = ("--seconds", "2", "--in-flight", "200", "--lone", "3")
    ended = run("bench", *shape, *load, "--output", file, "--json")
    assert ended.code == 0, ended.errors
    found = json.loads(ended.output)
    assert json.loads(file.read_text()) == found
    assert found["percent_of_floor"] > 0
    assert found["machine"]["cores"] >= 1
    assert found["floor"]["tx_per_second"] > 0
    assert found["database_bytes_per_transaction"] > 100
    assert found["lone"]["count"] == 3
    for each in (found["saturation"], *found["open_loops"].values()):
        assert (each["failed"], each["transactions"] > 0) == ({}, True)
        assert each["operations_per_second"] == pytest.approx(2 * each["tx_per_second"], abs=0.2)
        took = each["latency"]
        assert 0 < took["p50_ms"] <= took["p95_ms"] <= took["p99_ms"] <= took["max_ms"]
        assert sorted(each["nodes"]) == ["observer-1", "recorder-1", "recorder-2"]
        assert min(node["rss_bytes"] for node in each["nodes"].values()) > 10_000_000
        assert each["wire_bytes_per_transaction"] > 0
        assert each["series"]


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_an_interrupted_benchmark_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(CLI), "bench", "--recorders", "2", "--seconds", "60"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
    )
    assert process.stderr is not None
    while "trying" not in process.stderr.readline():
        pass
    daemons = list(_processes(str(tmp_path)))
    assert daemons
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "All processes of the benchmark have been stopped." in errors
    assert not [pid for pid in daemons if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def _processes(words: str) -> list[int]:
    """The processes whose command line has these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_text().replace("\0", " "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
