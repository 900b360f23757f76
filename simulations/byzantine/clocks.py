"""Liars about time."""

import random
from typing import TYPE_CHECKING

from consensus.messages import Commit, Prepare, PrePrepare
from node.wire import Consensus, Message
from simulations.byzantine.behaviour import Behaviour, Collusion, own_message

if TYPE_CHECKING:
    from simulations.host import Host


class ClockCheat(Behaviour):
    """As primary dates blocks to the bounds of the allowed drift, or beyond them, on both sides; as
    voter vouches for any date at once, unread.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._true_skew_ms: int | None = None
        self._height = -1

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Count the dates that it gives."""
        said = own_message(host, message)
        if isinstance(said, PrePrepare) and said.block.header.view == said.view:
            drift = host.world.genesis.clock_drift_ms_max
            differs = abs(said.block.header.time_ms - host.wall + host.skew_ms)
            self.lies["beyond the drift" if differs > drift else "within the drift"] += 1
        return [self.plain(message)]

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Turn the clock at every height, and vote for whatever is proposed."""
        chain = host.running.chain
        if chain.next_height != self._height:
            self._height = chain.next_height
            self._turn_clock(host)
        if isinstance(message, Consensus):
            said = message.signed.message
            if (
                isinstance(said, PrePrepare)
                and said.height == chain.next_height
                and message.signed.signer == chain.committee.primary(said.height, said.view)
            ):
                self.lies["vote unread"] += 1
                block_hash = said.block.hash
                others = self.others(host)
                self.spread(host, Prepare(said.height, said.view, block_hash), others)
                if self.chance.random() < 0.3:
                    self.spread(host, Commit(said.height, said.view, block_hash), others)
        return True

    def _turn_clock(self, host: "Host") -> None:
        if self._true_skew_ms is None:
            self._true_skew_ms = host.skew_ms
        drift = host.world.genesis.clock_drift_ms_max
        small = drift // 10
        skews = (drift - small, small - drift, drift + small, -drift - small, 50 * drift)
        host.skew_ms = self._true_skew_ms + self.chance.choice((*skews, -50 * drift, 0))
