"""Measuring the unit costs on this machine with the project's own code, in some seconds.

The core's steps are timed inside small capacity runs, in processor time of this thread, while all
signatures are checked for real. What a simulation may not import, the database and the transport,
is measured by functions that the caller brings (storage/measure.py, node/measure.py).
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Protocol

from consensus.messages import Commit, Prepare
from ledger.execution import execute_block
from ledger.genesis import genesis_state
from ledger.replay import ReplayWindow
from ledger.store import Write, WriteBlock, WriteGenesis, WritePromise
from ledger.transactions import check_transaction
from node.events import BatchArrived, BlockStored, Effect, Event, MessageArrived, Submitted
from node.wire import Consensus, decode_message
from primitives.codec import encode
from primitives.keys import PrivateKey, verify
from simulations.capacity import CapacityRun, Cell
from simulations.capacity_machine import Processor
from simulations.capacity_networks import Load, genesis_of, mix_of
from simulations.capacity_node import CapacityNode
from simulations.capacity_site import Site
from simulations.costs import DEFAULT, Costs, Measured
from simulations.store import MemoryStore

REPEATS = 300
BLOCKS = 12
OUTSTANDING = 400
"""So that blocks and batches of several sizes come about."""


class CommitCost(Protocol):
    """One SQLite transaction: storage.measure.Commit."""

    @property
    def cpu_us(self) -> float:
        """Processor time."""
        ...

    @property
    def wait_us(self) -> float:
        """Waiting for the disk."""
        ...


class TransportCost(Protocol):
    """One side's share: node.measure.TransportCosts."""

    @property
    def message_us(self) -> float:
        """A short message."""
        ...

    @property
    def byte_ns(self) -> float:
        """A byte of a long one."""
        ...

    @property
    def request_us(self) -> float:
        """A request."""
        ...

    @property
    def gossip_us(self) -> float:
        """An announcement."""
        ...


Commits = Callable[[bytes, Sequence[Sequence[Write]]], Sequence[CommitCost]]
"""Commits groups of writes to a new database of the ledger with this chain id."""


Sizes = list[tuple[int, float]]
"""Transactions, and the microseconds that they took."""


class _Watched(CapacityNode):
    """Times its steps, and keeps what it writes."""

    def __init__(self, site: Site, id: str, key: PrivateKey, processor: Processor) -> None:
        self.steps: dict[str, Sizes] = {}
        self.groups: list[list[Write]] = [[WriteGenesis(*genesis_state(site.genesis))]]
        super().__init__(site, id, key, processor)

    def step(self, event: Event) -> list[Effect]:
        """As any other, with an eye on the clock."""
        began = time.thread_time_ns()
        effects = super().step(event)
        spent_us = (time.thread_time_ns() - began) / 1_000
        kind, size = _kind(event)
        if kind == "stored" or not any(isinstance(effect, Write) for effect in effects):
            self.steps.setdefault(kind, []).append((size, spent_us))
        return effects

    def _finish(self, effects: Sequence[Effect], writes: Sequence[Write]) -> None:
        if writes:
            self.groups.append(list(writes))
        super()._finish(effects, writes)


def _kind(event: Event) -> tuple[str, int]:
    match event:
        case MessageArrived(_, Consensus(signed)) if isinstance(signed.message, Prepare | Commit):
            return "vote", 1
        case BatchArrived(_, batch):
            return "batch", len(batch.transactions)
        case BlockStored():
            return "stored", 1
        case Submitted(transactions):
            return "submitted", len(transactions)
        case _:
            return "other", 1


