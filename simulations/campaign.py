"""Many seeds, on all processors, and what came of them."""

import enum
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from simulations.checkers import NoProgress, Violation
from simulations.cluster import Cluster, Figures
from simulations.host import Host
from simulations.scenario import Scenario, draw
from simulations.world import Spinning


class Verdict(enum.IntEnum):
    """What came of a run or a campaign; also the exit code of the command that ran it."""

    PASSED = 0
    CRASHED = 127
    """A correct node raised an exception."""
    STUCK = 128
    """Nothing forbidden happened, but what should have happened did not."""
    WRONG = 129
    """Something happened that must never happen."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `figures` is None unless it passed; `reason` is empty if it did."""

    seed: int
    verdict: Verdict
    reason: str
    scenario: str
    digest: str
    """Of the trace: runs of one seed have the same, on any machine."""
    figures: Figures | None
    cpu_ms: int


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """All runs of a campaign, by seed."""

    reports: tuple[Report, ...]
    wall_ms: int

    @property
    def failures(self) -> tuple[Report, ...]:
        """The runs that did not pass."""
        return tuple(report for report in self.reports if report.verdict is not Verdict.PASSED)

    @property
    def exit_code(self) -> int:
        """0, or the gravest verdict."""
        return max((int(report.verdict) for report in self.reports), default=0)

    def summary(self) -> dict[str, int]:
        """Figures over all runs that passed: sums, maxima and percentiles, times in ms."""
        figures = [report.figures for report in self.reports if report.figures is not None]
        latencies = sorted(latency for one in figures for latency in one.latencies_ms)
        virtual_ms = sum(one.virtual_ms for one in figures)
        transactions = sum(one.transactions for one in figures)
        return {
            "runs": len(self.reports),
            "failures": len(self.failures),
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


def replay_command(seed: int) -> str:
    """The command that runs one seed again and tells its story."""
    return f"medpact simulate --seed {seed} --verbose"


def run_seed(seed: int, show: Callable[[str], None] | None = None) -> Report:
    """Run the scenario of a seed. `show` gets the story line by line."""
    return run_scenario(draw(seed), show)


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
    except Violation as error:
        verdict, reason = Verdict.WRONG, str(error)
    except (NoProgress, Spinning) as error:
        verdict, reason = Verdict.STUCK, str(error)
    except Exception:  # noqa: BLE001 - whatever a node raises is what the run came to
        verdict, reason = Verdict.CRASHED, traceback.format_exc()
    return Report(
        seed=scenario.seed,
        verdict=verdict,
        reason=reason,
        scenario=scenario.summary(),
        digest=cluster.trace.digest(),
        figures=figures,
        cpu_ms=(time.process_time_ns() - started) // 1_000_000,
    )


def run_campaign(
    seeds: Iterable[int], jobs: int, progress: Callable[[Report], None] | None = None
) -> CampaignReport:
    """Run seeds in `jobs` processes; `progress` gets each report as it comes, in any order."""
    started = time.monotonic_ns()
    reports: list[Report] = []
    for report in _run_all(list(seeds), jobs):
        reports.append(report)
        if progress is not None:
            progress(report)
    reports.sort(key=lambda report: report.seed)
    return CampaignReport(tuple(reports), (time.monotonic_ns() - started) // 1_000_000)


def _run_all(seeds: Sequence[int], jobs: int) -> Iterable[Report]:
    if jobs <= 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run_seed, seed) for seed in seeds]):
            yield future.result()


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0
