"""From what the loading process saw to figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulations.bench.figures import Latency, Second, Sizes, latency, ratio, series, sizes
from simulations.bench.floor import Floor
from simulations.bench.options import BenchError

CLIENT_SHARE_MAX = 0.8
"""Of one processor; a client that uses more may be what holds the network up."""
CLIENT_LATE_MS_MAX = 100.0


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What one daemon used in a phase, per transaction that became final in it."""

    cpu_us: float
    rss_bytes: int
    """At the end."""
    wire_bytes: float
    """Sent to other nodes, encrypted, without TCP's own."""
    written_bytes: float
    """Handed to the disk."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A loaded phase, between two blocks of it."""

    seconds: float
    transactions: int
    tx_per_second: float
    operations_per_second: float
    latency: Latency
    blocks: Sizes
    view_changes: int
    """The most that a node counted."""
    late_views: int
    """Blocks that were not committed in their first view."""
    cpu_us_per_transaction: float
    """Of a daemon, the mean of all."""
    wire_bytes_per_transaction: float
    """Sent by a daemon, the mean of all."""
    written_bytes_per_transaction: float
    rss_bytes_max: int
    nodes: dict[str, NodeCost]
    client_cpu_seconds: float
    client_share: float
    """Of all processor time that daemons and client used."""
    client_late_ms: float
    """By how much a call was late at most, in an open loop."""
    failed: dict[str, int]
    """Transactions that had no effect, by the code of their receipt."""
    refused: int
    """Submissions that a node had no room for at first."""
    warnings: tuple[str, ...]
    series: tuple[Second, ...]


@dataclass(frozen=True, slots=True)
class OfFloor:
    """How near the floor the saturated network is; each is a share, 1 is the floor."""

    by_clock: float
    """Transactions per second, where the daemons had what the client left them of the machine."""
    by_clock_with_client: float
    """The same without setting the client's share apart."""
    by_cpu: float
    """Processor time of a transaction at the floor to that at a daemon: other programs on the
    machine make little of a difference."""
    own_cost_us: float
    """Processor time of a daemon for a transaction beyond the signature check."""


def of_floor(phase: Phase, floor: Floor) -> OfFloor:
    """Compare."""
    plain = ratio(phase.tx_per_second, floor.tx_per_second)
    return OfFloor(
        round(ratio(plain, 1 - phase.client_share), 4),
        round(plain, 4),
        round(ratio(floor.cpu_us_per_transaction, phase.cpu_us_per_transaction), 4),
        round(phase.cpu_us_per_transaction - floor.check_us_per_transaction, 2),
    )


def phase(seen: Mapping[str, Any], operations: int) -> Phase:
    """The figures of a closed or open loop. Raises BenchError if nothing became final in it."""
    counts, seconds = seen["blocks"], seen["seconds"]
    transactions = sum(counts)
    if not transactions or not seconds:
        raise BenchError(
            "Too little became final to measure: give the phases more --seconds"
            + (", or another --in-flight." if not seen["exhausted"] else ".")
        )
    nodes = {name: _cost(name, seen, transactions) for name in seen["nodes"]}
    count = len(nodes)
    cpu_seconds = sum(each.cpu_us for each in nodes.values()) * transactions / 1e6
    client = seen["client_cpu_seconds"]
    per_second = transactions / seconds
    return Phase(
        seconds=round(seconds, 3),
        transactions=transactions,
        tx_per_second=round(per_second, 1),
        operations_per_second=round(per_second * operations, 1),
        latency=latency(seen["latencies_ms"]),
        blocks=sizes(counts),
        view_changes=max(_grown(name, seen, "view_changes") for name in nodes),
        late_views=sum(view > 0 for view in seen["views"]),
        cpu_us_per_transaction=round(sum(n.cpu_us for n in nodes.values()) / count, 2),
        wire_bytes_per_transaction=round(sum(n.wire_bytes for n in nodes.values()) / count, 1),
        written_bytes_per_transaction=round(
            sum(n.written_bytes for n in nodes.values()) / count, 1
        ),
        rss_bytes_max=max(each.rss_bytes for each in nodes.values()),
        nodes=nodes,
        client_cpu_seconds=round(client, 3),
        client_share=round(ratio(client, client + cpu_seconds), 4),
        client_late_ms=round(seen["client_late_ms"], 1),
        failed=dict(seen["failed"]),
        refused=seen["refused"],
        warnings=tuple(_warnings(seen)),
        series=tuple(series(seen["series_finals"], seen["series_latencies"])),
    )


def _warnings(seen: Mapping[str, Any]) -> list[str]:
    """What makes figures doubtful."""
    found = []
    busy = ratio(seen["client_cpu_seconds"], seen["seconds"])
    if busy > CLIENT_SHARE_MAX:
        found.append(f"the loading process used {busy:.0%} of a processor: it may be the limit")
    if seen["client_late_ms"] > CLIENT_LATE_MS_MAX:
        found.append(f"a call was {seen['client_late_ms']:.0f} ms late: the client had no time")
    if seen["exhausted"]:
        found.append("the signed transactions ran out before the end")
    if seen["failed"]:
        found.append(f"transactions had no effect: {seen['failed']}")
    return found


def _cost(name: str, seen: Mapping[str, Any], transactions: int) -> NodeCost:
    before, after = seen["nodes"][name]["before"], seen["nodes"][name]["after"]

    def per_transaction(what: str) -> float:
        return float(after[what] - before[what]) / transactions

    return NodeCost(
        round(per_transaction("cpu_seconds") * 1e6, 2),
        after["rss_bytes"],
        round(_grown(name, seen, "wire_bytes_sent") / transactions, 1),
        round(per_transaction("written_bytes"), 1),
    )


def _grown(name: str, seen: Mapping[str, Any], counter: str) -> int:
    counters = seen["counters"][name]
    return int(counters["after"].get(counter, 0) - counters["before"].get(counter, 0))
