"""What goes wrong in a run on real daemons: drawn from the seed and nothing else.

A plan is an endless sequence of rounds, the same on every machine. How far a run comes depends on
its time, and on the machine's speed: a round begins when the one before is over and every daemon
answers. What a machine cannot do is left out when its turn comes, and reported. In a round no class
has more faulty members than it can miss, except when a fault strikes everybody: then nothing needs
to go on, and nothing may be lost.
"""

import enum
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

CALM_MS = (1_000, 5_000)
"""Before a round, once every daemon answers."""
BEGIN_MS_MAX = 3_000
"""Within a round faults begin so close to each other."""
CLOCK_OFFSETS_MS = (-3_600_000, -60_000, -15_000, -2_000, 2_000, 15_000, 60_000, 86_400_000)
"""Within the drift that voters accept, a little beyond it, and far away."""


class Kind(enum.StrEnum):
    """What can happen to real daemons."""

    KILL = "kill"
    """SIGKILL, and a start after a while."""
    KILL_AGAIN = "kill again"
    """SIGKILL twice, the second time while the node is starting."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT after a while."""
    CUT = "cut"
    """No packet to or from anybody else arrives."""
    LINK = "link"
    """No packet between one member and some of the others arrives."""
    DISK = "disk"
    """The disk is full, and has room again after a while."""
    DISK_KILL = "disk and kill"
    """The disk is full, and the node is killed and started on it."""
    CLOCK = "clock"
    """The wall clock jumps, and jumps back after a while."""
    KILL_ALL = "kill all"
    PAUSE_ALL = "pause all"
    SPLIT = "split"
    """The network falls into two parts, neither of which has a quorum of both classes."""


