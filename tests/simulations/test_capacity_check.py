"""Predictions against the results of real daemons."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulations import capacity_check
from simulations.costs import DEFAULT

RESULT: dict[str, Any] = {
    "machine": {"cores": 2},
    "options": {
        "recorders": 4,
        "auditors": 0,
        "observers": 0,
        "quorum": "per_class",
        "operations": 1,
    },
    "in_flight": 400,
    "saturation": {"tx_per_second": 2_000.0, "client_share": 0.1, "cpu_us_per_transaction": 200.0},
    "open_loops": {"50%": {"latency": {"p50_ms": 100.0}}},
}


def test_a_benchmark_is_predicted() -> None:
    cpu, rate, latency = capacity_check.compare(RESULT, DEFAULT.costs)
    assert (cpu.institutions, cpu.measured) == (4, 200.0)
    assert cpu.predicted > DEFAULT.costs.transaction_check_us
    # Four nodes cannot do more than their two cores, of which the client has a tenth.
    assert rate.predicted <= 0.9 * 2_000_000 / 4 / cpu.predicted * 1.01
    assert latency.predicted > 0
    assert "measured 2,000, predicted" in rate.sentence()


def test_what_is_no_benchmark_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({**RESULT, "saturation": {}}))
    monkeypatch.setattr("sys.argv", ["capacity_check", str(file)])
    assert capacity_check.main() == 1
    assert "is no result of `medpact bench --output`" in capsys.readouterr().err


def test_every_cost_but_the_disk_is_slowed() -> None:
    slow = capacity_check.slowed(DEFAULT.costs, 0.5)
    assert slow.turn_us == 2 * DEFAULT.costs.turn_us
    assert slow.fsync_us == DEFAULT.costs.fsync_us
