"""What goes wrong in a run, and when: values that a scenario draws and a cluster performs.

Times are virtual milliseconds. All of these end before the run is healed, except for Byzantine
members, which stay what they are: see byzantine.py.
"""

from dataclasses import dataclass


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
class CrashAll:
    """All processes die at once, each wherever it is."""

    at: int
    down_ms: int


@dataclass(frozen=True, slots=True)
class RestoredBackup:
    """A disk is copied at `copied_at`; at `at` the process dies and comes back with that copy."""

    copied_at: int
    at: int
    who: str
    down_ms: int


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


Fault = Crash | CrashAll | RestoredBackup | Partition | Mute | Slow | Pause | ClockJump

KINDS: tuple[type[Fault], ...] = (
    Crash,
    CrashAll,
    RestoredBackup,
    Partition,
    Mute,
    Slow,
    Pause,
    ClockJump,
)
