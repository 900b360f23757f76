"""One dead recorder of four: what it costs, measured in virtual time."""

import json

import pytest

from simulations import dead_recorder
from simulations.dead_recorder import DEAD, RATIO_MAX, compare, ratios

BLOCKS = 200
INTERVAL_MS = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("auditors", [1, 4])
def test_a_dead_recorder_costs_little(auditors: int) -> None:
    healthy, lame = compare(auditors, BLOCKS, INTERVAL_MS)
    assert (healthy.dead, healthy.blocks, healthy.view_changes) == (None, BLOCKS, 0)
    assert (lame.dead, lame.blocks) == (DEAD, BLOCKS)
    # It misses its turn, so the run shows something; yet rarely, since it is benched.
    assert 1 <= lame.view_changes <= 4
    assert lame.latency_ms_max > 10 * healthy.latency_ms_max
    worse = ratios(healthy, lame)
    assert worse["throughput"] <= RATIO_MAX
    assert worse["latency_ms_p95"] <= RATIO_MAX


def test_the_figures_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dead_recorder", "--blocks", "12", "--interval-ms", "500"]
    monkeypatch.setattr("sys.argv", arguments)
    assert dead_recorder.main() == 1
    table = capsys.readouterr().out
    assert "one dead" in table
    assert "times worse" in table
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    assert dead_recorder.main() == 1
    document = json.loads(capsys.readouterr().out)
    assert document["within"] is False
    assert [run["auditors"] for run in document["runs"]] == [1, 4]
    assert document["runs"][0]["healthy"]["blocks"] == 12
