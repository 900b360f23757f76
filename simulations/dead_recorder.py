"""What one dead recorder of four costs: the same load on a healthy network, on one that lacks a
recorder from the start, and on one whose recorder dies on the way, in virtual time, so that the
figures are the same on every machine.

    .venv/bin/python -m simulations.dead_recorder [--json] [--blocks 200] [--interval-ms 500 ...]

Clients of the nodes that live submit one transaction every `interval_ms`, each to the next node,
whatever has become of the earlier ones; latency is from there to the receipt at that node.

A recorder that has been gone for as long as a view lasts costs a round of messages for each of its
turns, and benching (docs/ARCHITECTURE.md section 3) lets it have few: three in 200 blocks. One that
dies costs a time-out at its first turn, `view_timeout_ms_min` once commits have been measured, and
another only if the turn after that comes before its death is noticed. What is submitted during a
time-out waits, which the maximum shows. How much of it the 95th percentile shows depends on how
many transactions there are besides: half a second is a twentieth of ten seconds. Hence only the
network that lacks a recorder from the start is held to the bound.

Exit code 0 if there, at every load, throughput and the 95th percentile of latency stay within 1.3
times the healthy run's, else 1.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ledger.operations import Labels, RegisterRecord
from ledger.store import Write
from ledger.transactions import NONCE_BYTES, TransactionBody, sign_transaction, transaction_id
from node.events import Applied, Report
from node.wire import Message
from primitives.codec import encode
from primitives.keys import PrivateKey, each_signature_once
from simulations.drawing import draw
from simulations.host import Host
from simulations.network import Network
from simulations.scenario import GENESIS_MS, Scenario, Shape, Weather, found
from simulations.schedule import Schedule
from simulations.trace import Trace
from simulations.world import Checks, World

RATIO_MAX = 1.3
WARM_UP_MS = 3_000
"""Until all nodes are connected."""
DEAD = "recorder-2"
CITY = Weather(
    delay_ms_min=6, delay_ms_mean=2, delay_ms_max=30, loss=0.0, duplication=0.0, ordered=True
)
"""Some hundred kilometres, and queues on the way."""
DISK_MS_MAX = 4
INTERVALS_MS = (500, 300, 100, 50)
"""Up to the load at which blocks follow each other without a pause."""
Fate = Literal["healthy", "dead", "dies"]
"""All live; one never starts; one dies after a quarter of the blocks."""
LAME: tuple[Fate, ...] = ("dead", "dies")
FATES: tuple[Fate, ...] = ("healthy", *LAME)
LABELS = Labels("laboratory", "normal", "CN-GD", "ward-1", "original")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Throughput is in transactions per second, latencies are in ms, all virtual."""

    fate: Fate
    blocks: int
    transactions: int
    seconds: float
    throughput: float
    latency_ms_p50: int
    latency_ms_p95: int
    latency_ms_max: int
    view_changes: int


@dataclass(slots=True)
class Clients:
    """Watches the nodes for receipts: the simulator's witness."""

    schedule: Schedule
    submitted: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """By transaction: the node that it went to, and when."""
    latencies_ms: list[int] = field(default_factory=list)

    def wrote(self, host: Host, writes: Sequence[Write]) -> None:
        """Nothing to see."""

    def sends(self, host: Host, message: Message) -> None:
        """Nothing to see."""

    def reported(self, host: Host, report: Report) -> None:
        """Nothing to see."""

    def applied(self, host: Host, applied: Applied) -> None:
        """A node tells its clients of their receipts."""
        for receipt in applied.written.receipts:
            where, at = self.submitted.get(receipt.transaction, ("", 0))
            if where == host.id:
                self.latencies_ms.append(self.schedule.now - at)


