"""`make model`: the formal model of docs/model/, checked by Spin in every way that it claims.

    .venv/bin/python -m simulations.model_check [--json] [--stories]

A run that must hold is exhaustive: all reachable states, or it does not count. A run that must
fork, because both classes are beyond their bounds or a rule is broken, proves that the property can
fail. A run that must reach a goal proves that the rules lead somewhere. Exit code 0 if all end as
expected, 1 if one does not, 2 if the checker is missing.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

MODEL = Path(__file__).resolve().parents[1] / "docs" / "model" / "agreement.pml"
TOOLS = {"spin": "spin", "gcc": "gcc"}
"""The programs that are needed, with their packages."""
RUNS_AT_ONCE = 2
MEMORY_MIB_MAX = 3_000
"""Of one run; Spin gives up beyond it, and this program with it."""
DEPTH_MAX = 10_000
"""Steps of one path. The longest possible has under 500: each voter signs at most 11 messages."""
RUN_SECONDS_MAX = 900
COMPILE = ("gcc", "-O1", "-w", "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB_MAX}")

Ending = Literal["holds", "forks", "reached"]
"""Two values are decided in no state; they are in some state; a goal is met in some state."""


class ModelError(Exception):
    """A run says nothing about the model; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way to check the model."""

    title: str
    expected: Ending
    recorders: int
    auditors: int
    byzantine_recorders: int
    byzantine_auditors: int
    views: int
    options: tuple[str, ...] = ()
    shortest: bool = False
    """Look for the shortest path to the failure."""
    whole: bool = False
    """Every rule must have fired in some state."""

    @property
    def definitions(self) -> list[str]:
        """What the model is compiled with."""
        sizes = {
            "NR": self.recorders,
            "NA": self.auditors,
            "BR": self.byzantine_recorders,
            "BA": self.byzantine_auditors,
            "VIEWS": self.views,
        }
        named = [f"-D{name}={size}" for name, size in sizes.items()]
        return named + [f"-D{option}" for option in self.options]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Spin found; `depth` is the longest path, in steps of Spin: a rule takes a few."""

    ending: Ending
    states: int
    depth: int
    unreached: tuple[str, ...]
    """Statements of the voters that no path executed."""


@dataclass(frozen=True, slots=True)
class Result:
    """A run that has ended; `problem` is empty if it ended as expected."""

    run: Run
    outcome: Outcome | None
    seconds: float
    story: tuple[str, ...]
    """How it came to the failure or goal, one message or certificate a line."""
    problem: str


STAGED = "STAGED"
"""The option that fires the rules in a fixed order: smaller, by an argument in the model's page."""
FAULTS = {
    "SMALL_QUORUM": ("A quorum one smaller", 4, 1, 2),
    "TOTAL_QUORUM": ("A quorum of all voters instead of each class", 4, 0, 2),
    "LOCK_FORGOTTEN": ("VIEW-CHANGE hides what was prepared", 4, 1, 2),
    "CLAIM_UNPROVEN": ("A claim needs no certificate", 4, 1, 3),
    "CLAIM_NOT_HIGHEST": ("Any claim may be proposed again", 4, 1, 3),
    "CLAIM_IGNORED": ("A new view may always propose afresh", 4, 1, 2),
    "ONE_CLASS_JUSTIFIES": ("One class alone justifies a view", 4, 0, 2),
    "STALE_COMMIT": ("COMMIT in a view that was left", 4, 1, 2),
}
"""Broken rules by option: title, Byzantine recorders and auditors of 4 and 4, views."""
GOALS = {
    "SEEK_FIRST_VIEW": ("Decided in view 0", 1),
    "SEEK_FRESH_LATER": ("Decided in view 1, nothing prepared before", 2),
    "SEEK_REPEATED": ("Decided in view 1, which had to repeat view 0", 2),
    "SEEK_UNSEEN": ("COMMIT without the PRE-PREPARE", 2),
    "SEEK_JOINED": ("A voter joins a view two above its own", 3),
}
"""Goals by option: title and views."""


