"""One chain grown through real daemons, looked at on the way; then an empty node catches up.

    python -m simulations.bench.growth [--marks 10000,100000,1000000] [--json]

Four recorders take transactions as fast as they can. At each mark: throughput of the last 100,000
and the machine's floor at that moment, memory, the time that a killed node needs to be back in
step, how long queries take, and the size of the database. At the end the data of the observer is
removed and it starts anew. Exit code 0 unless it could not be measured.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from node.client import RpcError, RpcUnavailable, call_sync
from simulations.bench import floor as floors
from simulations.bench.figures import Latency, latency
from simulations.bench.machine import database_bytes, facts, used
from simulations.bench.network import Client, Network, network, pids, workplace
from simulations.bench.options import BenchError, Options
from simulations.bench.results import phase
from simulations.command import run

MARKS = (10_000, 100_000, 1_000_000)
CHUNK = 20_000
"""Transactions signed and sent at a time."""
STRETCH_CHUNKS = 5
"""The last chunks before a mark that count for its throughput: what follows from blocks is written
behind them, in steps about as long as a chunk.
"""
IN_FLIGHT = 4_000
QUERIES = 100
STEP_SECONDS_MAX = 600
"""How long a node may take until it is in step."""
OPTIONS = Options(recorders=4, observers=1)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Mark:
    """The chain at one length."""

    transactions: int
    height: int
    tx_per_second: float
    floor_tx_per_second: float
    """What the machine could at most at that moment, the daemons at rest: in so many minutes its
    speed may change.
    """
    cpu_us_per_transaction: float
    rss_bytes_max: int
    start_seconds: float
    """From the start of a killed node until it has the others' head."""
    queries: dict[str, Latency]
    database_bytes: int


@dataclass(frozen=True, slots=True)
class CatchUp:
    """An empty node, from its first answer to a client on: how long it takes to start is a mark's
    `start_seconds`.
    """

    seconds: float
    blocks_per_second: float
    tx_per_second: float
    times_live_speed: float


@dataclass(frozen=True, slots=True)
class Growth:
    """All that was found."""

    machine: dict[str, object]
    marks: tuple[Mark, ...]
    catch_up: CatchUp


def grow(marks: Sequence[int], say: Say) -> Growth:
    """Grow a chain to each of the marks. Raises BenchError."""
    if not marks or list(marks) != sorted(set(marks)) or marks[0] < 1:
        raise BenchError("Give one or more numbers of transactions, each above the last.")
    with workplace() as directory:
        machine = facts(directory)
        with network(directory, OPTIONS) as running:
            loaded, final = 0.0, 0
            found = []
            for mark in marks:
                say(f"growing to {mark} transactions")
                seconds, reached = _mark(running.directory, mark, final, say)
                loaded, final = loaded + seconds, mark
                found.append(reached)
            say("an empty node catches up")
            caught_up = _catch_up(running.directory, final, loaded)
    return Growth(machine, tuple(found), caught_up)


def _mark(place: Path, mark: int, final: int, say: Say) -> tuple[float, Mark]:
    """Grow up to a mark; how long that took under load, and what is found there."""
    running, chunks = Network(place, pids(place)), list[tuple[int, float]]()
    # A seed of its own: a record is registered once.
    with Client(running, dataclasses.replace(OPTIONS, seed=mark), lambda _: None) as client:
        while final < mark:
            count = min(CHUNK, mark - final)
            client.ask("sign", count=count)
            started = time.monotonic()
            seen = client.ask("closed", in_flight=IN_FLIGHT, warm_up=0, seconds=STEP_SECONDS_MAX)
            seconds = time.monotonic() - started
            if seen["failed"]:
                raise BenchError(f"Transactions had no effect: {seen['failed']}.")
            final += count
            chunks.append((count, seconds))
            say(f"{final} transactions, {count / seconds:.0f} a second")
        asked = client.ask("query", count=QUERIES)
        cost = _cost(seen)
        rss = max(used(pid).rss_bytes for pid in running.pids.values())
    floor = floors.measure(place.parent, OPTIONS.nodes, OPTIONS.check(), OPTIONS.seed)
    start_seconds = _restart(place)
    stretch = chunks[-STRETCH_CHUNKS:]
    rate = sum(count for count, _ in stretch) / sum(seconds for _, seconds in stretch)
    return sum(seconds for _, seconds in chunks), Mark(
        mark,
        _height(place / "recorder-1"),
        round(rate, 1),
        floor.tx_per_second,
        cost,
        rss,
        round(start_seconds, 2),
        {name: latency(values) for name, values in asked["latencies_ms"].items()},
        database_bytes(place / "recorder-1"),
    )