class Experiment:
    """A network with the fate of one of its recorders."""

    def __init__(self, auditors: int, fate: Fate, interval_ms: int) -> None:
        self.scenario = _scenario(auditors)
        consortium = found(self.scenario)
        self._keys = consortium.keys
        self._genesis = consortium.genesis
        self._chance = random.Random("dead recorder")
        self._interval_ms = interval_ms
        self.schedule = Schedule()
        trace = Trace()
        network = Network(self.schedule, self._chance, CITY, trace)
        self.clients = Clients(self.schedule)
        world = World(
            self._genesis, self.schedule, network, self.clients, trace, Checks(), DISK_MS_MAX
        )
        self.hosts: list[Host] = []
        """Those that live to the end."""
        self._lost: Host | None = None
        for id, key in self._keys.items():
            host = Host(id, id, key, world, random.Random(f"dead recorder {id}"), None)
            network.join(host)
            if fate == "healthy" or id != DEAD:
                self.hosts.append(host)
            elif fate == "dies":
                self._lost = host
        self._fate: Fate = fate

    def run(self, blocks: int) -> Measured:
        """Run until all nodes that live have so many blocks."""
        for host in self.hosts:
            self.schedule.at(0, host.start)
        if self._lost is not None:
            self.schedule.at(0, self._lost.start)
            self.schedule.at(WARM_UP_MS + self._interval_ms * blocks // 4, self._lost.stop)
        self.schedule.at(WARM_UP_MS, self._submit)
        reached = lambda: min(h.running.head.height for h in self.hosts) >= blocks  # noqa: E731
        self.schedule.run(WARM_UP_MS + 100 * blocks * self._interval_ms, reached)
        latencies = sorted(self.clients.latencies_ms)
        seconds = (self.schedule.now - WARM_UP_MS) / 1_000
        changes = max(host.running.counters["view_changes"] for host in self.hosts)
        return Measured(
            fate=self._fate,
            blocks=min(host.running.head.height for host in self.hosts),
            transactions=len(latencies),
            seconds=round(seconds, 3),
            throughput=round(len(latencies) / seconds, 3),
            latency_ms_p50=latencies[len(latencies) // 2],
            latency_ms_p95=latencies[len(latencies) * 95 // 100],
            latency_ms_max=latencies[-1],
            view_changes=changes,
        )

    def _submit(self) -> None:
        host = self.hosts[len(self.clients.submitted) % len(self.hosts)]
        identity, raw = self._make(self._keys[host.id], host.running.head.height)
        self.clients.submitted[identity] = (host.id, self.schedule.now)
        host.submit(raw)
        self.schedule.after(self._interval_ms, self._submit)

    def _make(self, key: PrivateKey, height: int) -> tuple[bytes, bytes]:
        body = TransactionBody(
            author=key.public,
            valid_until_height=height + self._genesis.limits.replay_window_blocks,
            valid_until_ms=GENESIS_MS + 24 * 3_600_000,
            nonce=self._chance.randbytes(NONCE_BYTES),
            operations=(RegisterRecord(self._chance.randbytes(32), LABELS, None),),
        )
        chain_id = self._genesis.chain_id
        return transaction_id(chain_id, encode(body)), sign_transaction(chain_id, key, body)


def _scenario(auditors: int) -> Scenario:
    """Four recorders on the genesis file's own settings."""
    shape = Shape(4, auditors, 0, "per_class")
    drawn = draw(0, kinds=(), byzantine=())
    return Scenario(
        seed=0,
        profile=drawn.profile,
        shape=shape,
        settings={},
        storm=CITY,
        calm=CITY,
        disk_ms_max=DISK_MS_MAX,
        skew_ms_max=0,
        transactions=0,
        heal_ms=0,
        faults=(),
        byzantine=(),
    )


def measure(auditors: int, blocks: int, interval_ms: int) -> dict[Fate, Measured]:
    """The runs of one load, by the recorder's fate."""
    with each_signature_once():
        return {fate: Experiment(auditors, fate, interval_ms).run(blocks) for fate in FATES}


def ratios(healthy: Measured, lame: Measured) -> dict[str, float]:
    """How many times worse the run that lacks a recorder is."""
    return {
        "throughput": round(healthy.throughput / lame.throughput, 3),
        "latency_ms_p95": round(lame.latency_ms_p95 / max(healthy.latency_ms_p95, 1), 3),
    }


def _show(document: Sequence[dict[str, Any]], blocks: int) -> None:
    table = Table(title=f"{blocks} blocks; 95th percentile in ms, and times worse than healthy")
    heads = ("voters", "tx/s", "healthy", "one dead", "tx/s", "one dies", "tx/s", "max")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for load in document:
        runs: dict[Fate, Measured] = load["runs"]
        healthy = runs["healthy"]
        row = [f"{load['recorders']}+{load['auditors']}", f"{healthy.throughput:.1f}"]
        row.append(str(healthy.latency_ms_p95))
        for fate in LAME:
            worse = load["ratios"][fate]["latency_ms_p95"]
            row.append(f"{runs[fate].latency_ms_p95} ({worse:.2f})")
            row.append(f"{runs[fate].throughput:.1f}")
        table.add_row(*row, str(runs["dies"].latency_ms_max))
    Console().print(table)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What one dead recorder of four costs.")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--interval-ms", type=int, nargs="+", default=INTERVALS_MS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    loads = [(auditors, each) for auditors in (1, 4) for each in options.interval_ms]
    document: list[dict[str, Any]] = [
        {
            "recorders": 4,
            "auditors": auditors,
            "interval_ms": interval_ms,
            "runs": measure(auditors, options.blocks, interval_ms),
        }
        for auditors, interval_ms in loads
    ]
    for load in document:
        healthy = load["runs"]["healthy"]
        load["ratios"] = {fate: ratios(healthy, load["runs"][fate]) for fate in LAME}
    within = all(max(load["ratios"]["dead"].values()) <= RATIO_MAX for load in document)
    if options.json:
        whole = {"ratio_max": RATIO_MAX, "within": within, "loads": document}
        print(json.dumps(whole, indent=2, default=asdict))
    else:
        _show(document, options.blocks)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
