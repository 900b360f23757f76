"""Break the code on purpose, one bug at a time, and see whether the simulator notices.

`python -m simulations.mutants` (make mutants) copies the code, applies each mutation of
simulations/mutations.toml to the copy, and runs seeds until one fails or the time is over. A mutant
that survives is a hole in the simulator, and the exit code is 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from simulations.hunt import SECONDS_MAX
from simulations.mutations import Mutation, MutationError, mutate, read_mutations

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("primitives", "consensus", "ledger", "node", "simulations")
SPARE_S: Final = 60.0
"""How much longer than its time a hunt may take before it is ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one mutant."""

    mutation: Mutation
    runs: int
    found: dict[str, Any] | None
    """Seed, profile, verdict and reason of the run that failed; None: it survived."""
    seconds: float


def judge(mutation: Mutation, seconds: float, jobs: int) -> Outcome:
    """Hunt one mutant. Raises MutationError."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medpact-mutant-") as name:
        copy = Path(name)
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, copy / package, ignore=ignored)
        mutate(copy, mutation)
        command = [sys.executable, "-m", "simulations.hunt", *mutation.profiles]
        command += ["--seconds", str(seconds), "--jobs", str(jobs)]
        ended = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=seconds + SPARE_S,
            check=False,
        )
    try:
        result = json.loads(ended.stdout)
    except json.JSONDecodeError:
        raise MutationError(f"{mutation.name}: the hunt broke: {ended.stderr[-2000:]}") from None
    return Outcome(mutation, result["runs"], result["found"], time.monotonic() - started)


def main() -> int:
    """Judge the mutants that were named, or all; 0 if every one was found."""
    parser = argparse.ArgumentParser(prog="python -m simulations.mutants")
    mutations = read_mutations()
    names = [mutation.name for mutation in mutations]
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutants; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX, help="for each mutant")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in names]
    if unknown:
        parser.error(f"there is no mutant {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [each for each in mutations if not arguments.names or each.name in arguments.names]
    progress = Console(stderr=True)
    outcomes = []
    for number, mutation in enumerate(chosen, 1):
        progress.print(f"{number} of {len(chosen)}: {mutation.name}", highlight=False)
        outcome = judge(mutation, arguments.seconds, arguments.jobs)
        outcomes.append(outcome)
        progress.print(f"    {_words(outcome)}", highlight=False, markup=False)
    _print(outcomes, arguments.json)
    return 0 if all(outcome.found for outcome in outcomes) else 1


def _words(outcome: Outcome) -> str:
    found = outcome.found
    if found is None:
        return f"SURVIVED {outcome.runs} runs in {outcome.seconds:.0f} s"
    return (
        f"{found['verdict']} in run {outcome.runs} ({found['profile']} {found['seed']}), "
        f"{outcome.seconds:.0f} s: {found['reason'][:100]}"
    )


def _print(outcomes: Sequence[Outcome], as_json: bool) -> None:
    if as_json:
        document = [
            {
                "name": outcome.mutation.name,
                "meaning": outcome.mutation.meaning,
                "found": outcome.found,
                "runs": outcome.runs,
                "seconds": round(outcome.seconds, 1),
            }
            for outcome in outcomes
        ]
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    table = Table("mutant", "found by", "as", "runs", "seconds", title="Bugs planted on purpose")
    for outcome in outcomes:
        found = outcome.found
        by = "NOTHING" if found is None else f"{found['profile']} {found['seed']}"
        verdict = "-" if found is None else found["verdict"]
        name, runs, seconds = outcome.mutation.name, str(outcome.runs), f"{outcome.seconds:.0f}"
        table.add_row(name, by, verdict, runs, seconds)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
