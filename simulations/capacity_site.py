"""What the nodes of a capacity run share: ledger, costs, and what a transaction stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ledger.execution import payload_batches
from ledger.genesis import Genesis
from ledger.store import Write, WriteBatch, WriteBlock
from ledger.transactions import CheckedBatch
from node.events import Applied
from node.intake import Rules, check_raw_batch
from node.wire import BatchesFound, BlocksFound, Response
from primitives.block import Block
from simulations.capacity_network import CapacityNetwork
from simulations.costs import Costs
from simulations.schedule import Schedule
from simulations.world import Checks

if TYPE_CHECKING:
    from simulations.capacity_node import CapacityNode


@dataclass(frozen=True, slots=True)
class Shape:
    """What a simulated transaction stands for."""

    burst: int
    """So many transactions that a client submits at once."""
    operations: int
    """Operations in each of them."""
    absent_bytes: int
    """By how much all of them are longer than the one that is simulated."""


class Known(Checks):
    """As Checks, where no member's key ever changes: a batch is checked once for all nodes."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._rules = rules
        self._checked: dict[bytes, CheckedBatch] = {}

    def check(
        self, raw: bytes, rules: Rules | None = None, *, signatures: bool = True
    ) -> CheckedBatch:
        """As check_raw_batch; what is not checked here a node is not charged for. Raises
        BatchError.
        """
        batch = self._checked.get(raw)
        if batch is None:
            batch = check_raw_batch(raw, self._rules)
            self.keep(batch)
        return batch

    def keep(self, batch: CheckedBatch) -> None:
        """A node has made this batch, of transactions that it has checked."""
        self._checked[batch.raw] = self._by_id[batch.id] = batch


class Observer(Protocol):
    """Who watches the run."""

    def applied(self, node: "CapacityNode", applied: Applied) -> None:
        """The node tells its clients of a block."""
        ...


@dataclass(slots=True)
class Site:
    """What the nodes of a run share, and what they are charged."""

    genesis: Genesis
    schedule: Schedule
    network: CapacityNetwork
    costs: Costs
    shape: Shape
    checks: Known
    rules: Rules
    observer: Observer

    def sending_us(self, size_bytes: int) -> float:
        """Sending a message to one peer."""
        return self.costs.message_send_us + size_bytes * self.costs.byte_send_ns / 1_000

    def receiving_us(self, size_bytes: int) -> float:
        """Receiving a message."""
        return self.costs.message_receive_us + size_bytes * self.costs.byte_receive_ns / 1_000

    def absent_bytes(self, batch: CheckedBatch) -> int:
        """By how much a batch would be longer if all that it stands for were in it."""
        return len(batch.transactions) * self.shape.absent_bytes

    def absent_from(self, response: Response) -> int:
        """The same for all batches in a response."""
        match response:
            case BatchesFound(batches):
                raws = list(batches)
            case BlocksFound(blocks):
                raws = [raw for block in blocks for raw in block.batches]
            case _:
                raws = []
        return sum(self.absent_bytes(self.checks.check(raw)) for raw in raws)

    def transactions_in(self, block: Block) -> int:
        """How many simulated transactions a block lists."""
        batches = [self.checks.known(id) for id in payload_batches(block.payload)]
        return sum(len(batch.transactions) for batch in batches if batch is not None)

    def operations_in(self, block: Block) -> int:
        """How many operations a block stands for."""
        return self.transactions_in(block) * self.shape.burst * self.shape.operations

    def commit_us(self, writes: Sequence[Write]) -> float:
        """What the writer's thread has to do for one SQLite transaction."""
        costs, spent_us = self.costs, self.costs.commit_us
        for write in writes:
            match write:
                case WriteBatch(batch):
                    size_bytes = len(batch.raw) + self.absent_bytes(batch)
                    spent_us += size_bytes * costs.byte_commit_ns / 1_000
                case WriteBlock(decision):
                    spent_us += self.operations_in(decision.block) * costs.operation_commit_us
                case _:
                    pass
        return spent_us
