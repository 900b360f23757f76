"""From a seed and a profile to a scenario: every seed draws its own mix of faults and rates."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from consensus.committee import QuorumRule, faulty_max, quorum_size
from simulations import faults
from simulations.faults import Fault
from simulations.profiles import COLLUDERS, STANDARD, TWINS, Profile
from simulations.scenario import (
    Byzantine,
    Scenario,
    Shape,
    Weather,
    groups_of,
    member_ids,
    second_twin,
)

_RULES: tuple[QuorumRule, ...] = ("per_class", "per_class", "per_class", "pooled", "flat")


_SETTINGS: Mapping[str, tuple[int, ...]] = {
    "clock_drift_ms_max": (500, 2_000, 10_000),
    "heartbeat_ms": (2_000, 0, 0, 0),
    "censorship_heights": (1, 10, 3),
    "bench_heights_min": (1, 2, 4, 32),
    "bench_heights_max": (64, 1_024),
    "evidence_heights_max": (5, 1_000),
    "view_timeout_ms_min": (200, 1_000, 500),
    "view_timeout_ms_max": (6_000, 4_000, 2_000),
    "resend_ms": (200, 1_000, 500),
    "batch_delay_ms": (50, 5, 0),
    "batch_transactions_max": (3, 2_000, 100),
    "block_batches_max": (8, 256),
    "replay_window_blocks": (10, 50, 1_000),
}
"""What each is drawn from; the last of each is the plainest."""


def draw(
    seed: int,
    profile: Profile = STANDARD,
    *,
    kinds: Sequence[type[Fault]] | None = None,
    byzantine: Sequence[str] | None = None,
) -> Scenario:
    """Draw the scenario of a seed; with faults of these kinds and liars of those only, if given."""
    chance = random.Random(f"{seed} {profile.name} scenario")
    fault_kinds = profile.faults if kinds is None else kinds
    lies = profile.lies if byzantine is None else byzantine
    shape = _draw_shape(chance, profile)
    heal_ms = chance.randint(*profile.heal_ms)
    settings = _draw_settings(chance, profile)
    storm = _draw_weather(chance, profile)
    liars = _draw_liars(chance, shape, profile, lies)
    calm = replace(
        storm,
        delay_ms_mean=min(storm.delay_ms_mean, 40),
        delay_ms_max=min(storm.delay_ms_max, 150),
        loss=0.0,
    )
    return Scenario(
        seed=seed,
        profile=profile.name,
        shape=shape,
        settings=settings,
        storm=storm,
        calm=calm,
        disk_ms_max=chance.choice((0, 5, 5, 20, 60)),
        skew_ms_max=chance.choice((0, settings["clock_drift_ms_max"] // 4)),
        transactions=chance.randint(*profile.transactions),
        heal_ms=heal_ms,
        faults=_draw_faults(chance, shape, heal_ms, settings, liars, fault_kinds, profile),
        byzantine=liars,
    )


def _draw_shape(chance: random.Random, profile: Profile) -> Shape:
    recorders, auditors = chance.choice(profile.shapes)
    observers = chance.choice((0, 0, 1, 1, 2))
    rule = chance.choice(_RULES)
    if "beyond" in profile.lying:
        # Two correct members are needed to disagree, whoever else lies.
        observers += 2
        rule = "pooled" if rule == "flat" else rule
    return Shape(recorders, auditors, observers, rule)


def _draw_settings(chance: random.Random, profile: Profile) -> dict[str, int]:
    choices = {**_SETTINGS, **profile.own}
    return {name: chance.choice(values) for name, values in choices.items()}


def settings_usual() -> dict[str, int]:
    """The plainest value of every setting."""
    return {name: values[-1] for name, values in _SETTINGS.items()}


def _draw_weather(chance: random.Random, profile: Profile) -> Weather:
    mean = chance.choice((1, 5, 20, 20, 60))

    def rate(*rates: float) -> float:
        return chance.choice(rates) if chance.random() < profile.rough else 0.0

    return Weather(
        delay_ms_min=chance.choice((0, 1, mean // 2)),
        delay_ms_mean=mean,
        delay_ms_max=mean * chance.choice((2, 5, 20)),
        loss=rate(0.01, 0.05, 0.2, 0.4),
        duplication=rate(0.02, 0.1, 0.3),
        ordered=chance.random() >= profile.rough,
    )


# ---- liars ---------------------------------------------------------------------------------------


def _draw_liars(
    chance: random.Random, shape: Shape, profile: Profile, lies: Sequence[str]
) -> tuple[Byzantine, ...]:
    lying = chance.choices(list(profile.lying), list(profile.lying.values()))[0]
    if not lies or lying == "nobody":
        return ()
    groups = groups_of(shape)
    who: list[str] = []
    if lying == "beyond":
        who = _draw_beyond(chance, groups)
    elif lying == "class" and len(groups) > 1:
        corrupt, sound = chance.sample(groups, 2)
        who = [*corrupt, *_draw_some(chance, sound, 0)]
    else:
        for group in groups:
            least = faulty_max(len(group)) if lying == "bound" else 0
            who += _draw_some(chance, _replaceable(shape, group), least)
        if not who:
            able = [group for group in groups if faulty_max(len(group)) > 0] or groups[1:]
            who = [chance.choice(chance.choice(able))] if able else []
    voters = [one for group in groups for one in group]
    others = [one for one in member_ids(shape) if one not in voters]
    if others and chance.random() < 0.3:
        # Whoever has no vote may lie as well, and give one.
        who.append(chance.choice(others))
    return tuple(Byzantine(one, kind) for one, kind in _tell_how(chance, who, lies))


def _tell_how(
    chance: random.Random, who: Sequence[str], lies: Sequence[str]
) -> list[tuple[str, str]]:
    """Half of the kinds, or one that all of them share, most often that which needs others: what
    many can do together is worst, and rare among what each does for itself.
    """
    on = [kind for kind in lies if chance.random() < 0.5] or [chance.choice(lies)]
    if chance.random() < (0.3 if len(who) < 2 else 0.6):
        colluding = [kind for kind in COLLUDERS if kind in lies]
        on = [chance.choice(colluding * len(on) + on)]
    return [(one, chance.choice(on)) for one in who]


def _draw_some(chance: random.Random, group: Sequence[str], least: int) -> list[str]:
    """Members of a group within its bound."""
    bound = min(faulty_max(len(group)), len(group)) if group else 0
    return chance.sample(group, max(min(least, bound), chance.randint(0, bound)))


def _draw_beyond(chance: random.Random, groups: Sequence[Sequence[str]]) -> list[str]:
    """More than the bound of every group, but nowhere enough to decide without the others."""
    who: list[str] = []
    for group in groups:
        least = faulty_max(len(group)) + 1
        most = max(least, quorum_size(len(group)) - 1)
        who += chance.sample(group, chance.randint(least, most))
    return who


def _replaceable(shape: Shape, group: Sequence[str]) -> tuple[str, ...]:
    """The members of a group without whom it can go on: a lone recorder is not, whatever the rule,
    since nobody else proposes.
    """
    return tuple(who for who in group if shape.recorders > 1 or not who.startswith("recorder"))


# ---- faults --------------------------------------------------------------------------------------


def _draw_faults(
    chance: random.Random,
    shape: Shape,
    heal_ms: int,
    settings: Mapping[str, int],
    liars: Sequence[Byzantine],
    kinds: Sequence[type[Fault]],
    profile: Profile,
) -> tuple[Fault, ...]:
    lying = [liar.who for liar in liars]
    correct = [id for id in member_ids(shape) if id not in lying]
    if not kinds or not correct or chance.random() < profile.calm:
        return ()
    # An amnesiac does not vote for a while, a wrong clock cannot: both use up a group's spares.
    spare = _draw_spare(chance, shape, lying)
    on = [kind for kind in kinds if chance.random() < 0.5] or [chance.choice(kinds)]
    found: list[Fault] = []
    for kind in on:
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            fault = _draw_fault(chance, kind, correct, spare, heal_ms, settings)
            if isinstance(fault, faults.Partition) and chance.random() < 0.7:
                fault = _part_twins(fault, liars)
            if fault is not None:
                found.append(fault)
    kept = chance.sample(found, min(len(found), profile.faults_max))
    kept = _restore_in_common_ruin(chance, kept, heal_ms)
    return tuple(sorted(kept, key=lambda fault: fault.at))


def _restore_in_common_ruin(
    chance: random.Random, found: Sequence[Fault], heal_ms: int
) -> list[Fault]:
    """Restore some backups as all processes die, so that a height goes on at which promises were
    lost; whoever is alone with its loss mostly finds that height decided. Some of them ask so
    slowly that they have heard of all heads before they have caught up with any.
    """
    ruins = [fault for fault in found if isinstance(fault, faults.CrashAll)]
    kept: list[Fault] = []
    for fault in found:
        shared = isinstance(fault, faults.RestoredBackup) and ruins and chance.random() < 0.7
        if isinstance(fault, faults.RestoredBackup) and shared:
            ruin = chance.choice(ruins)
            copied_at = max(ruin.at - (fault.at - fault.copied_at), 0)
            down_ms = min(fault.down_ms, heal_ms - ruin.at)
            kept.append(faults.RestoredBackup(copied_at, ruin.at, fault.who, down_ms))
            if chance.random() < 0.5:
                until = min(ruin.at + ruin.down_ms + 3_000, heal_ms)
                kept.append(faults.Slow(ruin.at, until, fault.who, chance.choice((1_000, 2_000))))
        else:
            kept.append(fault)
    return kept


def _part_twins(fault: faults.Partition, liars: Sequence[Byzantine]) -> faults.Partition:
    """Twins on either side of a partition: each half of the honest has its own."""
    twins = [liar.who for liar in liars if liar.kind == TWINS]
    left = (*fault.left, *twins)
    right = (*fault.right, *(second_twin(who) for who in twins))
    return replace(fault, left=left, right=right)


def _draw_spare(chance: random.Random, shape: Shape, lying: Sequence[str]) -> list[str]:
    """Correct members, so many of each group as may be out of order besides its liars."""
    spare: list[str] = []
    voters: list[str] = []
    for group in groups_of(shape):
        voters += group
        room = faulty_max(len(group)) - sum(who in lying for who in group)
        correct = [who for who in _replaceable(shape, group) if who not in lying]
        spare += chance.sample(correct, min(max(room, 0), len(correct)))
    return spare + [who for who in member_ids(shape) if who not in voters + list(lying)]


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
    down_ms = until - at
    who = chance.choice(correct)
    if kind is faults.Crash:
        return faults.Crash(at, who, chance.choice((0, 1, 2, 3, 5, 8, 20)), down_ms)
    if kind is faults.CrashPoint:
        moment, number = chance.choice(faults.MOMENTS), chance.choice((1, 1, 2, 3, 5))
        return faults.CrashPoint(at, who, moment, number, down_ms)
    if kind is faults.CrashAll:
        return faults.CrashAll(at, chance.choice((10, 500, 2_000)))
    if kind is faults.Partition:
        return _draw_partition(chance, correct, at, until)
    if kind is faults.Mute:
        return faults.Mute(at, until, who)
    if kind is faults.Slow:
        return faults.Slow(at, until, who, chance.choice((50, 300, 1_500)))
    if kind is faults.BadLink:
        other, delay_ms = chance.choice(correct), chance.choice((0, 100, 800))
        return faults.BadLink(at, until, who, other, delay_ms, chance.choice((0, 30, 100)))
    if kind is faults.Pause:
        return faults.Pause(at, until, who)
    if not spare:
        return None
    who = chance.choice(spare)
    if kind is faults.RestoredBackup:
        age_ms = min(chance.choice((50, 300, 1_500, at)), at)
        if chance.random() < 0.5:
            moment = chance.choice(faults.MOMENTS)
            return faults.RestoredBackup(at - age_ms, at, who, down_ms, moment)
        down_ms = min(chance.choice((1, 100, 500, down_ms)), down_ms)
        return faults.RestoredBackup(at - age_ms, at, who, down_ms)
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
