"""What one dead recorder costs: the same load on a healthy network and on one that lacks a recorder
from the start, in virtual time, so that the figures are the same on every machine.

    .venv/bin/python -m simulations.dead_recorder [--json] [--blocks 200] [--interval-ms 500]

Clients of the nodes that live submit one transaction every `interval_ms`, each to the next node,
whatever has become of the earlier ones; latency is from there to the receipt at that node. Each
turn that the dead recorder lets pass costs a time-out, and benching (docs/ARCHITECTURE.md section
3) lets it have few: three in 200 blocks, of 2 s before the voters have measured anything, then of
`view_timeout_ms_min`. What is submitted meanwhile waits; at this load that is less than one in
twenty. The faster blocks follow each other, the larger that share, and above some two blocks and a
half per second the 95th percentile shows the time-outs themselves.

Exit code 0 if throughput and the 95th percentile of latency stay within 1.3 times the healthy
run's, else 1.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

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
LABELS = Labels("laboratory", "normal", "CN-GD", "ward-1", "original")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Throughput is in transactions per second, latencies are in ms, all virtual."""

    dead: str | None
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
    """A network of which one recorder may never start."""

    def __init__(self, auditors: int, dead: str | None, interval_ms: int) -> None:
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
        for id, key in self._keys.items():
            host = Host(id, id, key, world, random.Random(f"dead recorder {id}"), None)
            network.join(host)
            if id != dead:
                self.hosts.append(host)
        self._dead = dead

    def run(self, blocks: int) -> Measured:
        """Run until all nodes have so many more blocks than after the warm-up."""
        for host in self.hosts:
            self.schedule.at(0, host.start)
        self.schedule.at(WARM_UP_MS, self._submit)
        reached = lambda: min(h.running.head.height for h in self.hosts) >= blocks  # noqa: E731
        self.schedule.run(WARM_UP_MS + 100 * blocks * self._interval_ms, reached)
        latencies = sorted(self.clients.latencies_ms)
        seconds = (self.schedule.now - WARM_UP_MS) / 1_000
        changes = max(host.running.counters["view_changes"] for host in self.hosts)
        return Measured(
            dead=self._dead,
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


def compare(auditors: int, blocks: int, interval_ms: int) -> tuple[Measured, Measured]:
    """The healthy run and the one with a dead recorder."""
    with each_signature_once():
        healthy = Experiment(auditors, None, interval_ms).run(blocks)
        lame = Experiment(auditors, DEAD, interval_ms).run(blocks)
    return healthy, lame


def ratios(healthy: Measured, lame: Measured) -> dict[str, float]:
    """How many times worse the run with the dead recorder is."""
    return {
        "throughput": round(healthy.throughput / lame.throughput, 3),
        "latency_ms_p95": round(lame.latency_ms_p95 / max(healthy.latency_ms_p95, 1), 3),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What one dead recorder of four costs.")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--interval-ms", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = Table(title=f"{options.blocks} blocks, a transaction every {options.interval_ms} ms")
    heads = ("network", "tx/s", "p50 ms", "p95 ms", "max ms", "view changes")
    for head in heads:
        table.add_column(head, justify="left" if head == "network" else "right")
    document = []
    within = True
    for auditors in (1, 4):
        healthy, lame = compare(auditors, options.blocks, options.interval_ms)
        found_ratios = ratios(healthy, lame)
        within = within and max(found_ratios.values()) <= RATIO_MAX
        document.append(
            {
                "recorders": 4,
                "auditors": auditors,
                "healthy": asdict(healthy),
                "dead": asdict(lame),
                "ratios": found_ratios,
            }
        )
        for name, one in (("healthy", healthy), ("one dead", lame)):
            figures = (
                f"{one.throughput:.2f}",
                str(one.latency_ms_p50),
                str(one.latency_ms_p95),
                str(one.latency_ms_max),
                str(one.view_changes),
            )
            table.add_row(f"4 recorders, {auditors} auditors, {name}", *figures)
        ratio = (f"{found_ratios['throughput']:.2f}", "", f"{found_ratios['latency_ms_p95']:.2f}")
        table.add_row("  times worse", *ratio, "", "", end_section=True)
    if options.json:
        print(json.dumps({"ratio_max": RATIO_MAX, "within": within, "runs": document}, indent=2))
    else:
        Console().print(table)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
