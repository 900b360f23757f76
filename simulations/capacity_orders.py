"""Carrying out what `medpact simulate --capacity` and `--calibrate` were asked for."""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ledger.genesis import GENESIS_BYTES_MAX, parse_genesis
from ledger.store import Write
from simulations.capacity_command import Order
from simulations.capacity_genesis import answers, questions
from simulations.capacity_report import HEADS, cost_rows, csv_text, document, plot, rows
from simulations.capacity_sweep import run_cells, workers
from simulations.costs import COSTS_BYTES_MAX, DEFAULT, read_costs, write_costs
from simulations.costs_calibration import CommitCost, TransportCost, calibrate, here

Read = Callable[[Path, int], bytes]
"""Reads a file of at most so many bytes. Raises OSError."""
CommitMeter = Callable[[Path, bytes, Sequence[Sequence[Write]]], Awaitable[Sequence[CommitCost]]]
TransportMeter = Callable[[], Awaitable[TransportCost]]


class Steps(Protocol):
    """How far it is."""

    def advance(self, amount: int) -> None:
        """So many networks more are measured."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to print."""

    document: dict[str, Any]
    heads: tuple[str, ...]
    rows: list[list[str]]
    sentences: list[str]


def carry_out(
    order: Order,
    seed: int,
    jobs: int,
    read: Read,
    progress: Callable[[int], AbstractContextManager[Steps]],
) -> Outcome:
    """Measure what was asked for, and write the files that were.

    Raises CapacityError, CostsError, GenesisError and OSError.
    """
    sweep, costs, genesis = order.sweep(seed), DEFAULT, None
    if order.costs is not None:
        costs = read_costs(read(order.costs, COSTS_BYTES_MAX))
    if order.genesis is not None:
        genesis = parse_genesis(read(order.genesis, GENESIS_BYTES_MAX))
    cells = sweep.cells() if genesis is None else questions(genesis, sweep)
    with workers(jobs, order.scheduler) as pool, progress(len(cells)) as steps:
        results = run_cells(cells, costs.costs, pool, lambda _: steps.advance(1))
    sentences = [] if genesis is None else answers(genesis, results)
    if order.csv is not None:
        order.csv.write_text(csv_text(results))
    if order.plot is not None:
        sentences += [f"Drawn: {path}" for path in plot(results, order.plot)]
    shown = document(results, costs) | {"sentences": sentences}
    return Outcome(shown, HEADS, rows(results), sentences)


def measure_costs(
    order: Order, commits: CommitMeter, transport: TransportMeter
) -> tuple[dict[str, Any], list[tuple[str, object]]]:
    """Calibrate; the costs as a document and as fields, written to the file of --costs as well.

    Raises OSError, and what the meters raise.
    """

    async def commit(chain_id: bytes, groups: Sequence[Sequence[Write]]) -> Sequence[CommitCost]:
        return await commits(Path(directory), chain_id, groups)

    async def carry() -> TransportCost:
        return await transport()

    with tempfile.TemporaryDirectory() as directory:
        carried = asyncio.run(carry())
        found = here(calibrate(lambda *given: asyncio.run(commit(*given)), carried))
    text = write_costs(found)
    if order.costs is not None:
        order.costs.write_text(text)
    return json.loads(text), cost_rows(found)
