"""The smallest scenario found that fails like a given one: what is left is what it takes.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
TSE 2002, section 3, algorithm ddmin) over the faults and over the liars, and greedy steps for what
are numbers: transactions, members, time, weather, settings. Each kind of step is tried until none
helps. A candidate is kept if its run ends with the same verdict, whatever the particulars.

A scenario decides its run, so shrinking is deterministic; `runs_max` bounds it, not a clock.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from simulations import faults
from simulations.campaign import Report, Verdict, run_scenario
from simulations.drawing import settings_usual
from simulations.faults import Fault
from simulations.host import Host
from simulations.scenario import Byzantine, Scenario, Shape, Weather, member_ids, second_twin

T = TypeVar("T")
RUNS_MAX = 300
HEAL_MS_MIN = 1_000
CALM = Weather(
    delay_ms_min=1, delay_ms_mean=1, delay_ms_max=5, loss=0.0, duplication=0.0, ordered=True
)


class NothingToShrink(Exception):
    """The scenario passes."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest scenario found and what its run came to."""

    scenario: Scenario
    report: Report
    runs: int
    """How many scenarios were run to find it."""


def shrink(
    scenario: Scenario,
    host_class: type[Host] = Host,
    runs_max: int = RUNS_MAX,
    progress: Callable[[Scenario], None] | None = None,
) -> Shrunk:
    """Shrink a scenario that fails; `progress` gets the best so far after every run.

    Raises NothingToShrink if it passes.
    """
    report = run_scenario(scenario, host_class=host_class)
    if report.verdict is Verdict.PASSED:
        raise NothingToShrink(f"Seed {scenario.seed} passes: there is nothing to shrink.")
    search = _Search(scenario, report, host_class, runs_max, progress)
    search.run()
    return Shrunk(search.best, search.report, search.runs)


class _Search:
    """The best scenario so far, and the runs that are left."""

    def __init__(
        self,
        scenario: Scenario,
        report: Report,
        host_class: type[Host],
        runs_max: int,
        progress: Callable[[Scenario], None] | None,
    ) -> None:
        self.best = scenario
        self.report = report
        self.runs = 1
        self._host_class = host_class
        self._runs_max = runs_max
        self._progress = progress

    def run(self) -> None:
        """Take all kinds of steps in turn until none of them helps or the runs are used up."""
        before: Scenario | None = None
        while self.best != before and self.runs < self._runs_max:
            before = self.best
            self._reduce(self.best.faults, _with_faults)
            self._reduce(self.best.byzantine, _with_liars)
            for steps in (_with_fewer_transactions, _with_fewer_members, _with_less_time):
                self._descend(steps)
            for steps in (_with_simpler_faults, _with_better_weather, _with_usual_settings):
                self._descend(steps)

    def _fails(self, candidate: Scenario) -> bool:
        if self.runs >= self._runs_max or candidate == self.best:
            return False
        self.runs += 1
        report = run_scenario(candidate, host_class=self._host_class)
        same = report.verdict is self.report.verdict
        if same:
            self.best, self.report = candidate, report
        if self._progress is not None:
            self._progress(self.best)
        return same

    def _descend(self, steps: Callable[[Scenario], Iterable[Scenario]]) -> None:
        """Take the first step that still fails, again and again."""
        while any(self._fails(candidate) for candidate in steps(self.best)):
            pass

    def _reduce(
        self, items: Sequence[T], rebuild: Callable[[Scenario, Sequence[T]], Scenario]
    ) -> None:
        """ddmin, keeping complements: leave out halves, then quarters, down to single ones."""
        kept, parts = tuple(items), 2
        while kept and self.runs < self._runs_max:
            size = max(1, -(-len(kept) // parts))
            for start in range(0, len(kept), size):
                rest = kept[:start] + kept[start + size :]
                if self._fails(rebuild(self.best, rest)):
                    kept, parts = rest, max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    return
                parts = min(2 * parts, len(kept))


def _with_faults(scenario: Scenario, kept: Sequence[Fault]) -> Scenario:
    return replace(scenario, faults=tuple(kept))


def _with_liars(scenario: Scenario, kept: Sequence[Byzantine]) -> Scenario:
    return replace(scenario, byzantine=tuple(kept))


def _with_fewer_transactions(scenario: Scenario) -> Iterator[Scenario]:
    count = scenario.transactions
    for fewer in dict.fromkeys((0, count // 4, count // 2, count - 1)):
        if 0 <= fewer < count:
            yield replace(scenario, transactions=fewer)


def _with_fewer_members(scenario: Scenario) -> Iterator[Scenario]:
    """One member of a class less: the last, with whatever it was to suffer or to do."""
    shape = scenario.shape
    for smaller in (
        replace(shape, observers=shape.observers - 1),
        replace(shape, auditors=shape.auditors - 1),
        replace(shape, recorders=shape.recorders - 1),
    ):
        if smaller.recorders >= 1 and min(smaller.auditors, smaller.observers) >= 0:
            yield _among(scenario, smaller)


def _among(scenario: Scenario, shape: Shape) -> Scenario:
    members = member_ids(shape)
    present = (*members, *map(second_twin, members))
    found = tuple(
        fault for fault in scenario.faults if all(who in present for who in faults.who_of(fault))
    )
    liars = tuple(one for one in scenario.byzantine if one.who in members)
    return replace(scenario, shape=shape, faults=found, byzantine=liars)


def _with_less_time(scenario: Scenario) -> Iterator[Scenario]:
    """Heal earlier: at once after the last fault, or without the faults after that time."""
    last = max((faults.end_of(fault) for fault in scenario.faults), default=0)
    for heal_ms in dict.fromkeys((HEAL_MS_MIN, last, scenario.heal_ms // 2)):
        if HEAL_MS_MIN <= heal_ms < scenario.heal_ms:
            over = tuple(f for f in scenario.faults if faults.end_of(f) <= heal_ms)
            yield replace(scenario, heal_ms=heal_ms, faults=over)


def _with_simpler_faults(scenario: Scenario) -> Iterator[Scenario]:
    """Each fault for half as long."""
    for number, fault in enumerate(scenario.faults):
        shorter = _shorter(fault)
        if shorter is not None:
            kept = (*scenario.faults[:number], shorter, *scenario.faults[number + 1 :])
            yield replace(scenario, faults=kept)


def _shorter(fault: Fault) -> Fault | None:
    lasts_ms = faults.end_of(fault) - fault.at
    if lasts_ms < 100:
        return None
    match fault:
        case faults.Crash() | faults.CrashPoint() | faults.CrashAll() | faults.RestoredBackup():
            return replace(fault, down_ms=lasts_ms // 2)
        case _:
            return replace(fault, until=fault.at + lasts_ms // 2)


def _with_better_weather(scenario: Scenario) -> Iterator[Scenario]:
    storm = scenario.storm
    for better in (
        CALM,
        replace(storm, loss=0.0),
        replace(storm, duplication=0.0),
        replace(storm, ordered=True),
        replace(storm, delay_ms_max=storm.delay_ms_mean),
    ):
        yield replace(scenario, storm=better)
    yield replace(scenario, calm=CALM)
    yield replace(scenario, disk_ms_max=0)
    yield replace(scenario, skew_ms_max=0)


def _with_usual_settings(scenario: Scenario) -> Iterator[Scenario]:
    for name, value in settings_usual().items():
        if scenario.settings[name] != value:
            yield replace(scenario, settings={**scenario.settings, name: value})
