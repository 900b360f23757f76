"""The options of `medpact simulate --capacity`, and what they order; cli.py prints the results."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from consensus.committee import QuorumRule
    from simulations.capacity_networks import Condition
    from simulations.capacity_sweep import Sweep

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path, readable=False)
_LIST = "separated by commas"


def capacity_options(command: Command) -> Command:
    """Give `simulate` the options that go with --capacity."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option("--capacity", is_flag=True, help="Measure throughput and latency instead."),
    click.option("--calibrate", is_flag=True, help="Measure the costs of work on this machine."),
    click.option(
        "--costs", type=PATH, help="The costs to reckon with; with --calibrate, where to write."
    ),
    click.option("--genesis", type=PATH, help="Capacity of the consortium of this genesis file."),
    click.option("--institutions", metavar="N,N", help=f"Sizes, 4 to 200, {_LIST}."),
    click.option("--quorums", metavar="RULE,RULE", help=f"flat, pooled, per_class, {_LIST}."),
    click.option("--conditions", metavar="NAME,NAME", help="healthy, dead recorder, f faults."),
    click.option("--link", default="province", show_default=True, help="Links between nodes."),
    click.option("--cores", type=int, default=2, show_default=True, help="Of each node."),
    click.option("--shared-cores", type=int, help="All nodes on one machine with so many cores."),
    click.option("--blocks", type=int, help="How many to measure of each network. Default: 32."),
    click.option("--burst", type=int, help="Transactions submitted at once. Default: 20."),
    click.option("--operations", type=int, help="In each transaction. Default: 1."),
    click.option("--outstanding", type=int, help="Without a receipt at saturation."),
    click.option("--block-transactions", type=int, help="The most in a block."),
    click.option("--csv", type=PATH, help="Write the figures to this file."),
    click.option("--plot", type=PATH, metavar="DIR", help="Draw them into this directory."),
    click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster there."),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What the options of capacity said, as click gives them."""

    capacity: bool
    calibrate: bool
    costs: Path | None
    genesis: Path | None
    institutions: str | None
    quorums: str | None
    conditions: str | None
    link: str
    cores: int
    shared_cores: int | None
    blocks: int | None
    burst: int | None
    operations: int | None
    outstanding: int | None
    block_transactions: int | None
    csv: Path | None
    plot: Path | None
    scheduler: str | None

    def stray(self, context: click.Context) -> str | None:
        """The first option of these that the user has given, if any."""
        names = [field.name for field in fields(self)]
        for option in context.command.params:
            given = context.get_parameter_source(option.name or "")
            if option.name in names and given is ParameterSource.COMMANDLINE:
                return option.opts[0]
        return None

    def sweep(self, seed: int) -> "Sweep":
        """Raises CapacityError for what cannot be simulated."""
        from simulations.capacity_networks import CONDITIONS, Load
        from simulations.capacity_sweep import BLOCKS, RULES, SIZES, Sweep

        usual = Load()
        load = Load(
            burst=_given(self.burst, usual.burst),
            operations=_given(self.operations, usual.operations),
            outstanding=_given(self.outstanding, usual.outstanding),
            block_transactions=_given(self.block_transactions, usual.block_transactions),
        )
        sizes = SIZES if self.institutions is None else _numbers(self.institutions)
        rules = _chosen(self.quorums, RULES, RULES, "quorum rule")
        conditions = _chosen(self.conditions, CONDITIONS, CONDITIONS, "condition")
        found = Sweep(
            sizes=sizes,
            rules=cast("tuple[QuorumRule, ...]", rules),
            conditions=cast("tuple[Condition, ...]", conditions),
            link="machine" if self.shared_cores is not None else self.link,
            cores=_given(self.shared_cores, self.cores),
            shared=self.shared_cores is not None,
            blocks=_given(self.blocks, BLOCKS),
            load=load,
            seed=seed,
        )
        found.check()
        return found


def _given(value: int | None, usual: int) -> int:
    return usual if value is None else value


def _numbers(text: str) -> tuple[int, ...]:
    from simulations.capacity_sweep import CapacityError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise CapacityError(
            f"--institutions takes numbers such as 4,10,40, not {text!r}."
        ) from error


def _chosen(
    text: str | None, known: tuple[str, ...], usual: tuple[str, ...], what: str
) -> tuple[str, ...]:
    from simulations.capacity_sweep import CapacityError

    if text is None:
        return usual
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in known:
            raise CapacityError(
                f"There is no {what} named {name!r}; take one of {', '.join(known)}."
            )
    return names