def _cost(seen: dict[str, object]) -> float:
    """Processor time of a transaction in the last stretch; 0 if that was a single block."""
    try:
        return phase(seen, 1).cpu_us_per_transaction
    except BenchError:
        return 0.0


def _restart(place: Path) -> float:
    """Kill the observer and start it; seconds until it has the head that the others have now."""
    name = OPTIONS.watched
    _kill(place, name)
    wanted = _height(place / "recorder-1")
    started = time.monotonic()
    _start(place, name)
    _follow(place / name, wanted)
    return time.monotonic() - started


def _kill(place: Path, name: str) -> None:
    ended = run("testnet", "kill", place, name)
    if ended.code != 0:
        raise BenchError(f"{name} could not be killed: {ended.sentence}")


def _start(place: Path, name: str) -> None:
    ended = run("testnet", "start", place, name)
    if ended.code != 0:
        raise BenchError(f"{name} did not start again: {ended.sentence}")


def _follow(home: Path, wanted: int) -> tuple[float, int]:
    """Wait for a head. Seconds since the node first answered, and the head that it had then; if it
    had all by then, seconds since now.
    """
    asked = time.monotonic()
    first: tuple[float, int] | None = None
    while (height := _height(home)) < wanted:
        now = time.monotonic()
        if height >= 0 and first is None:
            first = now, height
        if now > asked + STEP_SECONDS_MAX:
            raise BenchError(f"{home.name} was not in step after {STEP_SECONDS_MAX} s.")
        time.sleep(0.02)
    began, height = (asked, 0) if first is None else first
    return time.monotonic() - began, height


def _height(home: Path) -> int:
    """A node's head; -1 if it does not answer."""
    try:
        return int(call_sync(home, "node_status")["height"])
    except (RpcError, RpcUnavailable):
        return -1


def _catch_up(place: Path, transactions: int, loaded: float) -> CatchUp:
    name = OPTIONS.watched
    _kill(place, name)
    shutil.rmtree(place / name / "data")
    wanted = _height(place / "recorder-1")
    with ThreadPoolExecutor(1) as beside:
        # It waits until the node is up, and longer.
        starting = beside.submit(_start, place, name)
        seconds, first = _follow(place / name, wanted)
        starting.result()
    blocks = wanted - first
    rate = transactions * blocks / wanted / seconds
    times = rate * loaded / transactions
    return CatchUp(round(seconds, 2), round(blocks / seconds, 1), round(rate, 1), round(times, 2))


def lines(growth: Growth) -> list[str]:
    """What was found, in words."""
    found = []
    for mark in growth.marks:
        asked = ", ".join(
            f"{name} p50 {took.p50_ms} p99 {took.p99_ms} ms" for name, took in mark.queries.items()
        )
        found.append(
            f"{mark.transactions} transactions, height {mark.height}: {mark.tx_per_second:.0f} "
            f"tx/s (floor {mark.floor_tx_per_second:.0f}), {mark.cpu_us_per_transaction:.0f} us of "
            f"processor time a transaction and node, "
            f"{mark.rss_bytes_max // 2**20} MiB of memory, start {mark.start_seconds} s, {asked}, "
            f"database {mark.database_bytes // 2**20} MiB"
        )
    caught = growth.catch_up
    found.append(
        f"catch-up of an empty node: {caught.seconds} s, {caught.blocks_per_second} blocks/s, "
        f"{caught.tx_per_second:.0f} tx/s, {caught.times_live_speed} times live speed"
    )
    return found


def main() -> int:
    """Grow and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--marks", default=",".join(map(str, MARKS)))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    console, errors = Console(highlight=False), Console(highlight=False, stderr=True)
    try:
        marks = [int(mark) for mark in arguments.marks.split(",")]
        growth = grow(marks, errors.print)
    except ValueError:
        errors.print("--marks takes numbers with commas between them, such as 1000,10000.")
        return 2
    except BenchError as error:
        errors.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted. All processes of the benchmark have been stopped.")
        return 130
    if arguments.json:
        console.print(json.dumps(dataclasses.asdict(growth), indent=2), soft_wrap=True)
    else:
        for line in lines(growth):
            console.print(line, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
