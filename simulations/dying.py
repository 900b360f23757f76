"""When a process is to die: between any two effects, or at a moment that matters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.store import Write, WriteBatch, WriteBlock, WritePromise
from simulations.faults import Moment


class Died(Exception):
    """The process is dead at this very point."""


@dataclass(slots=True)
class Doom:
    """Dies at one of the moments to come; `moment` None stands for any effect."""

    moment: Moment | None
    left: int
    """How many of these moments it survives."""

    def reach(self, moment: Moment | None) -> None:
        """Come to a moment. Raises Died if it is the last."""
        if moment == self.moment:
            self.left -= 1
            if self.left < 0:
                raise Died


_BEFORE: dict[type, Moment] = {
    WritePromise: "before a promise is durable",
    WriteBatch: "before a batch is durable",
    WriteBlock: "before a block is durable",
}
_AFTER: dict[type, Moment] = {
    WritePromise: "after a promise is durable",
    WriteBatch: "after a batch is durable",
    WriteBlock: "after a block is durable",
}


def moments_before(writes: Sequence[Write]) -> Iterable[Moment]:
    """What a process comes to before these writes become durable together."""
    return _of_kinds(_BEFORE, writes)


def moments_after(writes: Sequence[Write]) -> Iterable[Moment]:
    """What a process comes to once these writes are durable."""
    return _of_kinds(_AFTER, writes)


def _of_kinds(moments: dict[type, Moment], writes: Sequence[Write]) -> Iterable[Moment]:
    return (moment for kind, moment in moments.items() if any(type(w) is kind for w in writes))