def plan() -> list[Run]:
    """All runs, in the order in which they are shown; docs/model/README.md explains them."""
    free = [
        Run("4+1: all recorders Byzantine", "holds", 4, 1, 4, 0, 3),
        Run("4+1: the auditor and a recorder", "holds", 4, 1, 1, 1, 3, whole=True),
        Run("4+4: all recorders, one auditor", "holds", 4, 4, 4, 1, 3, whole=True),
        Run("4+4: all auditors, one recorder", "holds", 4, 4, 1, 4, 3, whole=True),
        Run("5+5: all recorders, one auditor", "holds", 5, 5, 5, 1, 3, whole=True),
        Run("4+4: one of each class", "holds", 4, 4, 1, 1, 2),
        Run("4+4: views joined at any time", "holds", 4, 4, 4, 1, 3, ("JOIN_ANYTIME",)),
    ]
    # The mirrored cases of larger sizes differ in the names of the classes alone.
    sizes = ((4, 4, 0, 0, 3), (4, 4, 1, 1, 3), (4, 4, 4, 1, 4))
    larger = ((6, 6, 6, 1, 4), (7, 7, 2, 7, 4), (10, 10, 10, 3, 3))
    staged = [
        Run(f"{r}+{a}: {br} and {ba}", "holds", r, a, br, ba, views, (STAGED,))
        for r, a, br, ba, views in sizes + larger
    ]
    beyond = [
        Run("Both classes beyond their bounds", "forks", 4, 4, 2, 2, 1, shortest=True),
        Run("Both beyond", "forks", 4, 4, 2, 2, 1, (STAGED,)),
        Run("Both beyond, auditors of one", "forks", 4, 1, 2, 1, 1, shortest=True),
        Run("A literal 2f + 1 of five", "forks", 5, 5, 5, 1, 2, ("SMALL_QUORUM",)),
    ]
    faults = []
    for option, (title, byzantine_recorders, byzantine_auditors, views) in FAULTS.items():
        for options in ((option,), (option, STAGED)):
            # What STAGED rests on, that nobody signs in a view that it has left, is broken there.
            if options != ("STALE_COMMIT", STAGED):
                numbers = (4, 4, byzantine_recorders, byzantine_auditors, views)
                faults.append(Run(title, "forks", *numbers, options))
    goals = [
        Run(title, "reached", 4, 1, 0, 0, views, (option,))
        for option, (title, views) in GOALS.items()
    ]
    return free + staged + beyond + faults + goals


def parse(output: str) -> Outcome:
    """Read what Spin's verifier printed. Raises ModelError if it does not mean anything."""
    for sign, meaning in (
        ("max search depth too small", f"a path is longer than {DEPTH_MAX} steps"),
        ("reached -DMEMLIM bound", f"it needs more than {MEMORY_MIB_MAX} MiB"),
        ("out of memory", "the memory of this machine is not enough"),
    ):
        if sign in output:
            raise ModelError(f"The search was cut short: {meaning}.")
    found = re.search(r"depth reached (\d+), errors: (\d+)", output)
    states = re.search(r"^ *([\d.e+]+) states, stored", output, re.MULTILINE)
    if found is None or states is None:
        raise ModelError("Spin's output has no count of errors and states.")
    wrong = re.search(r"^pan:\d+: (.*) \(at depth \d+\)", output, re.MULTILINE)
    if (wrong is None) != (found[2] == "0"):
        raise ModelError("Spin counts errors that it does not name.")
    ending: Ending = "holds"
    if wrong is not None:
        # A forbidden array index, say, is an error of the model itself.
        if not wrong[1].startswith("assertion violated ") or "invalid array" in wrong[1]:
            raise ModelError(f"The model itself is wrong: {wrong[1]}.")
        ending = "forks" if "decided!=3" in wrong[1] else "reached"
    elif "Search not completed" in output:
        raise ModelError("The search was not completed.")
    _, _, rest = output.partition("unreached in proctype voter\n")
    lines = [line.strip() for line in rest.partition("\nunreached")[0].splitlines()]
    missed = tuple(line for line in lines if "state" in line and '"-end-"' not in line)
    unreached = tuple(line for line in missed if not line.startswith("("))
    return Outcome(ending, int(float(states[1])), int(found[1]), unreached)


def judge(run: Run, outcome: Outcome) -> str:
    """Why this outcome is not what was expected of the run; empty if it is."""
    if outcome.ending != run.expected:
        return f"It should be that the model {run.expected}, but it {outcome.ending}."
    if run.whole and outcome.unreached:
        return f"No path executes this: {outcome.unreached[0]}."
    return ""


