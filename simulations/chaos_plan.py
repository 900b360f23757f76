"""What goes wrong when in a run on real daemons: drawn from the seed and nothing else.

The plan is the same on every machine; what a machine cannot do is left out when the plan is
carried out, and reported. At any time no class has more faulty members than it can miss, except
when a fault strikes everybody: then nothing needs to go on, and nothing may be lost.
"""

import enum
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from consensus.committee import quorum_size

CALM_MS = 6_000
"""Before the first fault, and between two rounds at the most."""
ROUND_MS_MAX = 12_000
DISKS = 2
"""Members with a small disk, one of each voting class."""
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
    CLOCK = "clock"
    """The wall clock jumps, and jumps back after a while."""
    KILL_ALL = "kill all"
    PAUSE_ALL = "pause all"
    SPLIT = "split"
    """The network falls into two parts, none of which has a quorum."""


EVERYBODY = (Kind.KILL_ALL, Kind.PAUSE_ALL, Kind.SPLIT)
LASTS_MS: Mapping[Kind, tuple[int, int]] = {
    Kind.KILL: (0, 8_000),
    Kind.KILL_AGAIN: (0, 2_000),
    Kind.PAUSE: (500, 9_000),
    Kind.CUT: (2_000, 10_000),
    Kind.LINK: (2_000, 10_000),
    Kind.DISK: (3_000, 9_000),
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

    def spare(self) -> dict[str, int]:
        """How many of each class can be missed while the ledger goes on."""
        spare = {kind: len(names) for kind, names in self.classes.items()}
        for kind in ("recorder", "auditor"):
            spare[kind] = max(spare[kind] - quorum_size(spare[kind]), 0)
        return spare


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Times in milliseconds, `at_ms` since the faults began."""

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
class Plan:
    """All faults of a run in order of time, and which members must be prepared for theirs."""

    faults: tuple[Fault, ...]
    small_disks: tuple[str, ...]

    @property
    def moved_clocks(self) -> tuple[str, ...]:
        """Members whose clock will jump."""
        victims = (name for f in self.faults if f.kind is Kind.CLOCK for name in f.victims)
        return tuple(dict.fromkeys(victims))


def draw_plan(seed: int, shape: Shape, last_ms: int) -> Plan:
    """The faults of a seed, all begun and ended before `last_ms`."""
    chance = random.Random(seed)
    classes = shape.classes
    disks = tuple(
        chance.choice(classes[kind]) for kind in ("recorder", "auditor")[:DISKS] if classes[kind]
    )
    faults: list[Fault] = []
    start_ms = CALM_MS
    for kinds in _rounds(chance):
        made = list(_round(chance, shape, kinds, start_ms, disks))
        end_ms = max((f.at_ms + f.lasts_ms for f in made), default=start_ms)
        if end_ms > last_ms:
            break
        faults += made
        start_ms = end_ms + chance.randrange(1_000, CALM_MS)
    return Plan(tuple(sorted(faults, key=lambda f: f.at_ms)), disks)


def _rounds(chance: random.Random) -> Iterator[list[Kind]]:
    """What happens together, without end; all kinds come once before any comes again."""
    while True:
        single = [kind for kind in Kind if kind not in EVERYBODY]
        chance.shuffle(single)
        rounds = [[kind] for kind in EVERYBODY]
        while single:
            size = chance.randrange(1, 4)
            rounds.append(single[:size])
            del single[:size]
        chance.shuffle(rounds)
        yield from rounds


def _round(
    chance: random.Random, shape: Shape, kinds: Sequence[Kind], start_ms: int, disks: Sequence[str]
) -> Iterator[Fault]:
    """Faults that overlap, each with its own victims, within what the classes can miss."""
    if kinds[0] in EVERYBODY:
        yield _for_everybody(chance, shape, kinds[0], start_ms)
        return
    spare = shape.spare()
    left = {name: kind for kind, names in shape.classes.items() for name in names}
    for kind in kinds:
        at_ms = start_ms + chance.randrange(0, ROUND_MS_MAX // 4)
        candidates = [n for n in left if spare[left[n]] and (kind is not Kind.DISK or n in disks)]
        if not candidates:
            continue
        victim = chance.choice(candidates)
        spare[left.pop(victim)] -= 1
        victims = [victim]
        partner = [n for n in left if spare[left[n]]] if kind is Kind.CUT else []
        if partner and chance.random() < 0.5:
            victims.append(chance.choice(partner))
            spare[left.pop(victims[1])] -= 1
        lasts_ms = chance.randrange(*LASTS_MS[kind])
        others: tuple[str, ...] = ()
        if kind is Kind.LINK:
            rest = [name for name in shape.members if name != victim]
            others = tuple(sorted(chance.sample(rest, chance.randrange(1, len(rest)))))
        offset_ms = chance.choice(CLOCK_OFFSETS_MS) if kind is Kind.CLOCK else 0
        yield Fault(at_ms, lasts_ms, kind, tuple(victims), others, offset_ms)


def _for_everybody(chance: random.Random, shape: Shape, kind: Kind, at_ms: int) -> Fault:
    lasts_ms = chance.randrange(*LASTS_MS[kind])
    if kind is not Kind.SPLIT:
        return Fault(at_ms, lasts_ms, kind, shape.members)
    if chance.random() < 0.5:
        # Along the line between the classes: each part has a quorum of one class alone.
        victims = list(shape.classes["recorder"])
    else:
        victims = [
            name
            for names in shape.classes.values()
            for name in chance.sample(names, len(names) // 2)
        ]
    others = tuple(name for name in shape.members if name not in victims)
    return Fault(at_ms, lasts_ms, kind, tuple(victims), others)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
