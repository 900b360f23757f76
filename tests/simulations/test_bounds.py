"""The bounds of docs/ARCHITECTURE.md section 3 as stated: agreement holds while at least one class
is within its bound, and one liar more in every class breaks it, which the checkers report and so
prove that they can.

The liars are conspirators, the strongest there are: they split the honest, hide what was prepared
and justify whichever block they like.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from consensus.committee import QuorumRule, faulty_max, quorum_size
from simulations.campaign import Verdict, run_scenario
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.faults import Partition
from simulations.scenario import Byzantine, Scenario, Shape, groups_of

SHAPES: tuple[tuple[int, int, QuorumRule], ...] = (
    (4, 1, "per_class"),
    (4, 4, "per_class"),
    (7, 4, "per_class"),
    (3, 1, "per_class"),
    (4, 3, "pooled"),
    (4, 3, "flat"),
)


def breaking(n: int) -> int:
    """The fewest liars with whom two quorums of n share no honest member: f + 1 where n = 3f + 1,
    and never fewer.
    """
    return 2 * quorum_size(n) - n


def first_of(shape: Shape, counts: Sequence[int]) -> tuple[str, ...]:
    """So many members of each group."""
    groups = groups_of(shape)
    return tuple(who for group, n in zip(groups, counts, strict=True) for who in group[:n])


def conspiracy(seed: int, shape: Shape, liars: Sequence[str]) -> Scenario:
    """A run in which these members conspire and nothing else goes wrong but the weather."""
    return replace(
        draw(seed, kinds=(), byzantine=()),
        shape=shape,
        byzantine=tuple(Byzantine(who, "conspirator") for who in liars),
    )


def at_bounds(shape: Shape) -> list[int]:
    return [faulty_max(len(group)) for group in groups_of(shape)]


def beyond(shape: Shape) -> list[int]:
    return [breaking(len(group)) for group in groups_of(shape)]


@pytest.mark.parametrize("n", range(1, 40))
def test_more_liars_than_the_bound_are_needed_to_break_a_group(n: int) -> None:
    assert breaking(n) > faulty_max(n)
    if n % 3 == 1:
        assert breaking(n) == faulty_max(n) + 1


@pytest.mark.parametrize(("recorders", "auditors", "rule"), SHAPES)
def test_at_the_bound_of_every_class_nothing_forks_and_all_goes_on(
    recorders: int, auditors: int, rule: QuorumRule
) -> None:
    shape = Shape(recorders, auditors, 0, rule)
    scenario = conspiracy(1, shape, first_of(shape, at_bounds(shape)))
    assert scenario.safe
    assert scenario.live
    report = run_scenario(scenario)
    assert report.verdict is Verdict.PASSED, report.reason
    assert report.figures is not None
    assert report.figures.transactions > 0


@pytest.mark.parametrize("corrupt", [0, 1])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("recorders", "auditors"), [(4, 1), (4, 4), (3, 1)])
def test_one_whole_class_and_the_bound_of_the_other_cannot_fork(
    recorders: int, auditors: int, seed: int, corrupt: int
) -> None:
    shape = Shape(recorders, auditors, 2, "per_class")
    counts = at_bounds(shape)
    counts[corrupt] = (recorders, auditors)[corrupt]
    scenario = conspiracy(seed, shape, first_of(shape, counts))
    assert scenario.safe
    assert not scenario.live
    report = run_scenario(scenario)
    assert report.verdict is Verdict.PASSED, report.reason


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("corrupt", [0, 1])
def test_a_whole_class_and_a_cut_between_the_honest_cannot_fork(seed: int, corrupt: int) -> None:
    shape = Shape(4, 4, 2, "per_class")
    counts = at_bounds(shape)
    counts[corrupt] = 4
    scenario = conspiracy(seed, shape, first_of(shape, counts))
    lying = [one.who for one in scenario.byzantine]
    honest = [who for group in groups_of(shape) for who in group if who not in lying]
    cut = Partition(500, 6_000, tuple(honest[::2]), tuple(honest[1::2]), one_way=False)
    report = run_scenario(replace(scenario, faults=(cut,)))
    assert report.verdict is Verdict.PASSED, report.reason


@pytest.mark.parametrize("rule", ["pooled", "flat"])
@pytest.mark.parametrize(("recorders", "auditors"), [(4, 1), (5, 3)])
def test_one_below_what_breaks_the_only_group_does_not_fork(
    recorders: int, auditors: int, rule: QuorumRule
) -> None:
    """Even where that is above the bound, for n other than 3f + 1."""
    shape = Shape(recorders, auditors, 0, rule)
    liars = first_of(shape, [breaking(recorders + auditors) - 1])
    report = run_scenario(conspiracy(1, shape, liars))
    assert report.verdict is Verdict.PASSED, report.reason


@pytest.mark.parametrize(("recorders", "auditors", "rule"), SHAPES)
def test_beyond_the_bound_of_every_class_the_fork_is_reported(
    recorders: int, auditors: int, rule: QuorumRule
) -> None:
    shape = Shape(recorders, auditors, 0, rule)
    liars = first_of(shape, beyond(shape))
    reports = [run_scenario(conspiracy(seed, shape, liars)) for seed in range(4)]
    forks = [report for report in reports if report.verdict is Verdict.FORKED]
    assert all(report.reason.startswith("fork at height") for report in forks)
    # Where they are unlucky, evidence suspends them before the ledger forks.
    assert len(forks) >= 2
    assert [r.reason for r in reports if r.verdict not in (Verdict.FORKED, Verdict.PASSED)] == []


def test_beyond_one_class_alone_the_other_still_holds() -> None:
    """The same liars as in the fork of 4 + 4, but for one auditor."""
    shape = Shape(4, 4, 0, "per_class")
    for seed in range(2):
        report = run_scenario(conspiracy(seed, shape, first_of(shape, [2, 1])))
        assert report.verdict is Verdict.PASSED, report.reason


def test_simple_equivocators_fork_as_well() -> None:
    shape = Shape(4, 0, 0, "per_class")
    scenario = conspiracy(2, shape, ("recorder-3", "recorder-4"))
    liars = tuple(Byzantine(one.who, "equivocator") for one in scenario.byzantine)
    report = run_scenario(replace(scenario, byzantine=liars))
    assert report.verdict is Verdict.FORKED
    assert report.reason.startswith("fork at height")


def test_a_liar_too_many_may_stop_the_ledger_and_that_shows() -> None:
    """Two silent members of four: no fork, but nothing goes on, and a live run would say so."""
    shape = Shape(4, 0, 0, "per_class")
    scenario = replace(
        conspiracy(1, shape, ()),
        byzantine=(Byzantine("recorder-1", "silent"), Byzantine("recorder-2", "silent")),
    )
    assert not scenario.live
    cluster = Cluster(scenario)
    cluster.run()
    assert cluster.watch.chain == {}
