"""Patience: what a view gets, and when clocks run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.links import Links
from consensus.pacing import Pacing
from consensus.settings import ConsensusSettings
from tests.consensus.support import make_committee

SETTINGS = ConsensusSettings(
    view_timeout_ms_min=100,
    view_timeout_ms_initial=400,
    view_timeout_ms_max=5_000,
    latency_multiple=10,
    latency_samples_max=5,
    resend_ms=50,
)


def make_pacing(settings: ConsensusSettings, links: Links | None = None) -> Pacing:
    return Pacing(settings, links or Links(("r0", "r1"), make_committee(2), 0))


def commit(pacing: Pacing, latency_ms: int) -> None:
    pacing.time_view(0, 1_000)
    pacing.decided(1_000 + latency_ms, in_time=True)


def clocks(pacing: Pacing) -> tuple[bool, bool, int | None]:
    return pacing.awake, pacing.timed, pacing.deadline


def test_time_doubles_with_each_view_up_to_the_cap() -> None:
    pacing = make_pacing(SETTINGS)
    found = [pacing.view_timeout_ms(view) for view in (0, 1, 2, 3, 4, 5, 1_000, 2**32 - 1)]
    assert found == [400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000]


@pytest.mark.parametrize(("latency_ms", "base_ms"), [(0, 100), (9, 100), (30, 300), (9_999, 5_000)])
def test_the_base_is_a_multiple_of_what_commits_took_within_bounds(
    latency_ms: int, base_ms: int
) -> None:
    pacing = make_pacing(SETTINGS)
    commit(pacing, latency_ms)
    assert pacing.base_ms == base_ms


def test_a_slow_minority_does_not_stretch_the_base() -> None:
    pacing = make_pacing(SETTINGS)
    for latency_ms in (30, 4_000, 30, 4_000, 30):
        commit(pacing, latency_ms)
    assert pacing.base_ms == 300
    for _ in range(3):
        commit(pacing, 60)
    assert pacing.base_ms == 600, "old samples go"


def test_a_decision_of_another_view_teaches_nothing() -> None:
    pacing = make_pacing(SETTINGS)
    pacing.time_view(1, 1_000)
    pacing.decided(1_030, in_time=False)
    pacing.decided(1_030, in_time=True)
    assert pacing.base_ms == 400


def test_clocks_run_only_while_awake() -> None:
    pacing = make_pacing(SETTINGS)
    assert clocks(pacing) == (False, False, None)
    pacing.postpone_resend(1_000)
    assert clocks(pacing) == (True, False, 1_050)
    assert not pacing.resend_due(1_049)
    assert pacing.resend_due(1_050)
    pacing.time_view(0, 1_000)
    assert not pacing.view_over(1_399)
    assert pacing.view_over(1_400)
    pacing.postpone_resend(1_390)
    assert pacing.deadline == 1_400
    pacing.leave_view()
    assert clocks(pacing) == (True, False, 1_440)
    pacing.wake(1_395)
    assert pacing.deadline == 1_395
    pacing.sleep()
    assert clocks(pacing) == (False, False, None)
    assert not pacing.resend_due(10**9)
    assert not pacing.view_over(10**9)


@pytest.mark.parametrize(("lost_at", "ends"), [(900, 1_300), (500, 900), (1_100, 1_400)])
def test_a_view_that_awaits_an_absent_primary_has_what_is_left_of_its_time(
    lost_at: int, ends: int
) -> None:
    links = Links(("r0", "r1"), make_committee(2), 0)
    pacing = make_pacing(SETTINGS, links)
    pacing.postpone_resend(10_000)
    pacing.time_view(0, 1_000)
    links.disconnect("r1", lost_at)
    assert pacing.deadline == 1_400, "it is not awaited"
    pacing.await_primary("r1")
    assert pacing.deadline == ends
    assert pacing.view_over_since(ends) == 1_000
    pacing.await_primary("r0")
    assert pacing.deadline == 1_400, "the other is here"
    pacing.await_primary("r1")
    links.connect("r1")
    assert pacing.deadline == 1_400
    links.disconnect("r1", lost_at)
    pacing.leave_view()
    pacing.time_view(1, 2_000)
    assert pacing.deadline == 2_800, "nobody is awaited in a new view until that is said"


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(0, 2**32 - 1))
def test_patience_stays_in_its_bounds(latencies: list[int], view: int) -> None:
    pacing = make_pacing(SETTINGS)
    for latency in latencies:
        commit(pacing, latency)
    assert 100 <= pacing.base_ms <= pacing.view_timeout_ms(view) <= 5_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"resend_ms": 0},
        {"latency_multiple": -1},
        {"view_timeout_ms_min": 3_000, "view_timeout_ms_max": 2_999},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"above 0|must not exceed"):
        ConsensusSettings(**wrong)


@pytest.mark.parametrize(("least", "most", "base"), [(3_000, 9_000, 3_000), (10, 500, 500)])
def test_the_first_patience_is_within_the_bounds(least: int, most: int, base: int) -> None:
    settings = ConsensusSettings(view_timeout_ms_min=least, view_timeout_ms_max=most)
    assert make_pacing(settings).base_ms == base


def test_the_defaults_make_sense() -> None:
    settings = ConsensusSettings()
    assert settings.view_timeout_ms_max == 30_000
    assert settings.resend_ms < settings.view_timeout_ms_max
