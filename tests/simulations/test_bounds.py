"""The bounds of docs/ARCHITECTURE.md section 3 as stated: within them nothing forks, and beyond
them the checkers report the fork, which proves that they can.
"""

from dataclasses import replace

import pytest

from consensus.committee import QuorumRule
from simulations.campaign import Verdict, run_scenario
from simulations.drawing import draw
from simulations.scenario import Byzantine, Scenario, Shape

RECORDERS = ("recorder-1", "recorder-2", "recorder-3", "recorder-4")


def colluding(
    seed: int, recorders: int, auditors: int, rule: QuorumRule, liars: tuple[str, ...]
) -> Scenario:
    """A run without other faults in which these members equivocate together."""
    return replace(
        draw(seed, kinds=(), byzantine=()),
        shape=Shape(recorders, auditors, 0, rule),
        byzantine=tuple(Byzantine(who, "equivocator") for who in liars),
    )


@pytest.mark.parametrize("seed", [0, 2, 7])
def test_all_recorders_together_cannot_fork_honest_auditors(seed: int) -> None:
    scenario = colluding(seed, 4, 4, "per_class", (*RECORDERS, "auditor-4"))
    report = run_scenario(scenario)
    assert report.verdict is Verdict.PASSED, report.reason
    assert report.figures is not None
    assert report.figures.height > 0


@pytest.mark.parametrize("seed", [0, 4])
def test_beyond_the_bound_of_both_classes_the_fork_is_reported(seed: int) -> None:
    scenario = colluding(seed, 4, 4, "per_class", (*RECORDERS, "auditor-3", "auditor-4"))
    report = run_scenario(scenario)
    assert report.verdict is Verdict.FORKED
    assert "fork at height" in report.reason


@pytest.mark.parametrize("rule", ["per_class", "pooled", "flat"])
def test_beyond_the_bound_of_the_only_group_the_fork_is_reported(rule: QuorumRule) -> None:
    scenario = colluding(2, 4, 0, rule, ("recorder-3", "recorder-4"))
    report = run_scenario(scenario)
    assert report.verdict is Verdict.FORKED
    assert "fork at height" in report.reason