def _call(directory: Path, *command: str) -> str:
    """The standard output of a program that must succeed."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{command[0]} took over {RUN_SECONDS_MAX} s.") from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ModelError(f"{command[0]} failed: {words[-1] if words else done.returncode}")
    return done.stdout


def check(run: Run) -> Result:
    """Compile the model for this run, search it, and compare."""
    started = time.monotonic()
    outcome, story, problem = None, "", ""
    with tempfile.TemporaryDirectory(prefix="medpact-model-") as place:
        directory = Path(place)
        model = directory / MODEL.name
        shutil.copyfile(MODEL, model)
        try:
            _call(directory, "spin", *run.definitions, "-a", model.name)
            _call(directory, *COMPILE, *(["-DREACH"] * run.shortest), "-o", "pan", "pan.c")
            output = _call(directory, "./pan", f"-m{DEPTH_MAX}", *(["-i"] * run.shortest))
            outcome = parse(output)
            problem = judge(run, outcome)
            if outcome.ending != "holds":
                story = _call(directory, "spin", *run.definitions, "-t", "-T", model.name)
        except ModelError as error:
            problem = str(error)
    told = tuple(line for line in story.splitlines() if line.startswith("view "))
    return Result(run, outcome, time.monotonic() - started, told, problem)


def check_all(runs: Sequence[Run], report: Callable[[int, Result], None]) -> list[Result]:
    """Check them, RUNS_AT_ONCE at a time; `report` gets each as it ends, with how many have."""
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        futures = [pool.submit(check, run) for run in runs]
        for number, future in enumerate(as_completed(futures), 1):
            report(number, future.result())
    return [future.result() for future in futures]


def as_document(results: Sequence[Result]) -> dict[str, Any]:
    """For --json."""
    return {
        "passed": not any(result.problem for result in results),
        "runs": [
            {
                "title": result.run.title,
                "definitions": [word.removeprefix("-D") for word in result.run.definitions],
                "expected": result.run.expected,
                "found": None if result.outcome is None else result.outcome.ending,
                "states": None if result.outcome is None else result.outcome.states,
                "depth": None if result.outcome is None else result.outcome.depth,
                "seconds": round(result.seconds, 1),
                "story": list(result.story),
                "problem": result.problem,
            }
            for result in results
        ],
    }


def as_table(results: Sequence[Result]) -> Table:
    """For people."""
    table = Table("run", box=SIMPLE, caption="recorders, auditors: Byzantine members of all")
    for heading in ("recorders", "auditors", "views", "found", "states", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        run, outcome = result.run, result.outcome
        table.add_row(
            f"{run.title}, staged" if STAGED in run.options else run.title,
            f"{run.byzantine_recorders} of {run.recorders}",
            f"{run.byzantine_auditors} of {run.auditors}",
            str(run.views),
            "nothing" if outcome is None else outcome.ending,
            "" if outcome is None else f"{outcome.states:,}",
            f"{result.seconds:.1f}",
            style="red" if result.problem else None,
        )
    return table


def main() -> int:
    """Run it all; 0 if every run ends as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--stories", action="store_true", help="tell how every run got there")
    arguments = parser.parse_args()
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if missing:
        packages = " ".join(missing)
        words = f"The model is checked by programs that are not here: apt-get install {packages}"
        print(words, file=sys.stderr)
        return 2
    runs = plan()
    progress = Console(stderr=True, highlight=False)

    def report(number: int, result: Result) -> None:
        ending = "nothing" if result.outcome is None else result.outcome.ending
        options = "".join(f" {option}" for option in result.run.options)
        line = (
            f"[{number}/{len(runs)}] {result.run.title}{options}: {ending} ({result.seconds:.1f} s)"
        )
        progress.print(line, markup=False, soft_wrap=True)

    results = check_all(runs, report)
    if arguments.json:
        print(json.dumps(as_document(results), indent=2))
    else:
        console = Console(highlight=False)
        console.print(as_table(results))
        for result in results:
            if result.story and (arguments.stories or result.run.shortest):
                console.print(f"\n{result.run.title}", style="bold")
                console.print("\n".join(f"  {line}" for line in result.story), soft_wrap=True)
    wrong = [result for result in results if result.problem]
    for result in wrong:
        print(f"{' '.join(result.run.definitions)}: {result.problem}", file=sys.stderr)
    if not arguments.json and not wrong:
        print(f"All {len(runs)} runs ended as they should.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
