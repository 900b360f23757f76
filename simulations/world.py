"""What the hosts of one run share, and what they tell whoever watches them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ledger.genesis import Genesis
from ledger.store import Write
from ledger.transactions import BatchError, CheckedBatch
from node.core import Core
from node.events import (
    Applied,
    BatchArrived,
    DecisionArrived,
    Event,
    MessageArrived,
    Report,
)
from node.intake import Rules, check_raw_batch, verified_commits
from node.wire import BatchBody, Decided, Message, decode_message
from simulations.network import Network
from simulations.schedule import Schedule
from simulations.store import MemoryStore
from simulations.trace import Trace

if TYPE_CHECKING:
    from simulations.host import Host

DRAFT_WORK_MIN = 3
"""Two operations make a block large enough to be drafted: what is simulated is small."""


class Spinning(Exception):
    """A node turns again and again without time passing: a daemon would burn its processor."""


class Witness(Protocol):
    """Who watches what the correct nodes do."""

    def wrote(self, host: "Host", writes: Sequence[Write]) -> None:
        """These writes became durable."""
        ...

    def sends(self, host: "Host", message: Message) -> None:
        """This message is about to leave."""
        ...

    def applied(self, host: "Host", applied: Applied) -> None:
        """The node tells its clients of a block."""
        ...

    def reported(self, host: "Host", report: Report) -> None:
        """The node tells its operator something."""
        ...


class Checks:
    """What any node of a run has decoded or checked: the result follows from the bytes and the
    rules alone, and is most of what a simulation costs.
    """

    def __init__(self) -> None:
        self._results: dict[
            tuple[bytes, tuple[tuple[str, bytes], ...], bool], CheckedBatch | str
        ] = {}
        self._by_id: dict[bytes, CheckedBatch] = {}
        self._messages: dict[bytes, Message] = {}

    def check(self, raw: bytes, rules: Rules, *, signatures: bool = True) -> CheckedBatch:
        """As check_raw_batch. Raises BatchError."""
        key = (raw, tuple(rules.keys.items()), signatures)
        result = self._results.get(key)
        if result is None:
            try:
                result = check_raw_batch(raw, rules, signatures=signatures)
                if signatures:
                    self._by_id[result.id] = result
            except BatchError as error:
                result = str(error)
            self._results[key] = result
        if isinstance(result, str):
            raise BatchError(result)
        return result

    def check_kept(self, raws: Sequence[bytes], rules: Rules) -> list[CheckedBatch]:
        """The good ones of the batches that a disk has kept: an author's key may be another now."""
        kept: list[CheckedBatch] = []
        for raw in raws:
            with suppress(BatchError):
                kept.append(self.check(raw, rules, signatures=False))
        return kept

    def message(self, raw: bytes) -> Message:
        """As decode_message. Raises CodecError."""
        message = self._messages.get(raw)
        if message is None:
            message = self._messages[raw] = decode_message(raw)
        return message

    def event(self, peer: str, message: Message, core: Core, rules: Rules) -> Event | None:
        """What a message means to a node, checked as its shell would beside the loop; None if it is
        of no use there. Raises BatchError.
        """
        match message:
            case BatchBody(raw):
                votes = core.votes
                if not (votes or core.following.is_near):
                    return None
                return BatchArrived(peer, self.check(raw, rules, signatures=votes), votes)
            case Decided(decision) if core.following.wants(decision.block.header.height):
                return DecisionArrived(peer, decision, verified_commits(decision, rules))
            case Decided():
                return MessageArrived(peer, message.head)
            case _:
                return MessageArrived(peer, message)

    def known(self, batch_id: bytes) -> CheckedBatch | None:
        """A batch that was found good."""
        return self._by_id.get(batch_id)


@dataclass(slots=True)
class World:
    """What all hosts share."""

    genesis: Genesis
    schedule: Schedule
    network: Network
    witness: Witness
    trace: Trace
    checks: Checks
    disk_ms_max: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of a disk, with what the boot counter outside it said then."""

    store: MemoryStore
    boots: int
    promises: int
