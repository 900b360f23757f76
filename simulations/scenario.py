"""From a seed to everything that a run consists of: who takes part, what the network and the disks
are like, how much is submitted and what goes wrong.

A run has two parts. Until `heal_ms` everything drawn here happens, and safety must hold. Then all
but the Byzantine members is mended; if every voting class is within its bound the run must come to
rest within `patience_ms`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from consensus.committee import Committee, QuorumRule, faulty_max
from ledger.committee import committee_of
from ledger.genesis import Genesis, parse_genesis, render_genesis
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import SEED_BYTES, PrivateKey
from simulations import faults
from simulations.byzantine import KINDS as BYZANTINE_KINDS
from simulations.faults import Fault

GENESIS_MS = 1_800_000_000_000
"""Wall clock at virtual time 0."""
HEAD_REPEAT_MS = 5_000
REQUEST_TIMEOUT_MS = 5_000
IDLE_MS = 5_000
RETRY_MS = 3_000
"""A client without a receipt submits again, anywhere, after this long."""
INITIAL_VIEW_TIMEOUT_MS = 2_000

_SHAPES: tuple[tuple[int, int], ...] = (
    *((4, 1),) * 4,
    *((4, 0),) * 3,
    *((3, 1),) * 2,
    *((4, 3),) * 2,
    (4, 4),
    (1, 4),
    (2, 2),
    (1, 1),
    (5, 2),
    (7, 1),
)
"""Recorders and auditors, the common ones several times."""


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
    live: bool
    """Whether every class is within its bound, so that the run must come to rest."""

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
        kinds += [type(fault).__name__ for fault in self.faults]
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


# ---- drawing -------------------------------------------------------------------------------------


def draw(
    seed: int,
    *,
    kinds: Sequence[type[Fault]] = faults.KINDS,
    byzantine: Sequence[str] = (*BYZANTINE_KINDS, "twins"),
) -> Scenario:
    """Draw the scenario of a seed, with faults of these kinds and Byzantine members of those."""
    chance = random.Random(f"{seed} scenario")
    recorders, auditors = chance.choice(_SHAPES)
    rule: QuorumRule = chance.choice(("per_class", "per_class", "per_class", "pooled", "flat"))
    shape = Shape(recorders, auditors, chance.choice((0, 0, 1, 1, 2)), rule)
    heal_ms = chance.randint(8_000, 20_000)
    settings = _draw_settings(chance)
    storm = _draw_weather(chance)
    liars, live = _draw_byzantine(chance, shape, byzantine)
    calm = replace(
        storm,
        delay_ms_mean=min(storm.delay_ms_mean, 40),
        delay_ms_max=min(storm.delay_ms_max, 150),
        loss=0.0,
    )
    return Scenario(
        seed=seed,
        shape=shape,
        settings=settings,
        storm=storm,
        calm=calm,
        disk_ms_max=chance.choice((0, 5, 5, 20, 60)),
        skew_ms_max=chance.choice((0, settings["clock_drift_ms_max"] // 4)),
        transactions=chance.randint(20, 45),
        heal_ms=heal_ms,
        faults=tuple(_draw_faults(chance, shape, heal_ms, settings, liars, kinds)),
        byzantine=liars,
        live=live,
    )


def _draw_settings(chance: random.Random) -> dict[str, int]:
    return {
        "clock_drift_ms_max": chance.choice((500, 2_000, 10_000)),
        "heartbeat_ms": chance.choice((0, 0, 0, 2_000)),
        "censorship_heights": chance.choice((1, 3, 10)),
        "view_timeout_ms_min": chance.choice((200, 500, 1_000)),
        "view_timeout_ms_max": chance.choice((2_000, 4_000, 6_000)),
        "resend_ms": chance.choice((200, 500, 1_000)),
        "batch_delay_ms": chance.choice((0, 5, 50)),
        "batch_transactions_max": chance.choice((3, 100, 2_000)),
        "block_batches_max": chance.choice((8, 256)),
        "replay_window_blocks": chance.choice((10, 50, 1_000)),
    }


def _draw_weather(chance: random.Random) -> Weather:
    mean = chance.choice((1, 5, 20, 20, 60))
    return Weather(
        delay_ms_min=chance.choice((0, 1, mean // 2)),
        delay_ms_mean=mean,
        delay_ms_max=mean * chance.choice((2, 5, 20)),
        loss=chance.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
        duplication=chance.choice((0.0, 0.0, 0.05, 0.2)),
        ordered=chance.random() < 0.5,
    )


def _draw_byzantine(
    chance: random.Random, shape: Shape, kinds: Sequence[str]
) -> tuple[tuple[Byzantine, ...], bool]:
    """Liars, and whether the rest can still go on."""
    if not kinds or chance.random() < 0.3:
        return (), True
    groups = groups_of(shape)
    if len(groups) > 1 and chance.random() < 0.2:
        # One class is wholly corrupt and the other within its bound: nothing may fork.
        corrupt, sound = chance.sample(groups, 2)
        liars = [Byzantine(who, chance.choice(kinds)) for who in corrupt]
        if chance.random() < 0.5:
            liars = [Byzantine(who, "equivocator") for who in corrupt]
        liars += _draw_some(chance, sound, kinds)
        return tuple(liars), False
    found: list[Byzantine] = []
    for group in groups:
        found += _draw_some(chance, _replaceable(shape, group), kinds)
    return tuple(found), True


def _replaceable(shape: Shape, group: Sequence[str]) -> tuple[str, ...]:
    """The members of a group without whom it can go on: a lone recorder is not, whatever the rule,
    since nobody else proposes.
    """
    return tuple(who for who in group if shape.recorders > 1 or not who.startswith("recorder"))


def _draw_some(
    chance: random.Random, group: Sequence[str], kinds: Sequence[str]
) -> list[Byzantine]:
    bound = max(faulty_max(len(group)), 0)
    count = max(chance.randint(0, bound), chance.randint(0, bound))
    return [Byzantine(who, chance.choice(kinds)) for who in chance.sample(group, count)]


def _draw_faults(
    chance: random.Random,
    shape: Shape,
    heal_ms: int,
    settings: Mapping[str, int],
    liars: Sequence[Byzantine],
    kinds: Sequence[type[Fault]],
) -> list[Fault]:
    if not kinds or chance.random() < 0.1:
        return []
    lying = [liar.who for liar in liars]
    correct = [id for id in member_ids(shape) if id not in lying]
    # An amnesiac does not vote for a while, a wrong clock cannot: both use up a group's spares.
    spare = _draw_spare(chance, shape, lying)
    wanted = chance.sample(kinds, chance.randint(1, min(len(kinds), 4)))
    found: list[Fault] = []
    for kind in wanted:
        for _ in range(chance.randint(1, 3)):
            fault = _draw_fault(chance, kind, correct, spare, heal_ms, settings)
            if fault is not None:
                found.append(fault)
    return sorted(found, key=lambda fault: fault.at)


def _draw_spare(chance: random.Random, shape: Shape, lying: Sequence[str]) -> list[str]:
    """Correct members, so many of each group as may be out of order besides its liars."""
    spare: list[str] = []
    voters: list[str] = []
    for group in groups_of(shape):
        voters += group
        room = faulty_max(len(group)) - sum(who in lying for who in group)
        correct = [who for who in _replaceable(shape, group) if who not in lying]
        spare += chance.sample(correct, min(max(room, 0), len(correct)))
    return spare + [who for who in member_ids(shape) if who not in voters]


def _draw_fault(
    chance: random.Random,
    kind: type[Fault],
    correct: Sequence[str],
    spare: Sequence[str],
    heal_ms: int,
    settings: Mapping[str, int],
) -> Fault | None:
    at = chance.randint(100, heal_ms - 1_000)
    until = min(at + chance.choice((200, 1_000, 3_000, 8_000)), heal_ms)
    everyone = [*correct]
    if not correct:
        return None
    who = chance.choice(everyone)
    if kind is faults.Crash:
        return faults.Crash(at, who, chance.choice((0, 1, 2, 3, 5, 8, 20)), until - at)
    if kind is faults.CrashAll:
        return faults.CrashAll(at, chance.choice((10, 500, 2_000)))
    if kind is faults.Partition:
        return _draw_partition(chance, correct, at, until)
    if kind is faults.Mute:
        return faults.Mute(at, until, who)
    if kind is faults.Slow:
        return faults.Slow(at, until, who, chance.choice((50, 300, 1_500)))
    if kind is faults.Pause:
        return faults.Pause(at, until, who)
    if not spare:
        return None
    who = chance.choice(spare)
    if kind is faults.RestoredBackup:
        return faults.RestoredBackup(chance.randint(0, at), at, who, until - at)
    skew = settings["clock_drift_ms_max"] * chance.choice((-100, -2, 2, 100))
    return faults.ClockJump(at, until, who, skew)


def _draw_partition(
    chance: random.Random, members: Sequence[str], at: int, until: int
) -> faults.Partition:
    one_way = chance.random() < 0.25
    style = chance.randrange(3)
    if style == 0:
        # Along the class line.
        left = tuple(id for id in members if id.startswith("recorder"))
    elif style == 1:
        # A single link.
        left = (chance.choice(members),)
        return faults.Partition(at, until, left, (chance.choice(members),), one_way)
    else:
        left = tuple(id for id in members if chance.random() < 0.5)
    right = tuple(id for id in members if id not in left)
    return faults.Partition(at, until, left, right, one_way)
