"""One dead recorder of four: what it costs, measured in virtual time."""

import json

import pytest

from simulations import dead_recorder
from simulations.dead_recorder import INTERVALS_MS, RATIO_MAX, measure, ratios

BLOCKS = 200
VIEW_TIMEOUT_MS_MIN = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("interval_ms", [max(INTERVALS_MS), min(INTERVALS_MS)])
@pytest.mark.parametrize("auditors", [1, 4])
def test_a_dead_recorder_costs_little(auditors: int, interval_ms: int) -> None:
    runs = measure(auditors, BLOCKS, interval_ms)
    healthy, dead, dies = (runs[fate] for fate in ("healthy", "dead", "dies"))
    assert [one.blocks for one in runs.values()] == [BLOCKS] * 3
    assert healthy.view_changes == 0
    # It misses its turn, so the run shows something; yet rarely, since it is benched.
    assert 1 <= dead.view_changes <= 4
    assert 1 <= dies.view_changes <= 5
    worse = ratios(healthy, dead)
    assert worse["throughput"] <= RATIO_MAX
    assert worse["latency_ms_p95"] <= RATIO_MAX
    # No transaction waits for a time-out, but once, for that of the recorder's first missed turn.
    assert dead.latency_ms_max < 2 * healthy.latency_ms_max
    assert dies.latency_ms_max < VIEW_TIMEOUT_MS_MIN + 2 * healthy.latency_ms_max
    assert ratios(healthy, dies)["throughput"] <= RATIO_MAX


def test_the_figures_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dead_recorder", "--blocks", "12", "--interval-ms", "500", "100"]
    monkeypatch.setattr("sys.argv", arguments)
    # Of a dozen blocks the 95th percentile is the slowest, and says nothing.
    monkeypatch.setattr(dead_recorder, "RATIO_MAX", 100.0)
    assert dead_recorder.main() == 0
    table = capsys.readouterr().out
    assert "one dead" in table
    assert "times worse" in table
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    monkeypatch.setattr(dead_recorder, "RATIO_MAX", 0.5)
    assert dead_recorder.main() == 1
    document = json.loads(capsys.readouterr().out)
    assert document["within"] is False
    places = [(load["auditors"], load["interval_ms"]) for load in document["loads"]]
    assert places == [(1, 500), (1, 100), (4, 500), (4, 100)]
    assert document["loads"][0]["runs"]["healthy"]["blocks"] == 12
    assert set(document["loads"][0]["ratios"]) == {"dead", "dies"}
