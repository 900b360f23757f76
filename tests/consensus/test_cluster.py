"""Whole committees under bad weather, crashes and liars, seed by seed.

Safety is checked after every event: honest nodes agree, and none contradicts a promise. Then the
weather clears, and every transaction must be decided everywhere.
"""

import random
from functools import partial

import pytest

from consensus.committee import Committee, faulty_max
from tests.consensus.byzantine import corrupt
from tests.consensus.cluster import Cluster, byzantine_within_bounds
from tests.consensus.support import make_committee

SHAPES = [
    make_committee(4, 3),
    make_committee(4, 1),
    make_committee(2, 2),
    make_committee(1),
    make_committee(7, pooled=True),
    make_committee(4, 4),
    make_committee(3, 4),
    make_committee(5, 2, pooled=True),
]
TRANSACTIONS = 5
STORM_MS = 6_000
CALM_MS = 60_000


def run(
    seed: int, committee: Committee, byzantine: tuple[str, ...], *, twins: bool, calm_ms: int
) -> Cluster:
    """A storm, then calm until everything is decided; the cluster as it is then."""
    source = random.Random(seed)
    cluster = Cluster(seed, committee, byzantine, twins=twins)
    if not twins:
        corrupt(cluster)
    wanted = [b"+%d" % number for number in range(TRANSACTIONS)]
    for transaction in wanted:
        when = source.randint(0, STORM_MS)
        cluster.later(when, partial(submit, cluster, source, transaction))
    cluster.synchronize(2_000)
    storm(cluster, source)
    cluster.run(STORM_MS)
    cluster.clear_up()
    for transaction in wanted:
        cluster.honest[0].learn(transaction)
    cluster.run(STORM_MS + calm_ms, lambda: all_decided(cluster, wanted))
    return cluster


def submit(cluster: Cluster, source: random.Random, transaction: bytes) -> None:
    node = source.choice(cluster.honest)
    node.learn(transaction)
    cluster.announce(node, transaction)


def storm(cluster: Cluster, source: random.Random) -> None:
    """Change the weather now and then, along the class line as well."""
    if cluster.now >= STORM_MS:
        return
    labels = [node.label for node in cluster.nodes]
    weather = cluster.weather
    weather.loss = source.choice((0.0, 0.05, 0.3))
    weather.duplication = source.choice((0.0, 0.2))
    weather.delay_ms_max = source.choice((5, 20, 100, 400))
    weather.cut = frozenset(
        source.choice(
            (
                [],
                [],
                [label for label in labels if label[0] == "a"],
                source.sample(labels, source.randint(0, len(labels) // 2)),
            )
        )
    )
    cluster.crash_before_effect = source.choice((0.0, 0.002, 0.02))
    for node in cluster.honest:
        node.clock_off = source.random() < 0.1
    cluster.notice_links()
    cluster.later(source.randint(200, 1_500), lambda: storm(cluster, source))


def all_decided(cluster: Cluster, wanted: list[bytes]) -> bool:
    return all(
        set(wanted) <= {decision.block.payload for decision in node.chain}
        for node in cluster.honest
    )


@pytest.mark.parametrize("seed", range(32))
def test_agreement_promises_and_progress(seed: int) -> None:
    committee = SHAPES[seed % len(SHAPES)]
    source = random.Random(seed)
    byzantine = byzantine_within_bounds(committee, source)
    kind = ("none", "liars", "twins")[seed // len(SHAPES) % 3]
    cluster = run(
        seed,
        committee,
        () if kind == "none" else byzantine,
        twins=kind == "twins",
        calm_ms=CALM_MS,
    )
    wanted = [b"+%d" % number for number in range(TRANSACTIONS)]
    assert all_decided(cluster, wanted)
    chains = [[decision.block.hash for decision in node.chain] for node in cluster.honest]
    longest = max(chains, key=len)
    assert all(chain == longest[: len(chain)] for chain in chains)


@pytest.mark.parametrize("seed", range(12))
def test_one_class_wholly_byzantine_cannot_break_agreement(seed: int) -> None:
    """docs/ARCHITECTURE.md section 3: neither hospitals nor regulators alone rewrite the books."""
    committee = make_committee(*((4, 3), (4, 4), (3, 4), (2, 2))[seed % 4])
    source = random.Random(seed)
    lost = ("auditor", "recorder")[seed // 4 % 2]
    members = [voter.id for voter in committee.voters if voter.group == lost]
    others = [voter.id for voter in committee.voters if voter.group != lost]
    byzantine = tuple(sorted(members + source.sample(others, faulty_max(len(others)))))
    cluster = run(seed, committee, byzantine, twins=seed % 3 == 0, calm_ms=2_000)
    assert cluster.nodes, "agreement was checked after every event; progress is not owed"


# ---- the harness itself --------------------------------------------------------------------------


def two_worlds(committee: Committee, byzantine: tuple[str, ...], apart: frozenset[str]) -> Cluster:
    """Twins of the Byzantine voters on both sides of a partition, and a transaction on each."""
    cluster = Cluster(1, committee, byzantine, twins=True)
    cluster.weather.cut = apart
    for node in cluster.nodes:
        node.learn(b"+one" if node.label in apart else b"+other")
    return cluster


def test_more_than_f_in_every_class_do_break_agreement_and_the_checker_sees_it() -> None:
    cluster = two_worlds(make_committee(4), ("r0", "r1"), frozenset(("r0'", "r1'", "r3")))
    with pytest.raises(AssertionError, match="two blocks are decided"):
        cluster.run(20_000)


def test_the_same_partition_with_f_liars_is_harmless() -> None:
    cluster = two_worlds(make_committee(4), ("r1",), frozenset(("r1'", "r3")))
    cluster.run(20_000)
    assert max(len(node.chain) for node in cluster.honest) == 1, "only r0, r1, r2 are a quorum"


def test_both_classes_must_be_lost_for_that() -> None:
    committee = make_committee(4, 4)
    apart = frozenset(("r0'", "r1'", "r3", "a2", "a3"))
    cluster = two_worlds(committee, ("r0", "r1"), apart)
    cluster.run(20_000)
    assert all(not node.chain for node in cluster.honest), "neither side has three auditors"
    cluster = two_worlds(
        committee, ("a0", "a1", "r0", "r1"), frozenset(("a0'", "a1'", "a3", "r0'", "r1'", "r3"))
    )
    with pytest.raises(AssertionError, match="two blocks are decided"):
        cluster.run(20_000)


def test_the_same_seed_is_the_same_run() -> None:
    def trace(seed: int) -> list[tuple[str, int, list[bytes]]]:
        cluster = run(seed, SHAPES[0], ("r1",), twins=False, calm_ms=CALM_MS)
        return [
            (node.id, cluster.now, [decision.block.hash for decision in node.chain])
            for node in cluster.honest
        ]

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)
