"""What the seeds of a campaign may meet, by the name that `medpact simulate --profile` takes.

A profile says what is possible; each seed draws its own mix of it, with some kinds of faults off
and others at rates of their own (Groce et al., "Swarm Testing", ISSTA 2012): a fault that is always
there hides what happens only without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from simulations import faults
from simulations.byzantine import KINDS as BYZANTINE_KINDS
from simulations.faults import Fault

Lying = Literal["nobody", "some", "bound", "class", "beyond"]
"""Nobody lies; some within every class's bound; as many as every bound allows; a whole class, and
the other classes up to their bounds; more than the bound of every class.
"""

TWINS = "twins"
LIES = (*BYZANTINE_KINDS, TWINS)
COLLUDERS = ("equivocator", "conspirator", "conspirator")
"""Liars that play together, so that enough of them can fork the ledger, as often as drawn."""

_SMALL = ((4, 1), (4, 1), (4, 1), (4, 0), (4, 0), (3, 1), (1, 4), (2, 2), (1, 1))
_LARGE = ((4, 3), (4, 4), (5, 2), (7, 1))


@dataclass(frozen=True, slots=True)
class Profile:
    """What the seeds of one name are drawn from. All times are virtual milliseconds."""

    name: str
    help: str
    shapes: tuple[tuple[int, int], ...]
    """Recorders and auditors, the common ones several times."""
    lying: Mapping[Lying, int]
    """How often each way of lying is drawn, as weights."""
    lies: tuple[str, ...] = LIES
    faults: tuple[type[Fault], ...] = faults.KINDS
    faults_max: int = 10
    calm: float = 0.1
    """How many of the seeds have no faults besides their liars."""
    rough: float = 0.5
    """How many of the seeds have each of loss, duplication and reordering."""
    heal_ms: tuple[int, int] = (4_000, 11_000)
    transactions: tuple[int, int] = (10, 26)
    politics: float = 0.0
    """The share of transactions that propose or approve changes of the membership."""
    own: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Settings of the genesis file that are drawn from other values than usual."""


STANDARD = Profile(
    name="standard",
    help="Everything that can go wrong, within the bounds.",
    shapes=_SMALL * 2 + _LARGE,
    lying={"nobody": 5, "some": 8, "bound": 2, "class": 2},
)
BYZANTINE = Profile(
    name="byzantine",
    help="Liars of all kinds, up to the bound in each class, or a whole class against the other.",
    shapes=((4, 1), (4, 1), (4, 1), (4, 0), (4, 0), (1, 4), (3, 1), (2, 2), *_LARGE),
    lying={"some": 4, "bound": 4, "class": 3},
    faults=(
        faults.Crash,
        faults.CrashPoint,
        faults.RestoredBackup,
        faults.Partition,
        faults.Slow,
        faults.BadLink,
        faults.ClockJump,
    ),
    faults_max=6,
    calm=0.3,
    rough=0.3,
    heal_ms=(4_000, 9_000),
    transactions=(8, 20),
)
CRASH = Profile(
    name="crash",
    help="Crashes at every point, all at once too, restored backups, slow or pausing processes.",
    shapes=_SMALL,
    lying={"nobody": 1},
    faults=(
        faults.Crash,
        faults.CrashPoint,
        faults.CrashAll,
        faults.RestoredBackup,
        faults.Pause,
        faults.Slow,
    ),
    faults_max=14,
    calm=0.0,
    rough=0.2,
)
NETWORK = Profile(
    name="network",
    help="Partitions, also between classes, one-way cuts, bad, slow and mute links.",
    shapes=_SMALL * 2 + _LARGE,
    lying={"nobody": 1},
    faults=(faults.Partition, faults.Mute, faults.Slow, faults.BadLink),
    faults_max=12,
    calm=0.0,
    rough=0.7,
)
MEMBERSHIP = Profile(
    name="membership",
    help="Members change class, key and address by vote, while some crash or are cut off.",
    shapes=((4, 1), (4, 1), (4, 0), (3, 1), (3, 2), (2, 2)),
    lying={"nobody": 1},
    faults=(faults.Crash, faults.CrashPoint, faults.CrashAll, faults.Partition, faults.Slow),
    faults_max=4,
    calm=0.3,
    rough=0.3,
    heal_ms=(5_000, 9_000),
    transactions=(18, 30),
    politics=0.7,
)
BEYOND = Profile(
    name="beyond",
    help="More liars than the bound in every class: the ledger may fork, and that must show.",
    shapes=((4, 0), (4, 4), (4, 3), (3, 3), (4, 2), (3, 0)),
    lying={"beyond": 1},
    lies=COLLUDERS,
    faults=(faults.Slow, faults.BadLink),
    faults_max=2,
    calm=0.8,
    rough=0.2,
    heal_ms=(3_000, 6_000),
    transactions=(8, 16),
)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile for profile in (STANDARD, BYZANTINE, CRASH, NETWORK, MEMBERSHIP, BEYOND)
}
