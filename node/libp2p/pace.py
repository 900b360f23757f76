"""A share of the thread's time: what one peer makes us do may take no more of it for long."""

import time

_BURST_S = 0.2
"""Work that may be done at once after a pause."""
_REST_S_MAX = 1.0


class Pace:
    """Counts work in seconds, and says how long to let a peer wait for having caused it.

    Letting it wait is all: flow control then holds up the sender, and nothing is lost.
    """

    def __init__(self, percent: int) -> None:
        self._share = percent / 100
        self._left = _BURST_S
        self._then = time.perf_counter()

    def spend(self, seconds: float) -> float:
        """Charge `seconds` of work that has just been done; how many seconds to rest for it."""
        now = time.perf_counter()
        left = min(self._left + (now - self._then) * self._share, _BURST_S) - seconds
        # A machine that stood still in between is nobody's work.
        self._left = max(left, -_REST_S_MAX * self._share)
        self._then = now
        return max(-self._left / self._share, 0.0)
