"""Many cells, on all processors here or on those of a Dask cluster, with the same results."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from consensus.committee import QuorumRule
from simulations.capacity import Cell, Result, run_cell
from simulations.capacity_links import LINKS
from simulations.capacity_networks import CONDITIONS, Condition, Load, genesis_of, mix_of
from simulations.costs import Costs

SIZES = (4, 7, 10, 16, 25, 40, 64, 100, 200)
RULES: tuple[QuorumRule, ...] = ("flat", "pooled", "per_class")
INSTITUTIONS_MAX = 200
BLOCKS = 32
"""As many as a recorder that missed its turn is passed over for at first."""
LATENCIES = 200
"""Else the 99th percentile would be one of a few."""
VOTES_MAX = 400_000
"""Of a measurement, about: where all of two hundred vote, there are fewer blocks."""
BLOCKS_MIN = 6


class CapacityError(ValueError):
    """What was asked for cannot be simulated; the message says what to ask for instead."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which networks to measure: every size under every rule in every condition."""

    sizes: tuple[int, ...] = SIZES
    rules: tuple[QuorumRule, ...] = RULES
    conditions: tuple[Condition, ...] = CONDITIONS
    link: str = "province"
    cores: int = 2
    shared: bool = False
    blocks: int = BLOCKS
    latencies: int = LATENCIES
    load: Load = Load()  # noqa: RUF009 - frozen
    seed: int = 0

    def check(self) -> None:
        """Raise CapacityError for what makes no sense."""
        for size in self.sizes:
            if not 4 <= size <= INSTITUTIONS_MAX:
                raise CapacityError(
                    f"A network has 4 to {INSTITUTIONS_MAX} institutions, not {size}."
                )
        if self.link not in LINKS:
            raise CapacityError(
                f"There are no links named {self.link!r}; take one of {', '.join(LINKS)}."
            )
        for name, least, given in (
            ("core", 1, self.cores),
            ("block", 1, self.blocks),
            ("transaction in a burst", 1, self.load.burst),
            ("operation", 1, self.load.operations),
            ("burst outstanding", self.load.burst, self.load.outstanding),
        ):
            if given < least:
                raise CapacityError(f"Give at least one {name}.")
        if 0 < self.load.block_transactions < self.load.burst:
            raise CapacityError(
                f"A block of {self.load.block_transactions} transactions holds no burst of "
                f"{self.load.burst}: give a smaller --burst."
            )

    def cells(self) -> list[Cell]:
        """In the order of the table. Raises CapacityError."""
        self.check()
        return [
            self.cell(genesis_of(mix_of(size), rule, {}), condition, _voters(size, rule))
            for size in self.sizes
            for condition in self.conditions
            for rule in self.rules
        ]

    def cell(self, genesis: bytes, condition: Condition, voters: int) -> Cell:
        """One network of this sweep."""
        affordable = max(BLOCKS_MIN, VOTES_MAX // (2 * voters * voters))
        return Cell(
            genesis,
            condition,
            self.link,
            self.cores,
            self.shared,
            min(self.blocks, affordable),
            self.latencies,
            self.load,
            self.seed,
        )


def _voters(size: int, rule: QuorumRule) -> int:
    mix = mix_of(size)
    return size if rule == "flat" else mix.recorders + mix.auditors


def run_cells(
    cells: Sequence[Cell],
    costs: Costs,
    executor: Executor,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run cells wherever `executor` runs them; the results are in the order of the cells."""
    # The largest first, so that none of them is left for the end.
    order = sorted(range(len(cells)), key=lambda place: -len(cells[place].genesis))
    futures = {executor.submit(run_cell, cells[place], costs): place for place in order}
    results: dict[int, Result] = {}
    for future in as_completed(futures):
        result = results[futures[future]] = future.result()
        if progress is not None:
            progress(result)
    return [results[place] for place in range(len(cells))]


@contextmanager
def workers(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Processes of this machine, or the workers of the Dask cluster whose scheduler is there.

    Raises CapacityError if Dask is not installed, or no scheduler answers.
    """
    if scheduler is None:
        with ProcessPoolExecutor(jobs) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise CapacityError(
            "A Dask cluster needs the extra `dask`: pip install 'medpact[dask]' here and on the "
            "workers."
        ) from error
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise CapacityError(f"No Dask scheduler answers at {scheduler}: {error}.") from error
    with client:
        yield client.get_executor()
