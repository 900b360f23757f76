"""The shrinker: what is left is what it takes."""

from dataclasses import replace

import pytest

from ledger.store import WritePromise
from simulations import faults
from simulations.campaign import Verdict, run_scenario
from simulations.drawing import draw
from simulations.host import Host
from simulations.profiles import STANDARD
from simulations.scenario import Scenario, Shape
from simulations.shrink import NothingToShrink, shrink

SEED = 0


class Forgetful(Host):
    """A node with a planted bug: it starts without what it promised."""

    def start(self) -> None:
        self.store._promises.clear()
        super().start()


def failing() -> Scenario:
    """A scenario with much in it that the planted bug does not need."""
    drawn = draw(SEED, STANDARD, kinds=(), byzantine=())
    return replace(
        drawn,
        shape=Shape(4, 1, 1, "per_class"),
        storm=replace(drawn.storm, loss=0.05),
        transactions=12,
        heal_ms=5_000,
        faults=(
            faults.Mute(500, 900, "recorder-2"),
            faults.Slow(1_000, 2_000, "auditor-1", 50),
            faults.CrashAll(2_000, 10),
            faults.Pause(2_500, 2_700, "recorder-3"),
            faults.CrashAll(3_000, 10),
            faults.Partition(3_500, 4_000, ("recorder-1",), ("recorder-4",), False),
        ),
    )


@pytest.mark.timeout(300)
def test_a_planted_bug_is_reduced_to_what_it_takes() -> None:
    scenario = failing()
    seen: list[Scenario] = []
    found = shrink(scenario, Forgetful, progress=seen.append)
    small = found.scenario
    assert found.report.verdict is Verdict.WRONG
    assert [type(fault) for fault in small.faults] == [faults.CrashAll]
    assert small.transactions <= 4
    assert small.heal_ms < scenario.heal_ms
    assert len(seen) == found.runs - 1
    assert seen[-1] == small
    again = run_scenario(small, host_class=Forgetful)
    assert (again.verdict, again.digest) == (Verdict.WRONG, found.report.digest)


def test_shrinking_is_bounded_in_runs_and_gives_the_same_twice() -> None:
    scenario = failing()
    first, second = (shrink(scenario, Forgetful, runs_max=12) for _ in range(2))
    assert first.runs == 12
    assert first.scenario == second.scenario
    assert first.scenario != scenario


class Dutiless(Host):
    """A node with a planted bug that every run meets: it keeps no promise."""

    def start(self) -> None:
        write = self.store.write
        self.store.write = lambda writes: write(  # type: ignore[method-assign]
            [one for one in writes if not isinstance(one, WritePromise)]
        )
        super().start()


def test_what_needs_no_fault_is_left_with_none() -> None:
    scenario = replace(draw(1, byzantine=()), heal_ms=4_000, faults=())
    found = shrink(replace(scenario, faults=(faults.Mute(100, 2_000, "recorder-1"),)), Dutiless)
    assert found.scenario.faults == ()
    assert sum((found.scenario.shape.auditors, found.scenario.shape.observers)) == 0


def test_a_scenario_that_passes_is_not_shrunk() -> None:
    with pytest.raises(NothingToShrink, match="Seed 5 passes"):
        shrink(draw(5, kinds=(), byzantine=()))
