"""One benchmark: the floor, saturation, the floor again, then latencies at less than saturation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulations.bench import floor as floors
from simulations.bench.figures import Latency, latency
from simulations.bench.floor import Floor
from simulations.bench.machine import database_bytes, facts
from simulations.bench.network import Client, Document, network, workplace
from simulations.bench.options import IN_FLIGHT_MAX, Options
from simulations.bench.payload import Shape
from simulations.bench.results import OfFloor, Phase, of_floor, phase

WARM_UP_SECONDS = 2.0
STEP_WARM_UP_SECONDS = 1.0
STEP_SECONDS = 2.0
STEPS_MAX = 4
STEP_OPERATIONS = 1_000
"""Under way in the first step; each further one doubles it."""
STEP_GAIN_MIN = 1.05
"""Two steps in a row that gain less are the last."""
SPARE = 1.5
"""How many more transactions are signed than the floor would let through."""
OPEN_SHARES = (0.5, 0.8)
LONE_PER_SECOND = 8
"""About."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """All that one benchmark found."""

    machine: dict[str, object]
    options: Options
    transaction_bytes: int
    in_flight: int
    floor: Floor
    """The mean of the two below."""
    floors: tuple[Floor, ...]
    """Before and after saturation."""
    saturation: Phase
    of_floor: OfFloor
    open_loops: dict[str, Phase]
    """By percent of saturation."""
    lone: Latency | None
    database_bytes_per_transaction: float
    """Of a node, after it has stopped; the mean of all, over all phases."""


class Bench:
    """One benchmark in a temporary directory. Raises OptionError if it cannot be run."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._shape: Shape = options.check()
        self._due = 0
        """Seconds of this phase not told of yet."""
        self._say: Say = _nothing
        self._advance: Callable[[int], None] = _nothing

    @property
    def seconds(self) -> int:
        """About how many times `advance` is told of a second."""
        loaded = (1 + len(OPEN_SHARES)) * (WARM_UP_SECONDS + self._options.seconds)
        steps = 0.0 if self._options.in_flight else STEP_WARM_UP_SECONDS + STEP_SECONDS
        return int(loaded + STEPS_MAX * steps + self._options.lone // LONE_PER_SECOND)

    def run(self, say: Say, advance: Callable[[int], None]) -> Result:
        """Measure; `say` tells what it does now, `advance` that a second has passed.

        Raises BenchError.
        """
        self._say, self._advance = say, advance
        options = self._options
        with workplace() as directory:
            machine = facts(directory)
            self._say(f"starting {options.nodes} daemons")
            with (
                network(directory, options) as running,
                Client(running, options, self._tick) as client,
            ):
                before = self._floor(directory)
                in_flight = options.in_flight or self._find_in_flight(client, before)
                self._say(f"closed loop, {in_flight} transactions under way")
                saturation = self._closed(
                    client, before, in_flight, WARM_UP_SECONDS, options.seconds
                )
                after = self._floor(directory)
                floor = floors.mean((before, after))
                loops = {
                    f"{share:.0%}": self._open(client, saturation.tx_per_second * share)
                    for share in OPEN_SHARES
                }
                lone = self._lone(client) if options.lone else None
                final = int(client.ask("count")["final"])
            grown = sum(database_bytes(running.directory / name) for name in options.names)
        machine["sqlite"] = floor.sqlite
        return Result(
            machine,
            options,
            self._shape.size_bytes,
            in_flight,
            floor,
            (before, after),
            saturation,
            of_floor(saturation, floor),
            loops,
            lone,
            round(grown / options.nodes / final, 1),
        )

    def _floor(self, directory: Path) -> Floor:
        self._say(f"the floor, {self._options.nodes} processes")
        return floors.measure(directory, self._options.nodes, self._shape, self._options.seed)

    def _find_in_flight(self, client: Client, floor: Floor) -> int:
        """How many transactions under way give the highest throughput, in powers of two."""
        best, best_rate, lean = 0, 0.0, 0
        submitters = len(self._options.submitters)
        for step in range(STEPS_MAX):
            count = max(submitters, STEP_OPERATIONS * 2**step // self._options.operations)
            if count > IN_FLIGHT_MAX or lean == 2:
                break
            self._say(f"trying {count} transactions under way")
            tried = self._closed(client, floor, count, STEP_WARM_UP_SECONDS, STEP_SECONDS)
            lean = 0 if tried.tx_per_second > best_rate * STEP_GAIN_MIN else lean + 1
            if tried.tx_per_second > best_rate:
                best, best_rate = count, tried.tx_per_second
        return best

    def _closed(
        self, client: Client, floor: Floor, in_flight: int, warm_up: float, seconds: float
    ) -> Phase:
        client.ask("sign", count=self._enough(floor, warm_up + seconds) + 2 * in_flight)
        self._due = int(warm_up + seconds)
        seen = client.ask("closed", in_flight=in_flight, warm_up=warm_up, seconds=seconds)
        return phase(seen, self._options.operations)

    def _enough(self, floor: Floor, seconds: float) -> int:
        return int(floor.tx_per_second * seconds * SPARE) + 1

    def _open(self, client: Client, rate: float) -> Phase:
        options = self._options
        self._say(f"open loop, {rate:.0f} transactions a second")
        # The last block may be long in coming.
        client.ask("sign", count=int(rate * (WARM_UP_SECONDS + options.seconds) * SPARE) + 100)
        self._due = int(WARM_UP_SECONDS + options.seconds)
        seen: Document = client.ask(
            "open", rate=rate, warm_up=WARM_UP_SECONDS, seconds=options.seconds
        )
        return phase(seen, options.operations)

    def _lone(self, client: Client) -> Latency:
        self._say(f"{self._options.lone} lone transactions")
        client.ask("sign", count=self._options.lone)
        self._due = self._options.lone // LONE_PER_SECOND
        return latency(client.ask("lone", count=self._options.lone)["latencies_ms"])

    def _tick(self, answer: Document) -> None:
        # Settling goes on for longer than was foreseen.
        if self._due > 0:
            self._due -= 1
            self._advance(1)


def _nothing(_: object) -> None:
    """Tell nobody."""
