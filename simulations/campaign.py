"""Many seeds, on all processors, and what came of them."""

import enum
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

from simulations.checkers import Fork, NoProgress, Violation
from simulations.cluster import Cluster, Figures
from simulations.drawing import draw
from simulations.host import Host
from simulations.profiles import PROFILES, STANDARD, Profile
from simulations.scenario import Scenario
from simulations.world import Spinning

FORK_EXPECTED_RUNS = 20
"""So many runs beyond every bound must show at least one fork, or the checkers cannot see forks."""


class Verdict(enum.IntEnum):
    """What came of a run; the higher, the graver."""

    PASSED = 0
    FORKED = 1
    """The ledger forked and the checkers said so, where more lied than any class can bear."""
    CRASHED = 127
    """A correct node raised an exception."""
    STUCK = 128
    """Nothing forbidden happened, but what should have happened did not."""
    WRONG = 129
    """Something happened that must never happen."""

    @property
    def exit_code(self) -> int:
        """Of the command that ran it. A fork beyond every bound is what was to be shown."""
        return 0 if self is Verdict.FORKED else int(self)

    @property
    def failed(self) -> bool:
        """Whether the program is at fault."""
        return self.exit_code > 0


_ALWAYS = ("has", "heals")


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `figures` is None unless it passed; `reason` is empty if it did."""

    seed: int
    profile: str
    verdict: Verdict
    reason: str
    scenario: str
    digest: str
    """Of the trace: runs of one seed have the same, on any machine."""
    figures: Figures | None
    mix: Mapping[str, int]
    """How often each kind of fault, lie and change of state was met."""
    cpu_ms: int


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """All runs of a campaign, by seed."""

    reports: tuple[Report, ...]
    wall_ms: int

    @property
    def failures(self) -> tuple[Report, ...]:
        """The runs that failed."""
        return tuple(report for report in self.reports if report.verdict.failed)

    @property
    def blind(self) -> bool:
        """Whether there must have been a fork and none was seen."""
        beyond = [report for report in self.reports if report.profile == "beyond"]
        seen = any(report.verdict is Verdict.FORKED for report in beyond)
        return len(beyond) >= FORK_EXPECTED_RUNS and not seen

    @property
    def exit_code(self) -> int:
        """0, or that of the gravest verdict."""
        codes = [report.verdict.exit_code for report in self.reports]
        return max([*codes, Verdict.STUCK.exit_code if self.blind else 0])

    def mix(self) -> dict[str, tuple[int, int]]:
        """Of each thing met: in how many runs, and how often in all."""
        runs, times = Counter[str](), Counter[str]()
        for report in self.reports:
            runs.update(report.mix.keys())
            times.update(report.mix)
        return {name: (runs[name], times[name]) for name in sorted(runs)}

    def summary(self) -> dict[str, int]:
        """Figures over all runs that passed: sums, maxima and percentiles, times in ms."""
        figures = [report.figures for report in self.reports if report.figures is not None]
        latencies = sorted(latency for one in figures for latency in one.latencies_ms)
        virtual_ms = sum(one.virtual_ms for one in figures)
        transactions = sum(one.transactions for one in figures)
        verdicts = Counter(report.verdict for report in self.reports)
        return {
            "runs": len(self.reports),
            "failures": len(self.failures),
            "forks": verdicts[Verdict.FORKED],
            "heights": sum(one.height for one in figures),
            "view_max": max((one.view_max for one in figures), default=0),
            "view_changes": sum(one.view_changes for one in figures),
            "transactions": transactions,
            "expired": sum(one.expired for one in figures),
            "messages": sum(one.messages for one in figures),
            "virtual_ms": virtual_ms,
            "transactions_per_virtual_minute": transactions * 60_000 // max(virtual_ms, 1),
            "latency_ms_p50": _percentile(latencies, 50),
            "latency_ms_p95": _percentile(latencies, 95),
            "cpu_ms": sum(report.cpu_ms for report in self.reports),
            "wall_ms": self.wall_ms,
        }


def replay_command(seed: int, profile: str = STANDARD.name) -> str:
    """The command that runs one seed again and tells its story."""
    return f"medpact simulate --seed {seed} --profile {profile} --verbose"


def shrink_command(seed: int, profile: str = STANDARD.name) -> str:
    """The command that looks for the smallest scenario that fails like this seed."""
    return f"medpact simulate --seed {seed} --profile {profile} --shrink"


def run_seed(
    seed: int, profile: Profile = STANDARD, show: Callable[[str], None] | None = None
) -> Report:
    """Run the scenario of a seed. `show` gets the story line by line."""
    return run_scenario(draw(seed, profile), show)


def run_scenario(
    scenario: Scenario,
    show: Callable[[str], None] | None = None,
    host_class: type[Host] = Host,
) -> Report:
    """Run a scenario, with other hosts than the real ones if a test wants to see them caught."""
    started = time.process_time_ns()
    cluster = Cluster(scenario, show, host_class)
    verdict, reason, figures = Verdict.PASSED, "", None
    try:
        figures = cluster.run()
    except Fork as error:
        verdict, reason = Verdict.WRONG if scenario.safe else Verdict.FORKED, str(error)
    except Violation as error:
        verdict, reason = Verdict.WRONG, str(error)
    except (NoProgress, Spinning) as error:
        verdict, reason = Verdict.STUCK, str(error)
    except Exception:  # noqa: BLE001 - whatever a node raises is what the run came to
        verdict, reason = Verdict.CRASHED, traceback.format_exc()
    liars = Counter(f"liar: {one.kind}" for one in scenario.byzantine)
    told = {name: count for name, count in cluster.trace.counts.items() if name not in _ALWAYS}
    return Report(
        seed=scenario.seed,
        profile=scenario.profile,
        verdict=verdict,
        reason=reason,
        scenario=scenario.summary(),
        digest=cluster.trace.digest(),
        figures=figures,
        mix={**told, **liars},
        cpu_ms=(time.process_time_ns() - started) // 1_000_000,
    )


def run_campaign(
    seeds: Iterable[int],
    jobs: int,
    progress: Callable[[Report], None] | None = None,
    profile: Profile = STANDARD,
) -> CampaignReport:
    """Run seeds in `jobs` processes; `progress` gets each report as it comes, in any order."""
    started = time.monotonic_ns()
    reports: list[Report] = []
    for report in _run_all(list(seeds), jobs, profile.name):
        reports.append(report)
        if progress is not None:
            progress(report)
    reports.sort(key=lambda report: report.seed)
    return CampaignReport(tuple(reports), (time.monotonic_ns() - started) // 1_000_000)


def _run_all(seeds: Sequence[int], jobs: int, profile: str) -> Iterable[Report]:
    run = partial(_run_named, profile)
    if jobs <= 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run, seed) for seed in seeds]):
            yield future.result()


def _run_named(profile: str, seed: int) -> Report:
    return run_seed(seed, PROFILES[profile])


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0
