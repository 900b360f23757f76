"""`make bench`: every aim, what was got, met or not.

    python -m simulations.bench [--seconds 8] [--transactions 1000000] [--json]

A quarter of an hour, most of it for a chain of a million transactions. Exit code 0 unless it could
not be measured: a miss is a figure, no failure.
"""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from simulations.bench.bench import Bench, Result
from simulations.bench.growth import MARKS, Growth, grow, lines
from simulations.bench.options import BenchError, Options
from simulations.bench.report import percent_of_floor
from simulations.command import CommandFailed, ask

SECONDS = 8.0
RSS_MIB_MAX = 400
CAPACITY = (
    "simulate --capacity --institutions 40 --quorums flat,per_class --conditions healthy --blocks 4"
)
"""Of a network that fits no machine, in virtual time."""


@dataclass(frozen=True, slots=True)
class Line:
    """An aim and what became of it."""

    aim: str
    got: str
    met: bool


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured, and how it compares with the aims."""

    lines: tuple[Line, ...]
    one: Result
    hundred: Result
    ten: Result
    growth: Growth


def judge(one: Result, hundred: Result, ten: Result, growth: Growth, classes: float) -> list[Line]:
    """Every aim, in the order of the list; `classes` is their throughput over that of flat."""
    half = one.open_loops["50%"].latency
    share, floor = percent_of_floor(one), one.floor.tx_per_second
    by_cpu, rate = 100 * one.of_floor.by_cpu, one.saturation.tx_per_second
    lone = one.lone.p50_ms if one.lone is not None else float("inf")
    four, more = one.saturation.cpu_us_per_transaction, ten.saturation.cpu_us_per_transaction
    first, last = growth.marks[0], growth.marks[-1]
    kept = last.tx_per_second / first.tx_per_second
    kept_of_floor = kept * first.floor_tx_per_second / last.floor_tx_per_second
    start = max(mark.start_seconds for mark in growth.marks)
    memory = max(mark.rss_bytes_max for mark in growth.marks) / 2**20
    operations = hundred.saturation.operations_per_second
    per_cpu, own = four / more, one.of_floor.own_cost_us
    caught = growth.catch_up.times_live_speed
    return [
        Line(
            "4 recorders, 300 B: 60 % of the floor",
            f"{share:.1f} % of floor ({rate:.0f} of {floor:.0f} tx/s)",
            share >= 60,
        ),
        Line("  the same by processor time", f"{by_cpu:.1f} % of floor", by_cpu >= 60),
        Line("100 operations: 15,000/s", f"{operations:.0f} operations/s", operations >= 15_000),
        Line("p50 at half of saturation: 50 ms", f"{half.p50_ms} ms", half.p50_ms <= 50),
        Line("p99 at half of saturation: 250 ms", f"{half.p99_ms} ms", half.p99_ms <= 250),
        Line("lone transaction, p50: 30 ms", f"{lone} ms", lone <= 30),
        Line("own cost a transaction and node: 40 us", f"{own:.1f} us", own <= 40),
        Line(
            "7 voters + 3 observers: half of 4 voters per processor time",
            f"{per_cpu:.2f} ({more:.0f} and {four:.0f} us a transaction and node)",
            per_cpu >= 0.5,
        ),
        Line(
            f"throughput at {last.transactions} to that at {first.transactions}: 0.8",
            f"{kept:.2f}",
            kept >= 0.8,
        ),
        Line("  the same in shares of the floor", f"{kept_of_floor:.2f}", kept_of_floor >= 0.8),
        Line("start-up: under 5 s", f"{start} s", start < 5),
        Line(f"memory: under {RSS_MIB_MAX} MiB", f"{memory:.0f} MiB", memory < RSS_MIB_MAX),
        Line("catch-up: 5 times live speed", f"{caught} times", caught >= 5),
        Line(
            "classes against flat, 40 institutions in virtual time: 5 times",
            f"{classes:.1f} times",
            classes >= 5,
        ),
    ]


def table(found: Sequence[Line], machine: dict[str, object]) -> Table:
    """For people."""
    where = f"{machine['date']}, {machine['cores']} cores, {machine['processor']}"
    shown = Table("aim", "got", "", title=f"medpact bench, {where}", title_justify="left")
    for line in found:
        shown.add_row(line.aim, line.got, "met" if line.met else "not met")
    return shown


def compare_classes() -> float:
    """The simulated throughput of a quorum per class over that of flat. Raises BenchError."""
    try:
        told = ask(*CAPACITY.split())
    except CommandFailed as error:
        raise BenchError(str(error)) from error
    rates = {each["quorum"]: each["transactions_per_second"] for each in told["results"]}
    return float(rates["per_class"] / rates["flat"])


def measure(seconds: float, marks: tuple[int, ...], say: Callable[[str], None]) -> Found:
    """Measure all. Raises BenchError."""

    def one(options: Options) -> Result:
        return Bench(options).run(say, lambda _: None)

    say("4 recorders, 300 B, one operation")
    plain = one(Options(seconds=seconds))
    say("4 recorders, 100 operations a signature")
    hundred = one(Options(seconds=seconds, operations=100, lone=0))
    say("4 recorders, 3 auditors, 3 observers")
    ten = one(Options(auditors=3, observers=3, seconds=seconds, in_flight=4_000, lone=0))
    say("growth and catch-up")
    grown = grow(marks, say)
    say("40 institutions in virtual time")
    judged = judge(plain, hundred, ten, grown, compare_classes())
    return Found(tuple(judged), plain, hundred, ten, grown)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each loaded phase")
    parser.add_argument(
        "--transactions", type=int, default=MARKS[-1], help="to which the chain grows"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    marks = (*(mark for mark in MARKS if mark < arguments.transactions), arguments.transactions)
    console, errors = Console(highlight=False), Console(highlight=False, stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = measure(arguments.seconds, marks, errors.print)
    except BenchError as error:
        errors.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted. All processes of the benchmark have been stopped.")
        return 130
    if arguments.json:
        console.print(json.dumps(dataclasses.asdict(found), indent=2), soft_wrap=True)
        return 0
    console.print(table(found.lines, found.one.machine))
    for line in lines(found.growth):
        console.print(line, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
