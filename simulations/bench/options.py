"""What to measure, and whether it can be."""

from dataclasses import dataclass

from consensus.committee import QuorumRule
from simulations.bench import payload

NODES_MAX = 40
SECONDS_MAX = 3_600
IN_FLIGHT_MAX = 16_000
"""The nodes' queues hold 20,000 each."""


class BenchError(Exception):
    """It could not be measured; a sentence says why, or what to do."""


class OptionError(BenchError):
    """What was asked for cannot be run."""


@dataclass(frozen=True, slots=True)
class Options:
    """One benchmark."""

    recorders: int = 4
    auditors: int = 0
    observers: int = 0
    quorum: QuorumRule = "per_class"
    operations: int = 1
    """In each transaction, which is signed once."""
    transaction_bytes: int = 300
    """Of a transaction with one operation, its signature included."""
    seconds: float = 10.0
    """Of each loaded phase, after WARM_UP of it."""
    in_flight: int = 0
    """Transactions under way in the closed loop; 0 tries what gives the highest throughput."""
    lone: int = 50
    """Transactions sent one at a time."""
    seed: int = 0

    @property
    def nodes(self) -> int:
        """Daemons."""
        return self.recorders + self.auditors + self.observers

    @property
    def names(self) -> list[str]:
        """The ids of the institutions, as `medpact testnet create` gives them."""
        counts = {
            "recorder": self.recorders,
            "auditor": self.auditors,
            "observer": self.observers,
        }
        return [f"{kind}-{n}" for kind, count in counts.items() for n in range(1, count + 1)]

    @property
    def watched(self) -> str:
        """The node at which transactions are seen final; nothing is submitted through it."""
        return self.names[-1]

    @property
    def submitters(self) -> tuple[str, ...]:
        """The nodes to submit through: recorders, since they propose."""
        return tuple(n for n in self.names if n.startswith("recorder-") and n != self.watched)

    def check(self) -> payload.Shape:
        """What each transaction will be like. Raises OptionError if this cannot be run."""
        if self.recorders < 1:
            raise OptionError("Give at least one recorder: somebody has to propose.")
        if self.nodes < 2:
            raise OptionError("Give at least two nodes: what one takes is seen final at another.")
        if self.nodes > NODES_MAX:
            raise OptionError(
                f"{self.nodes} daemons would only wait for each other on one machine; at most "
                f"{NODES_MAX}. `medpact simulate --capacity` goes further in virtual time."
            )
        if not 1 <= self.seconds <= SECONDS_MAX:
            raise OptionError(f"Give a phase 1 to {SECONDS_MAX} seconds, not {self.seconds:g}.")
        if not 0 <= self.in_flight <= IN_FLIGHT_MAX:
            raise OptionError(
                f"{self.in_flight} transactions under way would not fit the nodes' queues; at most "
                f"{IN_FLIGHT_MAX}."
            )
        if not 0 <= self.lone <= 1_000:
            raise OptionError(f"Give 0 to 1000 lone transactions, not {self.lone}.")
        limits = payload.LIMITS
        if not 1 <= self.operations <= limits.transaction_operations_max:
            raise OptionError(
                f"A transaction holds 1 to {limits.transaction_operations_max} operations, not "
                f"{self.operations}."
            )
        try:
            shape = payload.shape(self.operations, self.transaction_bytes)
        except payload.SizeError as error:
            raise OptionError(str(error)) from error
        if shape.size_bytes > limits.transaction_bytes_max:
            raise OptionError(
                f"{self.operations} operations make {shape.size_bytes} bytes, and a transaction "
                f"holds {limits.transaction_bytes_max}: fewer operations, or shorter ones."
            )
        return shape
