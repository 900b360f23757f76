"""Predictions of the cost model against real daemons on this machine.

    medpact simulate --calibrate --costs here.json
    medpact bench --output four.json
    .venv/bin/python -m simulations.capacity_check --costs here.json four.json [more results]

Each result of `medpact bench` is predicted for the machine that it ran on: all nodes share its
cores, the same institutions, as many transactions under way, the same operations in each. The error
is predicted / measured - 1, once for processor time of a node and transaction, which other programs
on the machine change little, and once for throughput, which is wrong by whatever else ran. What the
model leaves out is the process that makes the load: its share is taken off the cores' speed.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consensus.committee import QuorumRule
from simulations.capacity import run_cell
from simulations.capacity_networks import Load, Mix, genesis_of
from simulations.capacity_sweep import Sweep
from simulations.costs import DEFAULT, Costs, CostsError, read_costs

BURST = 20
BLOCKS = 16


class ResultError(ValueError):
    """A file that is no result of `medpact bench`; the message says which."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one network."""

    institutions: int
    what: str
    measured: float
    predicted: float

    def sentence(self) -> str:
        """For people."""
        error = f"{self.predicted / self.measured - 1:+.0%}" if self.measured else "not measured"
        return (
            f"N = {self.institutions}: {self.what}: measured {self.measured:,.0f}, predicted "
            f"{self.predicted:,.0f} ({error})"
        )


def compare(result: Mapping[str, Any], costs: Costs) -> list[Compared]:
    """Predict what a benchmark has measured. Raises KeyError and TypeError for another document."""
    options, saturation = result["options"], result["saturation"]
    mix = Mix(options["recorders"], options["auditors"], options["observers"])
    quorum: QuorumRule = options["quorum"]
    cores, share = int(result["machine"]["cores"]), float(saturation["client_share"])
    in_flight, operations = int(result["in_flight"]), int(options["operations"])
    burst = max(1, min(BURST, in_flight // 8))
    sweep = Sweep(
        link="machine",
        cores=cores,
        shared=True,
        blocks=BLOCKS,
        load=Load(burst=burst, operations=operations, outstanding=in_flight),
    )
    cell = sweep.cell(genesis_of(mix, quorum, {}), "healthy", mix.recorders + mix.auditors)
    found = run_cell(cell, slowed(costs, share))
    nodes, rate = found.institutions, max(found.transactions_per_second, 1e-9)
    # Without the slowing: that is no work of the daemons.
    cpu_us = found.processor_percent / 100 * cores * 1_000_000 / rate / nodes * (1 - share)
    half = result["open_loops"]["50%"]["latency"]
    figures = (
        ("processor us/tx/node", saturation["cpu_us_per_transaction"], cpu_us),
        ("tx/s at saturation", saturation["tx_per_second"], found.transactions_per_second),
        ("p50 ms at half of it", half["p50_ms"], found.latency_ms_p50),
    )
    return [Compared(nodes, what, float(real), model) for what, real, model in figures]


def slowed(costs: Costs, share: float) -> Costs:
    """The costs on cores of which something else takes a share; the disk is as fast as ever."""
    speed = 1 - share
    slow = {name: value / speed for name, value in asdict(costs).items()}
    return Costs(**(slow | {"fsync_us": costs.fsync_us}))


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="The cost model against real daemons.")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT")
    parser.add_argument("--costs", type=Path)
    options = parser.parse_args()
    try:
        costs = DEFAULT if options.costs is None else read_costs(options.costs.read_bytes())
        found = [one for path in options.results for one in _read(path, costs.costs)]
    except (OSError, CostsError, ResultError) as error:
        print(error, file=sys.stderr)
        return 1
    for one in found:
        print(one.sentence())
    return 0


def _read(path: Path, costs: Costs) -> list[Compared]:
    try:
        return compare(json.loads(path.read_bytes()), costs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path} is no result of `medpact bench --output`: {error!r}") from error


if __name__ == "__main__":
    sys.exit(main())