EVERYBODY = (Kind.KILL_ALL, Kind.PAUSE_ALL, Kind.SPLIT)
ON_DISK = (Kind.DISK, Kind.DISK_KILL)
LASTS_MS: Mapping[Kind, tuple[int, int]] = {
    Kind.KILL: (0, 8_000),
    Kind.KILL_AGAIN: (0, 2_000),
    Kind.PAUSE: (500, 9_000),
    Kind.CUT: (2_000, 10_000),
    Kind.LINK: (2_000, 10_000),
    Kind.DISK: (4_000, 12_000),
    Kind.DISK_KILL: (4_000, 12_000),
    Kind.CLOCK: (3_000, 10_000),
    Kind.KILL_ALL: (0, 3_000),
    Kind.PAUSE_ALL: (500, 4_000),
    Kind.SPLIT: (2_000, 6_000),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many daemons there are of each class."""

    recorders: int = 4
    auditors: int = 3
    observers: int = 1

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The members of every class, by the names that a trial network gives them."""
        counts = {"recorder": self.recorders, "auditor": self.auditors, "observer": self.observers}
        return {
            kind: tuple(f"{kind}-{n}" for n in range(1, count + 1))
            for kind, count in counts.items()
        }

    @property
    def members(self) -> tuple[str, ...]:
        """All of them, recorders first."""
        return tuple(name for names in self.classes.values() for name in names)

    @property
    def voters(self) -> tuple[str, ...]:
        """Recorders and auditors."""
        return self.classes["recorder"] + self.classes["auditor"]

    def has_quorum(self, without: Sequence[str]) -> bool:
        """Whether a quorum of every voting class is left without some members."""
        spare = self.spare()
        return all(
            sum(name in without for name in self.classes[kind]) <= spare[kind]
            for kind in ("recorder", "auditor")
        )

    def spare(self) -> dict[str, int]:
        """How many of each class can be missed while the ledger goes on."""
        spare = {kind: len(names) for kind, names in self.classes.items()}
        for kind in ("recorder", "auditor"):
            # Counted by the definition, since the code under test counts with its own formula.
            n = spare[kind]
            spare[kind] = sum(2 * present > n + (n - 1) // 3 for present in range(n))
        return spare


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Times in milliseconds, `at_ms` since the round began."""

    at_ms: int
    lasts_ms: int
    kind: Kind
    victims: tuple[str, ...]
    others: tuple[str, ...] = ()
    """LINK: whom the victims cannot reach. SPLIT: the other part."""
    offset_ms: int = 0
    """CLOCK: how far the clock jumps."""

    def text(self) -> str:
        """In words, for who watches."""
        names = "everybody" if self.kind in (Kind.KILL_ALL, Kind.PAUSE_ALL) else _list(self.victims)
        ending = f" from {_list(self.others)}" if self.others else ""
        offset = f" by {self.offset_ms / 1000:+.0f} s" if self.offset_ms else ""
        return f"{self.kind.value} {names}{ending}{offset} for {self.lasts_ms / 1000:.1f} s"


@dataclass(frozen=True, slots=True)
class Round:
    """Faults that overlap, and how long all is calm before them."""

    calm_ms: int
    faults: tuple[Fault, ...]


class Plan:
    """The rounds of a seed, and which members must be prepared for their faults."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self._seed = seed
        self._shape = shape
        self._chance = random.Random(seed)
        voting = [names for names in shape.classes.values() if names and names[0] in shape.voters]
        self.small_disks = tuple(self._chance.choice(names) for names in voting)
        """One of each voting class."""
        self.moved_clocks = tuple(self._chance.choice(names) for names in voting)
        self._state = self._chance.getstate()

    def rounds(self) -> Iterator[Round]:
        """All rounds, without end and from the first one each time."""
        chance = random.Random()
        chance.setstate(self._state)
        for kinds in _orders(chance):
            calm_ms = chance.randrange(*CALM_MS)
            faults = tuple(self._faults(chance, kinds))
            if faults:
                yield Round(calm_ms, faults)

    def _faults(self, chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Fault]:
        """Each with its own victims, within what the classes can miss."""
        if kinds[0] in EVERYBODY:
            yield _for_everybody(chance, self._shape, kinds[0])
            return
        spare = self._shape.spare()
        left = {name: kind for kind, names in self._shape.classes.items() for name in names}
        for kind in kinds:
            able = [name for name in left if spare[left[name]] and self._can(name, kind)]
            if not able:
                continue
            victims = [chance.choice(able)]
            spare[left.pop(victims[0])] -= 1
            able = [name for name in left if spare[left[name]]]
            if kind is Kind.CUT and able and chance.random() < 0.5:
                victims.append(chance.choice(able))
                spare[left.pop(victims[1])] -= 1
            yield self._fault(chance, kind, tuple(victims))

    def _can(self, name: str, kind: Kind) -> bool:
        match kind:
            case Kind.DISK | Kind.DISK_KILL:
                return name in self.small_disks
            case Kind.CLOCK:
                return name in self.moved_clocks
            case _:
                return True

    def _fault(self, chance: random.Random, kind: Kind, victims: tuple[str, ...]) -> Fault:
        others: tuple[str, ...] = ()
        if kind is Kind.LINK:
            rest = [name for name in self._shape.members if name not in victims]
            others = tuple(sorted(chance.sample(rest, chance.randrange(1, max(len(rest), 2)))))
        return Fault(
            at_ms=chance.randrange(BEGIN_MS_MAX),
            lasts_ms=chance.randrange(*LASTS_MS[kind]),
            kind=kind,
            victims=victims,
            others=others,
            offset_ms=chance.choice(CLOCK_OFFSETS_MS) if kind is Kind.CLOCK else 0,
        )


def _orders(chance: random.Random) -> Iterator[list[Kind]]:
    """What happens together, without end; all kinds have come once before any comes again."""
    while True:
        single = [kind for kind in Kind if kind not in EVERYBODY]
        chance.shuffle(single)
        orders = [[kind] for kind in EVERYBODY]
        while single:
            size = chance.randrange(1, 4)
            orders.append(single[:size])
            del single[:size]
        chance.shuffle(orders)
        yield from orders


def _for_everybody(chance: random.Random, shape: Shape, kind: Kind) -> Fault:
    lasts_ms = chance.randrange(*LASTS_MS[kind])
    if kind is not Kind.SPLIT:
        return Fault(0, lasts_ms, kind, shape.members)
    halves = [
        name for names in shape.classes.values() for name in chance.sample(names, len(names) // 2)
    ]
    # Along the line between the classes each part has a quorum of one class alone.
    line = list(shape.classes["recorder"])
    along = chance.random() < 0.5 or shape.has_quorum(halves)
    victims = line if not halves or (shape.classes["auditor"] and along) else halves
    others = tuple(name for name in shape.members if name not in victims)
    return Fault(0, lasts_ms, kind, tuple(victims), others)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
