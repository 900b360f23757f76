"""Who can be reached, and since when the others cannot. Reads no clock itself.

A primary that cannot be reached is not waited for as one that is merely slow: pacing.py counts the
time of its view from when it was last here, not from when its turn came. So what matters of a lost
connection is its age, and this file keeps it, for the recorders of the committee alone: nobody else
is ever waited for.
"""

from collections.abc import Iterable

from consensus.committee import Committee


class Links:
    """The connections of one replica. All times are monotonic milliseconds given by the caller."""

    def __init__(self, connected: Iterable[str], committee: Committee, now: int) -> None:
        self._connected: dict[str, None] = dict.fromkeys(connected)
        self._absent: dict[str, int] = {}
        self.start_height(committee, now)

    def start_height(self, committee: Committee, now: int) -> None:
        """Go on to a new committee; whoever it has that was unknown and is not here, is absent from
        now on.
        """
        self._recorders = tuple(voter.id for voter in committee.voters if voter.proposes)
        self._absent = {
            id: self._absent.get(id, now) for id in self._recorders if id not in self._connected
        }

    def connect(self, peer: str) -> None:
        """Messages can be exchanged with this peer."""
        self._connected[peer] = None
        self._absent.pop(peer, None)

    def disconnect(self, peer: str, now: int) -> None:
        """Messages can no longer be exchanged with this peer."""
        self._connected.pop(peer, None)
        if peer in self._recorders:
            self._absent.setdefault(peer, now)

    def absent_since(self, peer: str) -> int | None:
        """Since when this recorder cannot be reached; None if it can."""
        return self._absent.get(peer)
