"""What one's own consortium can take: its genesis file, in virtual time and in sentences."""

from collections.abc import Sequence
from dataclasses import replace

from consensus.committee import POOL, Committee, faulty_max, quorum_size
from ledger.committee import committee_of
from ledger.genesis import Genesis
from simulations.capacity import Cell, Result
from simulations.capacity_links import LINKS
from simulations.capacity_networks import CONDITIONS
from simulations.capacity_sweep import INSTITUTIONS_MAX, CapacityError, Sweep

DISTANCES = ("campus", "province", "greater-bay", "continental")


def questions(genesis: Genesis, sweep: Sweep) -> list[Cell]:
    """Healthy over every kind of link; with faults, and with more than it bears, over that of the
    sweep. Raises CapacityError.
    """
    sweep.check()
    count = len(genesis.institutions)
    if count > INSTITUTIONS_MAX:
        raise CapacityError(
            f"The genesis file has {count} institutions; at most {INSTITUTIONS_MAX} are simulated."
        )
    voters = len(_committee(genesis).voters)
    if voters < 2:
        raise CapacityError("The genesis file has one voter: there is nothing to agree on.")
    links = dict.fromkeys((sweep.link, *DISTANCES))
    healthy = sweep.cell(genesis.raw, "healthy", voters)
    cells = [replace(healthy, link=link) for link in links]
    sizes = _committee(genesis).group_sizes
    tolerant = any(faulty_max(n) for n in sizes.values())
    faults = [name for name in CONDITIONS[1:] if name != "f faults" or tolerant]
    return [*cells, *(sweep.cell(genesis.raw, name, voters) for name in (*faults, "beyond"))]


def answers(genesis: Genesis, results: Sequence[Result]) -> list[str]:
    """The sentences for an administrator; `results` are those of `questions`."""
    lines = [_load(result) for result in results if result.condition == "healthy"]
    lines += _survival(genesis)
    lines += [_fault(result, results[0]) for result in results if result.condition != "healthy"]
    return [*lines, *genesis.warnings]


def _committee(genesis: Genesis) -> Committee:
    return committee_of(genesis.institutions, genesis.classes, genesis.quorum)


def _load(result: Result) -> str:
    links = LINKS[result.link]
    if result.stopped:
        return f"Over {links.describe()}: it makes no blocks, even while all is well."
    return (
        f"Over {links.describe()}: up to {result.transactions_per_second:,.0f} transactions a "
        f"second. At half of that, half of the receipts come within {result.latency_ms_p50:,.0f} "
        f"ms, and 99 of 100 within {result.latency_ms_p99:,.0f} ms."
    )


def _survival(genesis: Genesis) -> list[str]:
    """What the quorum rule says; nothing here is measured."""
    sizes = _committee(genesis).group_sizes
    lines = []
    for group, n in sizes.items():
        q, f = quorum_size(n), faulty_max(n)
        who = "All voters together" if group == POOL else f"The {group}s"
        lines.append(
            f"{who} are {n}, and {q} of them must agree: {_count(n - q)} may be down without "
            f"stopping the ledger, and {_count(f)} may be dishonest."
        )
    lines.append(
        "If more are down, the ledger stands still; nothing is lost, and it goes on by itself as "
        "soon as enough are back."
    )
    if len(sizes) > 1:
        lines.append(
            "The books can be rewritten only if more are dishonest than that in every class at "
            "once: "
            + " and ".join(f"{faulty_max(n) + 1} {group}s" for group, n in sizes.items())
            + " who act together. One class alone, dishonest as a whole, can stop the ledger but "
            "not change it."
        )
    else:
        n = next(iter(sizes.values()))
        lines.append(
            f"The books can be rewritten if {faulty_max(n) + 1} voters are dishonest and act "
            "together, whatever their types."
        )
    return lines


def _count(number: int) -> str:
    return "none" if number == 0 else str(number)


def _fault(result: Result, healthy: Result) -> str:
    dead = ", ".join(result.dead)
    if result.stopped:
        return f"Simulated: with {dead} down, no block was made any more."
    left = result.transactions_per_second / max(healthy.transactions_per_second, 1e-9)
    return (
        f"Simulated: when {dead} {'dies' if len(result.dead) == 1 else 'die'}, "
        f"{result.transactions_per_second:,.0f} transactions a second are left over the next "
        f"blocks ({left:.0%}); at half of that, 99 of 100 receipts come within "
        f"{result.latency_ms_p99:,.0f} ms. Recorders that miss a turn are passed over from then on."
    )
