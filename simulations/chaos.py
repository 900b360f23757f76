"""`make chaos`: a consortium of real daemons under load, while everything goes wrong.

    .venv/bin/python -m simulations.chaos                      three seeds, about ten minutes
    .venv/bin/python -m simulations.chaos --seed 7 --seconds 120

From its seed each run draws a plan of faults: daemons killed and started again, frozen, cut off
from each other, their disk full, their clock wrong, and everybody struck at once. Then all is
healed; the heads must become equal and new transactions must be accepted, and the databases are
read: nothing that was acknowledged is lost or ran twice, all nodes have the same blocks and state,
and nobody has ever signed two things that contradict each other. docs/testing.md says more.

Exit codes: 0 all is well, 127 a daemon crashed, 128 the ledger did not go on, 129 something is
wrong, 130 after Ctrl-C. The plan is repeated by its seed; real processes and their time are not.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from simulations.campaign import Verdict
from simulations.chaos_machine import ENDED_BY_SIGTERM, Machine, MachineError, enter
from simulations.chaos_plan import Plan, Shape
from simulations.chaos_report import SeedReport, Settings
from simulations.chaos_run import run_seed
from simulations.command import CommandFailed

MODULE = "simulations.chaos"
SEEDS = 3
SECONDS = 200.0
RATE = 20
BASE_PORT = 21_000
INTERRUPTED = 130
FAILED = 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the process with 2 if it is wrong."""
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, help="the first seed (alone, unless --seeds is given)")
    parser.add_argument("--seeds", type=_positive, help=f"how many seeds (default {SEEDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each seed, roughly")
    parser.add_argument("--rate", type=_positive, default=RATE, help="transactions per second")
    shape = Shape()
    parser.add_argument("--recorders", type=_positive, default=shape.recorders)
    parser.add_argument("--auditors", type=_positive, default=shape.auditors)
    parser.add_argument("--observers", type=int, choices=range(17), default=shape.observers)
    parser.add_argument("--base-port", type=_positive, default=BASE_PORT)
    parser.add_argument("--plan", action="store_true", help="show the faults and run nothing")
    parser.add_argument("--keep", action="store_true", help="keep homes and logs of all runs")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def settings_of(options: argparse.Namespace) -> Settings:
    """The part of the command line that is equal for all seeds."""
    shape = Shape(options.recorders, options.auditors, options.observers)
    return Settings(shape, options.seconds, options.rate, options.base_port)


def seeds_of(options: argparse.Namespace) -> range:
    """Which seeds to run."""
    first = 1 if options.seed is None else options.seed
    count = options.seeds or (SEEDS if options.seed is None else 1)
    return range(first, first + count)


def repeat_command(seed: int, settings: Settings) -> str:
    """The command that carries out the same faults again."""
    shape, default = settings.shape, Shape()
    words = [f"python -m {MODULE} --seed {seed} --seconds {settings.seconds:g}"]
    given = {
        "--recorders": (shape.recorders, default.recorders),
        "--auditors": (shape.auditors, default.auditors),
        "--observers": (shape.observers, default.observers),
        "--rate": (settings.rate, RATE),
    }
    words += [f"{name} {value}" for name, (value, usual) in given.items() if value != usual]
    return " ".join(words)


def show_plans(seeds: range, settings: Settings) -> None:
    """Print what happens in the time that there is, if every daemon always answers at once."""
    for seed in seeds:
        plan = Plan(seed, settings.shape)
        print(f"Seed {seed}: small disks at {', '.join(plan.small_disks)}")
        now_ms = 0
        for number, one in enumerate(plan.rounds(), start=1):
            now_ms += one.calm_ms
            for fault in sorted(one.faults, key=lambda fault: fault.at_ms):
                print(f"  {number:3}  {(now_ms + fault.at_ms) / 1000:6.1f} s  {fault.text()}")
            now_ms += max(fault.at_ms + fault.lasts_ms for fault in one.faults)
            if now_ms > settings.fault_ms:
                break


def run_all(seeds: range, settings: Settings, console: Console, *, keep: bool) -> list[SeedReport]:
    """Run the seeds one after another. Raises MachineError or CommandFailed."""
    machine = Machine()
    machine.set_up()
    for kind, why in machine.missing.items():
        console.print(f"Not done here: {kind.value}; {why}.")
    reports: list[SeedReport] = []
    for seed in seeds:
        directory = Path(tempfile.mkdtemp(prefix=f"medpact-chaos-{seed}-"))
        started = time.monotonic()

        def say(words: str, started: float = started, seed: int = seed) -> None:
            console.print(f"[seed {seed}, {time.monotonic() - started:5.1f} s] {words}")

        kept = True
        try:
            report = run_seed(settings, seed, machine, directory, say, keep=keep)
            kept = keep or report.verdict is not Verdict.PASSED
        except (KeyboardInterrupt, SystemExit):
            kept = keep
            raise
        finally:
            if kept:
                console.print(f"Homes and logs are kept in {directory}")
            else:
                shutil.rmtree(directory)
        reports.append(report)
        say(f"{report.verdict.name.lower()} {report.reason}")
        if report.verdict is not Verdict.PASSED:
            console.print(f"To repeat these faults: {repeat_command(seed, settings)}")
    return reports


def summary(reports: Sequence[SeedReport]) -> Table:
    """One line a seed."""
    table = Table(
        "seed",
        "verdict",
        "height",
        "acknowledged",
        "faults",
        "votes",
        "p95",
        "longest stall",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for report in reports:
        figures = report.figures
        table.add_row(
            str(report.seed),
            report.verdict.name.lower(),
            str(figures.height),
            str(figures.acknowledged),
            str(sum(figures.faults.values())),
            str(figures.votes),
            f"{figures.latency_p95_ms} ms",
            f"{figures.stall_ms / 1000:.1f} s",
        )
    return table


def main() -> int:
    """Run the seeds; the exit code is the gravest verdict."""
    options = parse(sys.argv[1:])
    settings, seeds = settings_of(options), seeds_of(options)
    if options.plan:
        show_plans(seeds, settings)
        return 0
    inside = enter(MODULE, sys.argv[1:])
    if inside is not None:
        return inside
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED_BY_SIGTERM))
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        reports = run_all(seeds, settings, console, keep=options.keep)
    except KeyboardInterrupt:
        console.print("Interrupted; all daemons are stopped.")
        return INTERRUPTED
    except (MachineError, CommandFailed, OSError) as error:
        console.print(f"The run could not be carried out: {error}")
        return FAILED
    code = max(int(report.verdict) for report in reports)
    if options.json:
        document = {"exit_code": code, "seeds": [report.document() for report in reports]}
        print(json.dumps(document, indent=2))
    else:
        Console(highlight=False).print(summary(reports))
    return code


if __name__ == "__main__":
    sys.exit(main())