def calibrate(commits: Commits, transport: TransportCost) -> Costs:
    """Measure everything. What a cost is, costs.py says."""
    cell = Cell(
        genesis=genesis_of(mix_of(4), "per_class", {}),
        condition="healthy",
        link="campus",
        cores=2,
        shared=False,
        blocks=BLOCKS,
        latencies=0,
        load=Load(burst=1, outstanding=OUTSTANDING),
        seed=0,
    )
    run = CapacityRun(cell, DEFAULT.costs, None, _Watched)
    run.run()
    node = next(iter(run.nodes.values()))
    if not isinstance(node, _Watched):
        raise TypeError("the run was not of nodes that are watched")
    blocks = [w for group in node.groups for w in group if isinstance(w, WriteBlock)]
    transactions = [t for block in blocks for batch in block.batches for t in batch.transactions]
    genesis, key = run.genesis, node.key
    message, raw = transactions[0].id, transactions[0].raw
    signature = key.sign(message)
    check_us = _median_us(lambda: verify(key.public, message, signature))
    block_us, operation_us = _line(_executions(run, blocks))
    batch_us, taken_us = _line(node.steps["batch"])
    submitted_us = _middle(node.steps["submitted"]) + _rpc_us([t.raw for t in transactions[:100]])
    committed = list(zip(node.groups, commits(genesis.chain_id, node.groups), strict=True))[1:]
    promises = [cost for group, cost in committed if not _blocks_in(group)]
    commit_us = statistics.median(cost.cpu_us for cost in promises)
    rows = [
        (cost.cpu_us - commit_us) / max(sum(len(w.transaction_ids) for w in _blocks_in(group)), 1)
        for group, cost in committed
        if _blocks_in(group)
    ]
    costs = Costs(
        signature_check_us=check_us,
        signature_make_us=_median_us(lambda: key.sign(message)),
        transaction_check_us=_median_us(
            lambda: check_transaction(raw, genesis.chain_id, genesis.limits)
        ),
        transaction_submit_us=submitted_us,
        transaction_take_us=taken_us,
        batch_take_us=batch_us,
        operation_execute_us=operation_us,
        block_execute_us=block_us,
        block_apply_us=_middle(node.steps["stored"]),
        vote_handle_us=max(_middle(node.steps["vote"]) - check_us, 0.0),
        message_send_us=transport.message_us,
        message_receive_us=transport.message_us + _decoding_us(node.groups),
        byte_send_ns=transport.byte_ns,
        byte_receive_ns=transport.byte_ns,
        request_us=transport.request_us,
        gossip_us=transport.gossip_us,
        turn_us=DEFAULT.costs.turn_us,
        commit_us=commit_us,
        operation_commit_us=max(statistics.median(rows), 0.0),
        byte_commit_ns=DEFAULT.costs.byte_commit_ns,
        # The disk is shared: what it takes when others leave it alone.
        fsync_us=statistics.quantiles([cost.wait_us for cost in promises])[0],
    )
    return Costs(**{name: round(value, 3) for name, value in asdict(costs).items()})


def here(costs: Costs) -> Measured:
    """The costs, with this machine and day."""
    cores = len(os.sched_getaffinity(0))
    machine = f"{cores} core{'s' if cores > 1 else ''}, {platform.machine()}, Python "
    today = datetime.now(tz=UTC).date().isoformat()
    return Measured(costs, machine + platform.python_version(), today)


def _blocks_in(group: Sequence[Write]) -> list[WriteBlock]:
    return [write for write in group if isinstance(write, WriteBlock)]


def _executions(run: CapacityRun, blocks: Sequence[WriteBlock]) -> Sizes:
    """Execute the chain once more, block by block, as at its voters."""
    genesis, store = run.genesis, MemoryStore()
    replay = ReplayWindow(genesis.limits.replay_window_blocks)
    parent, changes = genesis_state(genesis)
    store.write([WriteGenesis(parent, changes)])
    found: Sizes = []
    for block in blocks:
        header = block.decision.block.header
        place = (parent, header.view, header.proposer, header.time_ms)
        began = time.thread_time_ns()
        executed = execute_block(*place, block.batches, store, replay, genesis)
        spent_us = (time.thread_time_ns() - began) / 1_000
        found.append((len(block.transaction_ids), spent_us))
        store.write([block])
        replay.add(header.height, executed.ran, executed.sequences)
        parent = header
    return found


def _decoding_us(groups: Sequence[Sequence[Write]]) -> float:
    """Reading a vote off the wire."""
    votes = [
        encode(Consensus(write.promise.signed))
        for group in groups
        for write in group
        if isinstance(write, WritePromise) and isinstance(write.promise.signed.message, Prepare)
    ]
    return _median_us(lambda: decode_message(votes[0]))


def _rpc_us(raws: Sequence[bytes]) -> float:
    """A client's transaction out of a JSON document with many."""
    text = json.dumps({"transactions": [raw.hex() for raw in raws]})

    def read() -> None:
        for digits in json.loads(text)["transactions"]:
            bytes.fromhex(digits)

    return _median_us(read) / len(raws)


def _median_us(work: Callable[[], object]) -> float:
    spent: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter_ns()
        work()
        spent.append((time.perf_counter_ns() - began) / 1_000)
    return statistics.median(spent)


def _middle(sizes: Sizes) -> float:
    """The median of microseconds for one."""
    return statistics.median(spent_us / max(size, 1) for size, spent_us in sizes)


def _line(sizes: Sizes) -> tuple[float, float]:
    """What it costs whatever the size, and for each one of it; neither is below 0."""
    counts = [float(size) for size, _ in sizes]
    if len(dict.fromkeys(counts)) < 2:
        return 0.0, _middle(sizes)
    slope, least = statistics.linear_regression(counts, [spent_us for _, spent_us in sizes])
    return max(least, 0.0), max(slope, 0.0)
