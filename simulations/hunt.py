"""Run seed after seed of some profiles until one fails: how a broken copy of the code is judged.

`python -m simulations.hunt --seconds 600 byzantine crash` takes the profiles in turn and prints one
JSON document: what failed, if anything, and after how many runs. Its exit code is the verdict's.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from typing import Final

from simulations.campaign import Report, Verdict, run_seed
from simulations.profiles import PROFILES

SECONDS_MAX: Final = 600.0


def _runs(profiles: Sequence[str], first_seed: int) -> Iterator[tuple[int, str]]:
    for seed in count(first_seed):
        for profile in profiles:
            yield seed, profile


def _run(seed: int, profile: str) -> Report:
    return run_seed(seed, profile=PROFILES[profile])


def hunt(
    profiles: Sequence[str], seconds: float, jobs: int, first_seed: int = 1
) -> tuple[int, Report | None]:
    """Return how many runs were made, and the first report that is not PASSED, if any."""
    deadline = time.monotonic() + seconds
    runs = _runs(profiles, first_seed)
    made = 0
    with ProcessPoolExecutor(jobs) as pool:
        waiting: set[Future[Report]] = {pool.submit(_run, *next(runs)) for _ in range(jobs)}
        while waiting and time.monotonic() < deadline:
            done, waiting = wait(waiting, deadline - time.monotonic(), FIRST_COMPLETED)
            for future in done:
                made += 1
                report = future.result()
                if report.verdict is not Verdict.PASSED:
                    _abandon(pool)
                    return made, report
                waiting.add(pool.submit(_run, *next(runs)))
        _abandon(pool)
    return made, None


def _abandon(pool: ProcessPoolExecutor) -> None:
    """What still runs no longer matters, and a broken node may never end."""
    for process in tuple((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    """Hunt, print what was found, and return the exit code of its verdict."""
    parser = argparse.ArgumentParser(prog="python -m simulations.hunt")
    parser.add_argument("profiles", nargs="+", choices=tuple(PROFILES))
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--first-seed", type=int, default=1)
    arguments = parser.parse_args()
    made, report = hunt(arguments.profiles, arguments.seconds, arguments.jobs, arguments.first_seed)
    found = None
    if report is not None:
        found = {
            "seed": report.seed,
            "profile": report.profile,
            "verdict": report.verdict.name.lower(),
            "reason": report.reason.strip().splitlines()[-1] if report.reason else "",
        }
    sys.stdout.write(json.dumps({"runs": made, "found": found}) + "\n")
    return 0 if report is None else report.verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
