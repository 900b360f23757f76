"""Members that lie. Each runs the honest code and holds its own true key, but what leaves it and
what reaches it passes through a `Behaviour`, which changes, adds or swallows at will.

Twins, two processes with one key, need nothing of this: the cluster starts two honest hosts, as in
Bano et al., "Twins: BFT Systems Made Robust" (2021).
"""

import random
from typing import TYPE_CHECKING

from node.wire import Message, Request, Response
from simulations.byzantine.behaviour import Behaviour, Collusion
from simulations.byzantine.bodies import Censor, Spoiler, Withholder
from simulations.byzantine.clocks import ClockCheat
from simulations.byzantine.conspiracy import Conspirator
from simulations.byzantine.equivocation import DoubleVoter, Equivocator, Mute
from simulations.byzantine.forging import Forger, Replayer, ViewForger
from simulations.byzantine.noise import Garbler, Silent
from simulations.byzantine.slander import Slanderer
from simulations.byzantine.syncing import SyncLiar

if TYPE_CHECKING:
    from simulations.host import Host

LIES: dict[str, type[Behaviour]] = {
    "equivocator": Equivocator,
    "double_voter": DoubleVoter,
    "forger": Forger,
    "view_forger": ViewForger,
    "replayer": Replayer,
    "garbler": Garbler,
    "withholder": Withholder,
    "censor": Censor,
    "sync_liar": SyncLiar,
    "spoiler": Spoiler,
    "clock_cheat": ClockCheat,
    "mute": Mute,
    "silent": Silent,
    "slanderer": Slanderer,
}


class Chameleon(Behaviour):
    """All of these, each message at random, and mostly honest."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._kinds = [kind(chance, collusion) for kind in LIES.values()]
        self._honest = Behaviour(chance, collusion)
        for kind in self._kinds:
            kind.lies = self.lies

    def _one(self) -> Behaviour:
        return self.chance.choice(self._kinds) if self.chance.random() < 0.4 else self._honest

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """As one of them would."""
        return self._one().outgoing(host, peer, message)

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """As one of them would."""
        return self._one().incoming(host, peer, message)

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """As one of them would."""
        return self._one().answer(host, request, response)


BEHAVIOURS: dict[str, type[Behaviour]] = {
    **LIES,
    "conspirator": Conspirator,
    "chameleon": Chameleon,
}
KINDS = tuple(BEHAVIOURS)

__all__ = ["BEHAVIOURS", "KINDS", "Behaviour", "Collusion"]
