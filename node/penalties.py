"""Who failed us is left alone for a while, and each lie in a row doubles it.

A silent peer may be a slow or broken network, and costs nothing but a wait: it is left alone for
`ms_min` each time. A lie costs work to find out, so its price grows, up to `ms_max`; what proves to
be true ends the growth. When it was last left alone stays known, so that of those who may be asked
again whoever failed last comes last: however many liars there are, each is asked once before a peer
that never failed would have to wait for a second one.
"""

from collections.abc import Container
from dataclasses import dataclass


@dataclass(slots=True)
class _Penalty:
    until: int
    ms: int


class Penalties:
    """By peer, kept when it goes away, lest it come back as if nothing had been."""

    def __init__(self, ms_min: int, ms_max: int) -> None:
        self._ms_min = ms_min
        self._ms_max = ms_max
        self._penalties: dict[str, _Penalty] = {}

    def __len__(self) -> int:
        return len(self._penalties)

    def until(self, peer: str) -> int:
        """Until when this peer is left alone, or was for the last time; 0 if it never was."""
        penalty = self._penalties.get(peer)
        return 0 if penalty is None else penalty.until

    def failed(self, peer: str, now: int) -> None:
        """It gave no answer."""
        penalty = self._penalties.setdefault(peer, _Penalty(0, 0))
        penalty.until = now + max(self._ms_min, penalty.ms)

    def lied(self, peer: str, now: int) -> None:
        """What it said is not true."""
        penalty = self._penalties.setdefault(peer, _Penalty(0, 0))
        penalty.ms = min(max(2 * penalty.ms, self._ms_min), self._ms_max)
        penalty.until = now + penalty.ms

    def proved(self, peer: str) -> None:
        """What it gave is true."""
        penalty = self._penalties.get(peer)
        if penalty is not None:
            penalty.ms = 0

    def keep(self, peers: Container[str]) -> None:
        """Forget all others."""
        self._penalties = {
            peer: penalty for peer, penalty in self._penalties.items() if peer in peers
        }
