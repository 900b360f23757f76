"""Each kind of fault and of lie alone: it happens, it shows, and the network survives it."""

import pytest

from simulations import faults
from simulations.byzantine import KINDS as BYZANTINE_KINDS
from simulations.campaign import Verdict, replay_command, run_scenario
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.faults import Fault
from simulations.profiles import MEMBERSHIP
from simulations.scenario import Scenario

SEEDS_MAX = 200


def drawn(kind: type[Fault] | None, lie: str | None, skip: int = 0) -> Scenario:
    """The first scenarios in which this kind of fault or lie is drawn, and nothing else."""
    kinds = () if kind is None else (kind,)
    byzantine = () if lie is None else (lie,)
    found = [
        scenario
        for scenario in (draw(s, kinds=kinds, byzantine=byzantine) for s in range(SEEDS_MAX))
        if scenario.live and (scenario.faults or kind is None) and (scenario.byzantine or not lie)
    ]
    return found[skip]


@pytest.mark.parametrize("kind", faults.KINDS, ids=lambda kind: kind.__name__)
def test_a_fault_alone_is_survived(kind: type[Fault]) -> None:
    story: list[str] = []
    scenario = drawn(kind, None)
    report = run_scenario(scenario, story.append)
    assert report.verdict is Verdict.PASSED, f"{replay_command(scenario.seed)}\n{report.reason}"
    happened = [line for line in story if kind.__name__ in line and " fault " in line]
    assert len(happened) == len(scenario.faults)
    if kind in (faults.Crash, faults.CrashAll, faults.RestoredBackup):
        assert any(line.rstrip().endswith("dies") for line in story)
    if kind is faults.RestoredBackup:
        assert any("is restored from a backup" in line for line in story)


@pytest.mark.parametrize("lie", [*BYZANTINE_KINDS, "twins"])
def test_a_lie_alone_is_survived(lie: str) -> None:
    scenario = drawn(None, lie)
    report = run_scenario(scenario)
    assert report.verdict is Verdict.PASSED, f"{replay_command(scenario.seed)}\n{report.reason}"


def test_keys_and_classes_change_by_vote_while_the_network_runs() -> None:
    rotated = reclassed = 0
    for seed in range(SEEDS_MAX):
        cluster = Cluster(draw(seed, MEMBERSHIP))
        genesis = cluster.genesis
        cluster.run()
        rotated += cluster.trace.counts["changes its key"]
        first = {member.id: member.type for member in genesis.institutions}
        members = cluster.correct[0].running.members
        reclassed += sum(member.type != first[id] for id, member in members.items())
        if rotated and reclassed:
            return
    raise AssertionError("no member ever changed")
