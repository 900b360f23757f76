"""node/limits.py: the token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from node.limits import RateLimiter


def test_a_burst_then_the_rate() -> None:
    limiter = RateLimiter(per_second=10, burst=3, now=0)
    assert [limiter.take(0) for _ in range(4)] == [True, True, True, False]
    assert not limiter.take(99)
    assert limiter.take(100)
    assert not limiter.take(199)
    assert [limiter.take(10_000) for _ in range(4)] == [True, True, True, False]


@given(
    st.integers(1, 1_000),
    st.integers(1, 100),
    st.lists(st.integers(0, 50), max_size=300),
)
def test_never_more_than_burst_and_rate_allow(
    per_second: int, burst: int, pauses: list[int]
) -> None:
    limiter = RateLimiter(per_second, burst, now=0)
    now = taken = 0
    for pause in pauses:
        now += pause
        taken += limiter.take(now)
        assert taken <= burst + now * per_second / 1000 + 1e-6
