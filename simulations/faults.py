"""What goes wrong in a run, and when: values that a scenario draws and a cluster performs.

Times are virtual milliseconds. All of these end before the run is healed, except for Byzantine
members, which stay what they are: see byzantine.py.
"""

from dataclasses import dataclass
from typing import Literal

Moment = Literal[
    "before a promise is durable",
    "after a promise is durable",
    "before a batch is durable",
    "after a batch is durable",
    "before a block is durable",
    "after a block is durable",
    "before a vote is sent",
    "after a vote is sent",
]
"""Where a process may die: on either side of everything that must happen in one order."""
MOMENTS: tuple[Moment, ...] = (
    "before a promise is durable",
    "after a promise is durable",
    "before a batch is durable",
    "after a batch is durable",
    "before a block is durable",
    "after a block is durable",
    "before a vote is sent",
    "after a vote is sent",
)


@dataclass(frozen=True, slots=True)
class Crash:
    """A process dies and comes back with what its disk held.

    It dies once it has performed `effects` more writes and sends, so between any two of them; at
    the latest after half of `down_ms`.
    """

    at: int
    who: str
    effects: int
    down_ms: int


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A process dies at the `number`-th such moment that it comes to, at the latest after half of
    `down_ms`, and comes back with what its disk held.
    """

    at: int
    who: str
    moment: Moment
    number: int
    down_ms: int


@dataclass(frozen=True, slots=True)
class CrashAll:
    """All processes die at once, each wherever it is."""

    at: int
    down_ms: int


@dataclass(frozen=True, slots=True)
class RestoredBackup:
    """A disk is copied at `copied_at`; at `at` the process dies and comes back with that copy.

    Where a moment is given it dies at the first such moment, at the latest after half of `down_ms`,
    and is back as soon as the copy is in place: before the others have decided without it.
    """

    copied_at: int
    at: int
    who: str
    down_ms: int
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """Nothing passes from `left` to `right`, nor back unless it is one-way."""

    at: int
    until: int
    left: tuple[str, ...]
    right: tuple[str, ...]
    one_way: bool


@dataclass(frozen=True, slots=True)
class Mute:
    """Nothing that this member says is heard, while it hears all."""

    at: int
    until: int
    who: str


@dataclass(frozen=True, slots=True)
class Slow:
    """All that this member says comes later."""

    at: int
    until: int
    who: str
    delay_ms: int


@dataclass(frozen=True, slots=True)
class BadLink:
    """What one member sends another comes later, or is lost so often (in percent)."""

    at: int
    until: int
    sender: str
    receiver: str
    delay_ms: int
    loss_percent: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A process does nothing for a while, as if stopped by its machine, and then goes on."""

    at: int
    until: int
    who: str


@dataclass(frozen=True, slots=True)
class ClockJump:
    """The wall clock of this member's machine goes wrong by so much, until `until`."""

    at: int
    until: int
    who: str
    skew_ms: int


Fault = (
    Crash
    | CrashPoint
    | CrashAll
    | RestoredBackup
    | Partition
    | Mute
    | Slow
    | BadLink
    | Pause
    | ClockJump
)

KINDS: tuple[type[Fault], ...] = (
    Crash,
    CrashPoint,
    CrashAll,
    RestoredBackup,
    Partition,
    Mute,
    Slow,
    BadLink,
    Pause,
    ClockJump,
)


def who_of(fault: Fault) -> tuple[str, ...]:
    """The members that a fault names; none for one that is everybody's."""
    match fault:
        case CrashAll():
            return ()
        case Partition(left=left, right=right):
            return left + right
        case BadLink(sender=sender, receiver=receiver):
            return (sender, receiver)
        case _:
            return (fault.who,)


def end_of(fault: Fault) -> int:
    """When a fault is over, in virtual milliseconds."""
    match fault:
        case Crash() | CrashPoint() | CrashAll() | RestoredBackup():
            return fault.at + fault.down_ms
        case _:
            return fault.until
