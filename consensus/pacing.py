"""When to lose patience: the view timer, its doubling, and the resend clock. Reads no clock itself.

OSDI'99 section 4.5.2 gives the three rules of liveness that concern time, and this file holds two:
a view is timed only once a quorum follows it (the caller says when), and the time doubles with each
view, so that views end up longer than the network is slow. The third, joining f + 1 others, needs
no clock and is in tally.py. The base follows the median of measured commits instead of a constant,
as hospitals of one city and of two continents need different patience.

A primary that cannot be reached has less of it. Whoever waits for its proposal counts the view's
time from when the link was lost, if that was earlier than the view's beginning: a link that has
just broken may be back before long, and one that has been down for longer than this view lasts
would not have been waited for, had it broken within the view. So a dead recorder costs a time-out
once, and after that a round of messages (docs/ARCHITECTURE.md section 4, "Why it goes on").
"""

from collections import deque

from consensus.links import Links
from consensus.settings import ConsensusSettings

DOUBLINGS_MAX = 16
"""Beyond this the cap `view_timeout_ms_max` has long been reached."""


class Pacing:
    """The clocks of one replica. All times are monotonic milliseconds given by the caller."""

    def __init__(self, settings: ConsensusSettings, links: Links) -> None:
        self._settings = settings
        self._links = links
        self._latencies: deque[int] = deque(maxlen=settings.latency_samples_max)
        self._timed_since: int | None = None
        self._view_ms = 0
        self._awaited: str | None = None
        self._resend_at: int | None = None

    @property
    def base_ms(self) -> int:
        """What view 0 gets, in milliseconds."""
        settings = self._settings
        wanted = settings.view_timeout_ms_initial
        if self._latencies:
            median = sorted(self._latencies)[len(self._latencies) // 2]
            wanted = median * settings.latency_multiple
        return min(max(wanted, settings.view_timeout_ms_min), settings.view_timeout_ms_max)

    def view_timeout_ms(self, view: int) -> int:
        """What a view gets: the base doubled once for each view before it, capped."""
        doubled = self.base_ms << min(view, DOUBLINGS_MAX)
        return min(doubled, self._settings.view_timeout_ms_max)

    @property
    def timed(self) -> bool:
        """Whether the current view's time is running."""
        return self._timed_since is not None

    @property
    def awake(self) -> bool:
        """Whether the height has work, so that there is anything to wait for or send again."""
        return self._resend_at is not None

    @property
    def deadline(self) -> int | None:
        """When the next clock rings; None while asleep."""
        if self._resend_at is None:
            return None
        ends = self._view_ends
        return self._resend_at if ends is None else min(self._resend_at, ends)

    @property
    def _view_ends(self) -> int | None:
        if self._timed_since is None:
            return None
        absent = None if self._awaited is None else self._links.absent_since(self._awaited)
        since = self._timed_since if absent is None else min(self._timed_since, absent)
        return since + self._view_ms

    def sleep(self) -> None:
        """Stop all clocks: a height without work begins, or this one is decided."""
        self._timed_since = self._awaited = self._resend_at = None

    def wake(self, now: int) -> None:
        """There is work at this height, and our latest messages are to be sent again at once."""
        self._resend_at = now

    def postpone_resend(self, now: int) -> None:
        """There is work at this height, and our latest messages have just been sent."""
        self._resend_at = now + self._settings.resend_ms

    def time_view(self, view: int, now: int) -> None:
        """A quorum follows this view: its time runs from now."""
        self._timed_since = now
        self._view_ms = self.view_timeout_ms(view)

    def await_primary(self, primary: str | None) -> None:
        """The current view waits for this primary's proposal: while it cannot be reached, the view
        has only what is left of its time since it was last here. None if it waits for nobody.
        """
        self._awaited = primary

    def leave_view(self) -> None:
        """A view ended without a decision; the next is not timed yet."""
        self._timed_since = self._awaited = None

    def view_over(self, now: int) -> bool:
        """Whether the current view has had its time."""
        ends = self._view_ends
        return ends is not None and now >= ends

    def view_over_since(self, now: int) -> int | None:
        """Since when the current view was timed, if it has had its time."""
        return self._timed_since if self.view_over(now) else None

    def resend_due(self, now: int) -> bool:
        """Whether the latest messages are to be sent again."""
        return self._resend_at is not None and now >= self._resend_at

    def decided(self, now: int, in_time: bool) -> None:
        """The height is decided: stop the clocks, and learn from it if the current view did it."""
        if in_time and self._timed_since is not None:
            self._latencies.append(now - self._timed_since)
        self.sleep()
