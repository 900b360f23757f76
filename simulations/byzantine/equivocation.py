"""Liars that sign two values in one place, or fall silent where it hurts most."""

import random
from typing import TYPE_CHECKING

from consensus.messages import Commit, Prepare, PrePrepare, ViewChange
from node.wire import Message
from simulations.byzantine.behaviour import Behaviour, Collusion, other_block, own_message

if TYPE_CHECKING:
    from simulations.host import Host


class Equivocator(Behaviour):
    """Proposes two blocks in one view, one to each half, and votes for whichever its listener has;
    in later views as well, with the justification that obliges it to one.

    All equivocators of a run play together: with enough of them in every class each half would see
    a quorum for its own block.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._proposed: dict[tuple[int, int], PrePrepare] = {}

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Tell one side of the other block."""
        said = own_message(host, message)
        if said is None or self.collusion.side(host, peer) == 0:
            return [self.plain(message)]
        place = (said.height, said.view)
        match said:
            case PrePrepare(height, view):
                second = self._second(host, said)
                if second is None:
                    return [self.plain(message)]
                self.lies["second block"] += 1
                return [
                    self.sign(host, second),
                    *self._votes(host, height, view, second.block.hash),
                ]
            case Prepare(height, view) | Commit(height, view) if place in self.collusion.pairs:
                self.lies["second vote"] += 1
                return self._votes(host, height, view, self.collusion.pairs[place][1])
            case _:
                return [self.plain(message)]

    def _second(self, host: "Host", said: PrePrepare) -> PrePrepare | None:
        """The other proposal of this view, made once."""
        place = (said.height, said.view)
        if place not in self._proposed:
            other = other_block(host, said.height, said.view, said.block.header.time_ms + 1)
            if other is None or other.hash == said.block.hash:
                return None
            self.collusion.pairs[place] = (said.block.hash, other.hash)
            second = PrePrepare(said.height, said.view, other, said.justification)
            # Earlier ones are never asked for again.
            self._proposed = {place: second}
        return self._proposed[place]

    def _votes(self, host: "Host", height: int, view: int, block_hash: bytes) -> list[bytes]:
        return [
            self.sign(host, Prepare(height, view, block_hash)),
            self.sign(host, Commit(height, view, block_hash)),
        ]


class DoubleVoter(Behaviour):
    """Proposes honestly, and votes for two blocks in one view: one before some, another before
    others, or both before all.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._both = chance.random() < 0.3
        self._hashes: list[bytes] = []
        self._others: dict[tuple[int, int], bytes] = {}

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Vote for another block before one side."""
        said = own_message(host, message)
        if not isinstance(said, Prepare | Commit):
            return [self.plain(message)]
        other_hash = self._other(said)
        if not self._both and self.collusion.side(host, peer) == 0:
            return [self.plain(message)]
        self.lies["second vote"] += 1
        second = self.sign(host, type(said)(said.height, said.view, other_hash))
        return [self.plain(message), second] if self._both else [second]

    def _other(self, said: Prepare | Commit) -> bytes:
        """One other block per view: a real one that was proposed before, or none."""
        place = (said.height, said.view)
        if said.block_hash not in self._hashes:
            self._hashes = [*self._hashes[-3:], said.block_hash]
        if place not in self._others:
            known = [one for one in self._hashes if one != said.block_hash]
            invented = self.chance.randbytes(32)
            self._others[place] = self.chance.choice([*known, invented])
        return self._others[place]


class Mute(Behaviour):
    """Vouches for every block and then falls silent: its COMMIT goes to nobody or to one member,
    and its VIEW-CHANGE, where one is needed, to as few.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._told: dict[tuple[int, int], str | None] = {}

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Keep what would complete a quorum."""
        said = own_message(host, message)
        if isinstance(said, Commit | ViewChange):
            place = (said.height, said.view)
            if place not in self._told:
                self._told[place] = self.chance.choice([None, *self.others(host)])
            if self._told[place] != peer:
                self.lies[f"{type(said).__name__} kept"] += 1
                return []
        return [self.plain(message)]
