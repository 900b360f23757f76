"""How patient a replica is. Every duration is in milliseconds of the monotonic clock."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ConsensusSettings:
    """Voters of one ledger may differ in these: they touch liveness alone, never agreement.

    Raises ValueError if a value is not positive or the shortest view is longer than the longest.
    """

    view_timeout_ms_min: int = 500
    """The shortest time that view 0 gets, however fast commits have been."""
    view_timeout_ms_initial: int = 2_000
    """What view 0 gets before any commit has been measured, within the two bounds."""
    view_timeout_ms_max: int = 30_000
    """The longest time that any view gets, however often it has doubled."""
    latency_multiple: int = 10
    """View 0 gets this many times the median of the latest commit latencies."""
    latency_samples_max: int = 15
    """How many commit latencies are kept: a slow primary owns a minority of them, so it cannot
    stretch the median and with it everyone's patience."""
    resend_ms: int = 1_000
    """While work is undecided, the latest messages are sent again this often."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0")
        if self.view_timeout_ms_min > self.view_timeout_ms_max:
            raise ValueError("view_timeout_ms_min must not exceed view_timeout_ms_max")
