"""How much a network can do: one run of the daemon's core in virtual time under a cost model.

A cell is one network under one load; `run_cell` finds its throughput at saturation, with clients
that submit again whenever they have a receipt, and then its latency under half of that, submitted
at random moments whatever has become of the earlier ones. The same cell always gives the same
result.

Faults are processes that die at the moment the measurement begins, after a warm-up in which all was
well: what is measured holds the time-outs that this costs, until those recorders are benched.
"""

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from consensus.committee import QuorumRule
from ledger.committee import committee_of
from ledger.genesis import parse_genesis
from ledger.operations import Labels, RegisterRecord
from ledger.transactions import (
    NONCE_BYTES,
    TransactionBody,
    sign_transaction,
    transaction_id,
)
from node.events import Applied
from node.intake import Rules
from primitives.codec import encode
from primitives.keys import each_signature_once
from simulations.capacity_links import LINKS
from simulations.capacity_machine import Processor
from simulations.capacity_network import CapacityNetwork
from simulations.capacity_networks import (
    GENESIS_MS,
    Condition,
    Load,
    dead_of,
    stand_in,
)
from simulations.capacity_node import CapacityNode
from simulations.capacity_site import Known, Shape, Site
from simulations.costs import Costs
from simulations.schedule import Schedule

WARM_UP_BLOCKS = 4
SECONDS_MAX = 300
"""Of virtual time after the warm-up: a network that makes no blocks is given up then."""
BLOCKS_FACTOR_MAX = 20
"""So many times the wanted blocks, if they are too small for the wanted transactions."""
OPERATION_BYTES = 110
"""What one more operation adds to a transaction: a commitment and five labels."""
LABELS = Labels("laboratory", "normal", "CN-GD", "ward-1", "original")


@dataclass(frozen=True, slots=True)
class Cell:
    """One network under one load."""

    genesis: bytes
    """The genesis file; its keys are replaced by others, of which the private part is known."""
    condition: Condition
    link: str
    """One of LINKS."""
    cores: int
    """Of each node; of the whole machine with `shared`."""
    shared: bool
    """Whether all nodes are on one machine."""
    blocks: int
    """To measure, at least."""
    latencies: int
    """Bursts whose latency is to be known at half of saturation, at least."""
    load: Load
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell came to. Latencies are in ms from submission to the receipt at the same node."""

    institutions: int
    recorders: int
    auditors: int
    voters: int
    quorum: QuorumRule
    condition: Condition
    link: str
    dead: tuple[str, ...]
    transactions_per_second: float
    """At saturation; of `Load.operations` operations each."""
    blocks_per_second: float
    transactions_per_block: float
    messages_per_block: float
    bytes_per_transaction: float
    """On the wire, of all nodes together."""
    processor_percent: float
    """Of all cores at saturation."""
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    view_changes: int
    stopped: bool
    """Whether the network made no more blocks; then all figures are 0."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run, of either kind."""

    transactions: int
    blocks: int
    seconds: float
    latencies_us: tuple[int, ...]
    messages: int
    bytes: int
    busy_share: float
    view_changes: int
    stopped: bool


@dataclass(slots=True)
class _Tally:
    """Counters at the moment the measurement begins."""

    at_us: int = 0
    messages: int = 0
    bytes: int = 0
    busy_us: int = 0


