"""`medpact simulate --capacity`: what it prints and writes, and what it says to what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from node.console import ExitCode
from simulations.capacity_networks import Mix, genesis_of
from simulations.capacity_sweep import Sweep
from simulations.costs import DEFAULT, read_costs, write_costs

SMALL = ("--blocks", "1", "--burst", "20", "--outstanding", "40", "--jobs", "1")


def run(*arguments: str | Path) -> Result:
    shown = [str(argument) for argument in ("simulate", *arguments)]
    return CliRunner().invoke(main, shown, env={"NO_COLOR": "1"})


@pytest.fixture(autouse=True)
def _few_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a percentile good is not what is tested here."""
    usual = Sweep.__init__

    def few(self: Sweep, **given: Any) -> None:
        usual(self, **(given | {"latencies": 5}))

    monkeypatch.setattr(Sweep, "__init__", few)


def test_networks_are_measured_and_written(tmp_path: Path) -> None:
    costs, table = tmp_path / "costs.json", tmp_path / "table.csv"
    costs.write_text(write_costs(DEFAULT))
    wanted = ("--institutions", "4", "--quorums", "per_class", "--conditions", "healthy")
    result = run("--capacity", *wanted, *SMALL, "--costs", costs, "--csv", table, "--json")
    assert result.exit_code == 0, result.stderr
    [found] = json.loads(result.stdout)["results"]
    assert (found["institutions"], found["quorum"], found["link"]) == (4, "per_class", "province")
    assert found["transactions_per_second"] > 0
    assert len(table.read_text().splitlines()) == 2


def test_a_consortium_gets_sentences(tmp_path: Path) -> None:
    file = tmp_path / "genesis.toml"
    file.write_bytes(genesis_of(Mix(4, 0, 0), "per_class", {}))
    result = run("--capacity", "--genesis", file, *SMALL, "--link", "campus")
    assert result.exit_code == 0, result.stderr
    assert "The recorders are 4, and 3 of them must agree" in result.stdout
    assert "down, no block was made any more." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--capacity", "--institutions", "3"), "4 to 200 institutions, not 3"),
        (("--capacity", "--institutions", "many"), "numbers such as 4,10,40"),
        (("--capacity", "--quorums", "round"), "no quorum rule named 'round'"),
        (("--capacity", "--conditions", "ill"), "no condition named 'ill'"),
        (("--capacity", "--link", "moon"), "no links named 'moon'"),
        (("--capacity", "--shared-cores", "0"), "at least one core"),
        (("--csv", "x"), "--csv goes with --capacity"),
    ],
)
def test_wrong_options_are_explained(arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert sentence in result.stderr


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("{}")
    for option, sentence in (("--costs", '"version": 1'), ("--genesis", "not valid TOML")):
        result = run("--capacity", option, bad)
        assert result.exit_code == ExitCode.FILE
        assert sentence in result.stderr
        missing = run("--capacity", option, tmp_path / "missing")
        assert missing.exit_code == ExitCode.FILE
        assert "missing" in missing.stderr


def test_this_machine_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.costs_calibration.REPEATS", 3)
    monkeypatch.setattr("simulations.costs_calibration.BLOCKS", 2)
    monkeypatch.setattr("simulations.costs_calibration.OUTSTANDING", 60)
    monkeypatch.setattr("node.measure.ROUNDS", 2)
    monkeypatch.setattr("node.measure.ANNOUNCEMENTS", 2)
    file = tmp_path / "costs.json"
    result = run("--calibrate", "--costs", file)
    assert result.exit_code == 0, result.stderr
    assert "signature check us" in result.stdout
    costs = read_costs(file.read_bytes()).costs
    assert costs.transaction_check_us > 0
    assert costs.message_send_us > 0
    assert costs.commit_us > 0
