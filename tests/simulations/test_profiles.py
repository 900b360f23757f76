"""Two hundred seeds of every profile."""

import pytest

from simulations.campaign import Verdict, replay_command, run_seed
from simulations.profiles import PROFILES

SEEDS = 200
CHUNK = 20
"""Seeds of one test, so that the processors share them evenly."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
@pytest.mark.parametrize("name", PROFILES)
def test_the_seeds_of_a_profile_pass(name: str, first: int) -> None:
    reports = [run_seed(seed, PROFILES[name]) for seed in range(first, first + CHUNK)]
    failures = [
        f"{replay_command(report.seed, name)}\n{report.verdict.name}: {report.reason}"
        for report in reports
        if report.verdict.failed
    ]
    assert not failures, "\n".join(failures)
    forks = sum(report.verdict is Verdict.FORKED for report in reports)
    assert (forks > 0) is (name == "beyond")
    assert sum(report.figures.height for report in reports if report.figures is not None) > 0