class CapacityRun:
    """One network, from the first connection to the last block. `rate` is in transactions per
    second, or None for as much as it takes.
    """

    def __init__(
        self,
        cell: Cell,
        costs: Costs,
        rate: float | None,
        node_class: type[CapacityNode] = CapacityNode,
    ) -> None:
        self.cell = cell
        self.rate = rate
        self._chance = random.Random(f"{cell.seed} capacity")
        self.genesis, self._keys = stand_in(parse_genesis(cell.genesis), cell.load, cell.seed)
        self.schedule = Schedule()
        members = self.genesis.institutions
        regions = {member.id: member.region for member in members}
        chance = random.Random(f"{cell.seed} links")
        self.network = CapacityNetwork(self.schedule, chance, LINKS[cell.link], regions)
        rules = Rules(
            self.genesis.chain_id, self.genesis.limits, {one.id: one.key for one in members}
        )
        size_bytes = len(self._make(members[0].id, 0)[1])
        every = size_bytes + (cell.load.operations - 1) * OPERATION_BYTES
        shape = Shape(cell.load.burst, cell.load.operations, cell.load.burst * every - size_bytes)
        site = Site(
            self.genesis, self.schedule, self.network, costs, shape, Known(rules), rules, self
        )
        machine = Processor(self.schedule, cell.cores)
        self.processors = [machine]
        self.nodes: dict[str, CapacityNode] = {}
        for number, member in enumerate(members):
            if not cell.shared and number:
                self.processors.append(Processor(self.schedule, cell.cores))
            node = node_class(site, member.id, self._keys[member.id], self.processors[-1])
            self.nodes[member.id] = node
            self.network.join(node)
        self.site = site
        self.dead = dead_of(self.genesis, cell.condition)
        voters = committee_of(members, self.genesis.classes, self.genesis.quorum).by_id
        self.voters = len(voters)
        self._witness = next(
            one.id for one in members if one.id in voters and one.id not in self.dead
        )
        self._pending: dict[bytes, tuple[str, int]] = {}
        self._latencies_us: list[int] = []
        self._transactions = 0
        self._blocks = 0
        self._from = _Tally()
        self._measuring = False

    # ---- clients ---------------------------------------------------------------------------------

    def _make(self, id: str, height: int) -> tuple[bytes, bytes]:
        key, chance = self._keys[id], self._chance
        body = TransactionBody(
            author=key.public,
            valid_until_height=height + self.genesis.limits.replay_window_blocks,
            valid_until_ms=GENESIS_MS + 24 * 3_600_000,
            nonce=chance.randbytes(NONCE_BYTES),
            operations=(RegisterRecord(chance.randbytes(32), LABELS, None),),
        )
        chain_id = self.genesis.chain_id
        return transaction_id(chain_id, encode(body)), sign_transaction(chain_id, key, body)

    def _submit(self, id: str) -> None:
        node = self.nodes[id]
        if node.up:
            identity, raw = self._make(id, node.core.head.height)
            self._pending[identity] = (id, self.schedule.now)
            node.submit(raw)

    def _arrive(self) -> None:
        """Clients come at random moments, each to another node."""
        self._submit(self._chance.choice(self._up))
        bursts_per_us = (self.rate or 1.0) / self.cell.load.burst / 1_000_000
        self.schedule.after(1 + int(self._chance.expovariate(bursts_per_us)), self._arrive)

    def applied(self, node: CapacityNode, applied: Applied) -> None:
        """A node tells its clients of their receipts."""
        now = self.schedule.now
        for receipt in applied.written.receipts:
            where, at = self._pending.get(receipt.transaction, ("", 0))
            if where == node.id:
                del self._pending[receipt.transaction]
                if self._measuring and at >= self._from.at_us:
                    self._latencies_us.append(now - at)
                if self.rate is None:
                    self._submit(node.id)
        if node.id == self._witness:
            self._witness_block(applied)

    def _witness_block(self, applied: Applied) -> None:
        self._transactions += len(applied.written.receipts)
        if self._measuring:
            self._blocks += 1
        elif applied.header.height >= WARM_UP_BLOCKS and self._turned_over:
            self._transactions = 0
            busy_us = sum(processor.busy_us for processor in self.processors)
            network = self.network
            self._from = _Tally(self.schedule.now, network.messages, network.bytes, busy_us)
            self._measuring = True
            for id in self.dead:
                self.nodes[id].stop()
            self._move_clients()

    @property
    def _turned_over(self) -> bool:
        """Whether, at saturation, as many transactions have come through as are under way: what all
        clients submitted at once at the start says nothing of what the slowest can keep up with.
        """
        burst, outstanding = self.cell.load.burst, self.cell.load.outstanding
        return self.rate is not None or self._transactions * burst >= outstanding

    def _move_clients(self) -> None:
        """Whoever waited for a receipt of a node that died submits to another one."""
        lost = [identity for identity, (id, _) in self._pending.items() if not self.nodes[id].up]
        for identity in lost:
            del self._pending[identity]
            if self.rate is None:
                self._submit(self._chance.choice(self._up))

    @property
    def _up(self) -> list[str]:
        return [id for id, node in self.nodes.items() if node.up]

    # ---- the run ---------------------------------------------------------------------------------

    def run(self) -> Measurement:
        """Run until there are enough blocks and latencies, or none come any more."""
        for node in self.nodes.values():
            node.start()
        self.network.connect_all()
        if self.rate is None:
            bursts = max(1, self.cell.load.outstanding // self.cell.load.burst)
            ids = list(self.nodes)
            for number in range(bursts):
                self._submit(ids[number % len(ids)])
        else:
            self._arrive()
        self.schedule.run(SECONDS_MAX * 1_000_000, self._done)
        return self._measured()

    def _done(self) -> bool:
        if not self._measuring:
            return False
        blocks = self._blocks
        if self.rate is None:
            enough = self._turned_over
        else:
            enough = len(self._latencies_us) >= self.cell.latencies
        enough = enough and blocks >= self.cell.blocks
        return enough or blocks >= self.cell.blocks * BLOCKS_FACTOR_MAX

    def _measured(self) -> Measurement:
        begun, seconds = self._from, (self.schedule.now - self._from.at_us) / 1_000_000
        stopped = not self._done()
        cores = sum(processor.cores for processor in self.processors)
        busy_us = sum(processor.busy_us for processor in self.processors) - begun.busy_us
        changes = (node.core.counters["view_changes"] for node in self.nodes.values())
        return Measurement(
            transactions=self._transactions * self.cell.load.burst,
            blocks=self._blocks,
            seconds=seconds,
            latencies_us=tuple(sorted(self._latencies_us)),
            messages=self.network.messages - begun.messages,
            bytes=self.network.bytes - begun.bytes,
            busy_share=busy_us / (seconds * 1_000_000 * cores),
            view_changes=max(changes),
            stopped=stopped,
        )


def run_cell(cell: Cell, costs: Costs) -> Result:
    """Measure a cell: at saturation, then at half of it."""
    with each_signature_once(), _no_collector():
        full = CapacityRun(cell, costs, None)
        saturated = full.run()
        rate = 0.0 if saturated.stopped else saturated.transactions / saturated.seconds
        half = None
        if rate:
            half = CapacityRun(cell, costs, rate / 2).run()
    classes = [full.genesis.classes[one.type].value for one in full.genesis.institutions]
    latencies = () if half is None or half.stopped else half.latencies_us
    stopped = half is None or half.stopped
    blocks, transactions = max(saturated.blocks, 1), max(saturated.transactions, 1)
    return Result(
        institutions=len(classes),
        recorders=classes.count("recorder"),
        auditors=classes.count("auditor"),
        voters=full.voters,
        quorum=full.genesis.quorum,
        condition=cell.condition,
        link=cell.link,
        dead=full.dead,
        transactions_per_second=round(rate, 1),
        blocks_per_second=0.0 if stopped else round(saturated.blocks / saturated.seconds, 2),
        transactions_per_block=round(saturated.transactions / blocks, 1),
        messages_per_block=round(saturated.messages / blocks, 1),
        bytes_per_transaction=round(saturated.bytes / transactions, 1),
        processor_percent=round(100 * saturated.busy_share, 1),
        latency_ms_p50=_percentile_ms(latencies, 50),
        latency_ms_p95=_percentile_ms(latencies, 95),
        latency_ms_p99=_percentile_ms(latencies, 99),
        view_changes=saturated.view_changes,
        stopped=stopped,
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the collector of garbage, which finds next to nothing in millions of objects and
    takes a seventh of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _percentile_ms(ordered: tuple[int, ...], percent: int) -> float:
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] / 1_000, 1)
