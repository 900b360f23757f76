"""Campaigns: seeds pass, runs repeat exactly, failures are told apart and can be replayed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ledger.store import Write
from node.events import Effect
from simulations.campaign import (
    FORK_EXPECTED_RUNS,
    CampaignReport,
    Report,
    Verdict,
    replay_command,
    run_campaign,
    run_scenario,
    run_seed,
    shrink_command,
)
from simulations.drawing import draw
from simulations.host import Host
from simulations.profiles import NETWORK

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", range(16))
def test_a_seed_passes(seed: int) -> None:
    report = run_seed(seed)
    assert report.verdict is Verdict.PASSED, f"{replay_command(seed)}\n{report.reason}"
    assert report.figures is not None
    if draw(seed).live:
        assert report.figures.height > 0
        assert report.figures.transactions > 5


def test_a_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    code = "import sys; from simulations.campaign import run_seed; print(run_seed(11).digest)"
    digests = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        digests.append(done.stdout.strip())
    assert len(digests[0]) == 64
    assert digests == [run_seed(11).digest] * 2


def test_two_seeds_give_two_traces() -> None:
    assert run_seed(7).digest != run_seed(9).digest


def test_processes_change_nothing_but_the_time() -> None:
    seen: list[int] = []
    alone = run_campaign(range(30, 33), 1)
    together = run_campaign(range(30, 33), 2, lambda report: seen.append(report.seed))
    assert [report.digest for report in alone.reports] == [
        report.digest for report in together.reports
    ]
    assert sorted(seen) == [30, 31, 32]
    assert together.exit_code == 0
    assert together.failures == ()
    summary = together.summary()
    assert summary["runs"] == 3
    assert summary["transactions"] > 30
    assert 0 < summary["latency_ms_p50"] <= summary["latency_ms_p95"]
    assert summary["transactions_per_virtual_minute"] > 0


def test_the_story_is_told_to_who_asks() -> None:
    lines: list[str] = []
    told = run_seed(7, NETWORK, lines.append)
    assert told.digest == run_seed(7, NETWORK).digest
    words = [line.split() for line in lines]
    for step in ("proposes", "prepares", "commits", "decides", "applies"):
        assert any(line[2] == step and line[3:5] == ["height", "1"] for line in words)
    assert any(line[1:3] == ["network", "heals"] for line in words)


class Failing(Host):
    """A node with a fault of its own."""

    def _perform_one(self, effect: Effect) -> None:
        if self.running.head.height >= 3:
            raise KeyError("a fault of our own")
        super()._perform_one(effect)


class Deaf(Host):
    """A node to which no message comes."""

    def message(self, peer: str, raw: bytes) -> None:
        return


class Restless(Host):
    """A node that turns and turns."""

    def _turn(self) -> None:
        super()._turn()
        self._plan()
        self._turn_at = None
        self.world.schedule.after(0, lambda: self._alive(self._turn))


class Liar(Host):
    """A node that sends before it writes."""

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in [effect for effect in effects if not isinstance(effect, Write)]:
            self._perform_one(effect)
        super()._perform([effect for effect in effects if isinstance(effect, Write)])


@pytest.mark.parametrize(
    ("host_class", "verdict", "reason"),
    [
        (Failing, Verdict.CRASHED, "a fault of our own"),
        (Deaf, Verdict.STUCK, "wait for their receipts"),
        (Restless, Verdict.STUCK, "turns without end"),
        (Liar, Verdict.WRONG, "before it is durable"),
    ],
)
def test_failures_are_told_apart(host_class: type[Host], verdict: Verdict, reason: str) -> None:
    report = run_scenario(draw(3, kinds=(), byzantine=()), host_class=host_class)
    assert report.verdict is verdict
    assert reason in report.reason
    assert report.figures is None


def test_the_exit_code_is_that_of_the_gravest_failure() -> None:
    def report(seed: int, verdict: Verdict) -> Report:
        return Report(seed, "standard", verdict, "", "", "", None, {}, 0)

    codes = {
        (Verdict.PASSED,): 0,
        (Verdict.PASSED, Verdict.FORKED): 0,
        (Verdict.PASSED, Verdict.CRASHED): 127,
        (Verdict.STUCK, Verdict.CRASHED): 128,
        (Verdict.CRASHED, Verdict.WRONG, Verdict.STUCK): 129,
        (): 0,
    }
    for verdicts, code in codes.items():
        reports = tuple(report(seed, verdict) for seed, verdict in enumerate(verdicts))
        assert CampaignReport(reports, 0).exit_code == code
    assert replay_command(17) == "medpact simulate --seed 17 --profile standard --verbose"
    assert shrink_command(17, "crash") == "medpact simulate --seed 17 --profile crash --shrink"


def test_checkers_that_see_no_fork_where_there_must_be_one_have_failed() -> None:
    def report(verdict: Verdict) -> Report:
        return Report(0, "beyond", verdict, "", "", "", None, {}, 0)

    few = (report(Verdict.PASSED),) * (FORK_EXPECTED_RUNS - 1)
    assert CampaignReport(few, 0).exit_code == 0
    enough = CampaignReport((*few, report(Verdict.PASSED)), 0)
    assert (enough.blind, enough.exit_code, enough.failures) == (True, 128, ())
    seen = CampaignReport((*few, report(Verdict.FORKED)), 0)
    assert (seen.blind, seen.exit_code, seen.summary()["forks"]) == (False, 0, 1)


def test_the_mix_counts_runs_and_times() -> None:
    def report(mix: dict[str, int]) -> Report:
        return Report(0, "standard", Verdict.PASSED, "", "", "", None, mix, 0)

    mix = CampaignReport((report({"Crash": 2, "lies": 1}), report({"Crash": 3})), 0).mix()
    assert mix == {"Crash": (2, 5), "lies": (1, 1)}
