"""Runs that once failed, each named after what was wrong."""

from dataclasses import replace

import pytest

from simulations import faults
from simulations.campaign import Verdict, run_scenario
from simulations.drawing import draw
from simulations.profiles import BEYOND, MEMBERSHIP, NETWORK
from simulations.scenario import Byzantine, Scenario, Shape


def calm(seed: int, shape: Shape, *liars: Byzantine) -> Scenario:
    """A run of this shape without faults, but with these liars."""
    return replace(draw(seed, kinds=(), byzantine=()), shape=shape, byzantine=liars)


def check(scenario: Scenario) -> None:
    report = run_scenario(scenario)
    assert report.verdict is Verdict.PASSED, report.reason


@pytest.mark.parametrize("seed", [1, 3])
def test_a_false_payload_under_the_right_hash_does_not_stick(seed: int) -> None:
    """A candidate kept the first body that came, and its voter could never commit the block."""
    check(calm(seed, Shape(4, 0, 0, "per_class"), Byzantine("recorder-2", "spoiler")))


@pytest.mark.parametrize("seed", [13, 55])
def test_what_can_no_longer_run_is_no_reason_to_change_views(seed: int) -> None:
    """Voters with a batch that no block could list changed views without end."""
    check(draw(seed, kinds=(faults.Mute, faults.Slow), byzantine=()))


def test_a_transaction_that_ran_in_the_batch_of_another_member_wakes_nobody() -> None:
    """It was sealed once more, and the only voter with that batch changed views for ever."""
    kinds = (faults.RestoredBackup, faults.Partition, faults.Mute)
    check(draw(120, kinds=kinds, byzantine=()))


@pytest.mark.parametrize("cap_ms", [200, 700])
def test_a_ledger_of_little_patience_starts(cap_ms: int) -> None:
    """Genesis may cap views below the patience that a replica begins with."""
    scenario = calm(4, Shape(4, 1, 1, "per_class"))
    settings = {
        **scenario.settings,
        "view_timeout_ms_min": cap_ms // 2,
        "view_timeout_ms_max": cap_ms,
        "resend_ms": 100,
    }
    calm_network = replace(scenario.storm, delay_ms_mean=2, delay_ms_max=10, loss=0.0)
    check(
        replace(
            scenario,
            settings=settings,
            storm=calm_network,
            calm=calm_network,
            disk_ms_max=2,
            skew_ms_max=0,
        )
    )


def test_a_batch_under_a_key_that_was_replaced_is_no_fault_of_whoever_answers_with_it() -> None:
    """A member that had not yet heard of its new key was blamed for its older batch."""
    check(draw(117, MEMBERSHIP))


def test_beyond_the_bounds_nobody_is_held_to_what_forged_claims_make_correct_members_do() -> None:
    report = run_scenario(draw(83, BEYOND))
    assert not report.verdict.failed, report.reason


def test_where_no_recorder_can_be_reached_views_change_no_faster_than_time_allows() -> None:
    """Two that could not reach the only recorder were a quorum without it (every institution votes
    here), went through a hundred views at the speed of the network, and were blamed for it.
    """
    check(draw(821, NETWORK))


def test_a_backup_restored_with_the_clock_set_back_does_not_reuse_a_sequence() -> None:
    """Profile standard, seed 335: sealed 4 s in the future, set back twice, sealed again."""
    check(draw(335))
