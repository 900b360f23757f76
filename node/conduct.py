"""What the members did wrong or too much, as far as this node saw: counted by peer and reason, and
told to the operator once, not a thousand times.

Whom to blame is the member that SENT something, which the transport has authenticated; never one
that is merely named in it. Some of the reasons never apply to a correct member, and the first case
is worth reading; others do now and then, where a member is behind or the network slow, so that only
many of them are (`TOLERATED`). Each (peer, reason) is reported at most once per `REPORT_EVERY_MS`,
with the number of cases since it was last reported.

Nothing is punished here: what a member can cost is bounded where it costs, and whom to talk to, or
to vote out, is for people to decide.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

from consensus.events import Misdeed
from node.events import Report

Reason = (
    Misdeed
    | Literal[
        # what it sent cannot be read, or there is too much of it
        "malformed",
        "flood",
        # consensus
        "relayed",
        "block_invalid",
        "draft_invalid",
        "payload_false",
        "batch_left_out",
        "clock_differs",
        # batches
        "batch_invalid",
        "batch_sequence_used_twice",
        "batch_quota",
        "batch_ahead",
        "batch_dead",
        "announced_too_often",
        # requests and their answers
        "request_failed",
        "requested_too_often",
        "answer_invalid",
        "head_false",
        "sync_block_false",
    ]
)
"""Why a member is counted; docs/operating.md explains each to the operator."""

REASONS: Final[tuple[Reason, ...]] = tuple(
    reason for literals in get_args(Reason) for reason in get_args(literals)
)

TOLERATED: Final[Mapping[Reason, int]] = MappingProxyType(
    {
        "future_height": 1_000,
        "equivocation": 10,
        "unknown_signer": 100,
        "flood": 100,
        "batch_left_out": 3,
        "clock_differs": 0,
        "batch_invalid": 10,
        "batch_ahead": 100,
        "batch_dead": 1_000,
        "batch_quota": 100,
        "announced_too_often": 100,
        "request_failed": 20,
        "requested_too_often": 100,
    }
)
"""How many cases since the last report are nothing to read about, as correct members have some too:
of a node that is itself behind nearly every voter speaks of future heights, a primary may lack a
batch because it was lost, the author of a batch may be a member only for who applied one block more
or less than we, and the clock that is wrong may be our own. Equivocation is told to
the operator by its evidence, so here only the persistence of it is.
"""

REPORT_EVERY_MS = 60 * 60 * 1_000
PEERS_MAX = 1_024
"""Members counted; the one noted longest ago gives way. The transport lets in members only."""


class _Count:
    __slots__ = ("reported_at", "total", "unreported")

    def __init__(self) -> None:
        self.total = 0
        self.unreported = 0
        self.reported_at: int | None = None


class Conduct:
    """The counts of one node since it started. `now`, monotonic ms, is kept current by the core."""

    def __init__(self, now: int) -> None:
        self.now = now
        self._counts: dict[str, dict[Reason, _Count]] = {}
        self._reports: list[Report] = []

    def note(self, peer: str, reason: Reason, detail: str = "") -> None:
        """Count one case. `detail` says more to the operator, free of personal data and secrets.

        Raises ValueError for a reason that is not among `REASONS`.
        """
        if reason not in REASONS:
            raise ValueError(f"{reason} is no reason to count a member for")
        counts = self._counts.pop(peer, {})
        if len(self._counts) >= PEERS_MAX:
            del self._counts[next(iter(self._counts))]
        self._counts[peer] = counts
        count = counts.setdefault(reason, _Count())
        count.total += 1
        count.unreported += 1
        early = count.reported_at is not None and self.now < count.reported_at + REPORT_EVERY_MS
        if early or count.unreported <= TOLERATED.get(reason, 0):
            return
        facts: list[tuple[str, str | int]] = [
            ("peer", peer),
            ("reason", reason),
            ("count", count.unreported),
        ]
        if detail:
            facts.append(("detail", detail))
        self._reports.append(Report("peer_at_fault", tuple(facts)))
        count.unreported, count.reported_at = 0, self.now

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How often each member was noted for each reason, since this node started."""
        return {
            peer: {reason: counts[reason].total for reason in REASONS if reason in counts}
            for peer, counts in sorted(self._counts.items())
        }

    def take_reports(self) -> list[Report]:
        """What the operator should read of what was noted since the last call."""
        reports, self._reports = self._reports, []
        return reports
