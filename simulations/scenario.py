"""Everything that a run consists of: who takes part, what the network and the disks are like, how
much is submitted and what goes wrong.

A run has two parts. Until `heal_ms` everything planned here happens, and agreement must hold. Then
all but the liars is mended; if every voting class is within its bound the run must come to rest
within `patience_ms`.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.committee import Committee, QuorumRule, faulty_max
from ledger.committee import committee_of
from ledger.genesis import Genesis, parse_genesis, render_genesis
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import SEED_BYTES, PrivateKey
from simulations.faults import Fault

GENESIS_MS = 1_800_000_000_000
"""Wall clock at virtual time 0."""
HEAD_REPEAT_MS = 5_000
REQUEST_TIMEOUT_MS = 5_000
IDLE_MS = 5_000
RETRY_MS = 3_000
"""A client without a receipt submits again, anywhere, after this long."""
INITIAL_VIEW_TIMEOUT_MS = 2_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How many institutions of each class, and how they are counted."""

    recorders: int
    auditors: int
    observers: int
    quorum: QuorumRule


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network treats messages. Delays are exponential between a minimum and a maximum."""

    delay_ms_min: int
    delay_ms_mean: int
    delay_ms_max: int
    loss: float
    duplication: float
    ordered: bool
    """Whether what one node sends another arrives in the order of sending."""


@dataclass(frozen=True, slots=True)
class Byzantine:
    """A member that lies, and how: one of simulations.byzantine.KINDS, or "twins"."""

    who: str
    kind: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run, complete: the same scenario always gives the same trace."""

    seed: int
    profile: str
    """Where it was drawn from: one of simulations.profiles.PROFILES."""
    shape: Shape
    settings: Mapping[str, int]
    """[timing] and [limits] of the genesis file."""
    storm: Weather
    calm: Weather
    disk_ms_max: int
    skew_ms_max: int
    transactions: int
    heal_ms: int
    faults: tuple[Fault, ...]
    byzantine: tuple[Byzantine, ...]

    @property
    def safe(self) -> bool:
        """Whether some class is within its bound, so that nothing may fork."""
        return any(self._within(group) for group in groups_of(self.shape))

    @property
    def live(self) -> bool:
        """Whether every class is within its bound, so that the run must come to rest. Whatever the
        quorum rule, somebody must be left to propose.
        """
        lying = [one.who for one in self.byzantine]
        proposers = member_ids(self.shape)[: self.shape.recorders]
        within = all(self._within(group) for group in groups_of(self.shape))
        return within and any(who not in lying for who in proposers)

    def _within(self, group: Sequence[str]) -> bool:
        return sum(one.who in group for one in self.byzantine) <= faulty_max(len(group))

    @property
    def patience_ms(self) -> int:
        """How long after `heal_ms` the run may take to come to rest, in virtual milliseconds.

        From the longest that each step can last once messages pass within `calm.delay_ms_max`:

        * the news: whoever lags hears of it at the latest when heads are repeated, and asks each
          lying or slow peer once in vain before a correct one;
        * a view: its time, at most `view_timeout_ms_max`, a resend for VIEW-CHANGEs that were lost
          before the healing, and a few delays of the network and the disk;
        * a height: the views of all faulty recorders in a row, one that was already under way and
          one that succeeds, after the wall clock has come within the bounds of a head that a fast
          clock has dated;
        * the backlog: what was under way, what waits in batches, and what clients submit again
          because it was lost with its batch; two heights each.
        """
        settings = self.settings
        hop = self.calm.delay_ms_max + self.disk_ms_max
        news = HEAD_REPEAT_MS + (1 + len(self.byzantine)) * (REQUEST_TIMEOUT_MS + 2 * hop)
        timeout = max(settings["view_timeout_ms_max"], INITIAL_VIEW_TIMEOUT_MS)
        view = timeout + settings["resend_ms"] + 8 * hop
        liars = sum(1 for one in self.byzantine if one.who.startswith("recorder"))
        height = view * (liars + 2)
        return news + settings["clock_drift_ms_max"] + 3 * (RETRY_MS + 2 * height)

    @property
    def silence_ms(self) -> int:
        """How long after the rest the correct voters may go on speaking: until a batch that can no
        longer run is dropped everywhere, whatever the clocks, what was under way is over, and a
        voter that was woken for nothing has noticed.
        """
        settings = self.settings
        timeout = max(settings["view_timeout_ms_max"], INITIAL_VIEW_TIMEOUT_MS)
        resend_ms = settings["resend_ms"]
        return 2 * settings["clock_drift_ms_max"] + timeout + 4 * resend_ms + IDLE_MS

    def summary(self) -> str:
        """One line for people."""
        shape = self.shape
        kinds = [f"{one.kind} {one.who}" for one in self.byzantine]
        faults = Counter(type(fault).__name__ for fault in self.faults)
        kinds += [f"{count} {kind}" for kind, count in faults.items()]
        return (
            f"{shape.recorders}+{shape.auditors}+{shape.observers} {shape.quorum}; "
            f"loss {self.storm.loss:.0%}, delay {self.storm.delay_ms_mean} ms; "
            f"{', '.join(kinds) or 'no faults'}"
        )


@dataclass(frozen=True, slots=True)
class Consortium:
    """The members of a scenario with their keys."""

    genesis: Genesis
    keys: Mapping[str, PrivateKey]
    committee: Committee


def found(scenario: Scenario) -> Consortium:
    """Make the genesis file and the keys."""
    chance = random.Random(f"{scenario.seed} keys")
    shape = scenario.shape
    keys: dict[str, PrivateKey] = {}
    institutions = []
    for number, (id, kind) in enumerate(_members(shape)):
        keys[id] = PrivateKey(chance.randbytes(SEED_BYTES))
        institutions.append(
            Institution(
                id=id,
                name=id.capitalize(),
                type=kind,
                region="CN-GD",
                lei=lei_with_check_digits(f"5493{number:014d}"),
                key=keys[id].public,
                address=f"{id}.example:7600",
            )
        )
    raw = render_genesis(
        f"Simulation {scenario.seed}",
        GENESIS_MS - 1,
        institutions,
        quorum=shape.quorum,
        settings=scenario.settings,
    )
    genesis = parse_genesis(raw)
    committee = committee_of(genesis.institutions, genesis.classes, genesis.quorum)
    return Consortium(genesis, keys, committee)


def second_twin(id: str) -> str:
    """The name of the other process with the key of a member; the first has the member's id."""
    return f"{id}'"


def member_ids(shape: Shape) -> tuple[str, ...]:
    """The ids of the institutions, recorders first."""
    return tuple(id for id, _ in _members(shape))


def _members(shape: Shape) -> list[tuple[str, str]]:
    kinds = (
        ("recorder", "tertiary_hospital", shape.recorders),
        ("auditor", "health_authority", shape.auditors),
        ("observer", "research_institute", shape.observers),
    )
    return [(f"{name}-{n}", kind) for name, kind, count in kinds for n in range(1, count + 1)]


def groups_of(shape: Shape) -> list[tuple[str, ...]]:
    """The voters by group, as the quorum rule counts them."""
    ids = member_ids(shape)
    recorders = ids[: shape.recorders]
    auditors = ids[shape.recorders : shape.recorders + shape.auditors]
    match shape.quorum:
        case "per_class":
            return [group for group in (recorders, auditors) if group]
        case "pooled":
            return [recorders + auditors]
        case "flat":
            return [ids]
