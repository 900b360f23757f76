"""What a liar is: the honest code with its true key, and a filter on all that it says and hears."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.committee import Committee
from consensus.messages import Message as ConsensusMessage
from consensus.messages import sign
from ledger.execution import BlockError, execute_block, select_batches
from node.wire import Consensus, Message, Request, Response
from primitives.block import Block
from primitives.codec import encode

if TYPE_CHECKING:
    from simulations.byzantine.plot import Plot
    from simulations.host import Host

SIGNED_KEPT_MAX = 64


@dataclass(slots=True)
class Collusion:
    """What the liars of one run tell each other: who they are, which two stories are told to whom,
    and what they plan.
    """

    members: tuple[str, ...]
    pairs: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """By (height, view), the blocks that either side is told of."""
    hosts: dict[str, "Host"] = field(default_factory=dict)
    """The conspirators' machines, by id."""
    plots: dict[int, "Plot"] = field(default_factory=dict)
    """By height; the latest only."""
    _sides: dict[bytes, dict[str, int]] = field(default_factory=dict)

    def side(self, host: "Host", peer: str) -> int:
        """Which of two stories this member is told: 0 or 1, liars always 0.

        Where the network is cut among the honest, the cut divides them; else they are halved group
        by group, since a quorum is counted in each.
        """
        if peer in self.members:
            return 0
        for cut in host.world.network.cuts:
            if peer in cut.left:
                return 0
            if peer in cut.right:
                return 1
        committee = host.running.chain.committee
        sides = self._sides.get(committee.hash)
        if sides is None:
            sides = self._sides[committee.hash] = self._halve(committee)
        return sides.get(peer, 0)

    def _halve(self, committee: Committee) -> dict[str, int]:
        sides: dict[str, int] = {}
        for group in committee.group_sizes:
            honest = [
                voter.id
                for voter in committee.voters
                if voter.group == group and voter.id not in self.members
            ]
            sides.update({who: place % 2 for place, who in enumerate(honest)})
        return sides


class Behaviour:
    """Passes everything on; the liars override what they lie about."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        self.chance = chance
        self.collusion = collusion
        self.lies: Counter[str] = Counter()
        """How often it has lied in which way."""
        self._encoded: tuple[Message | None, bytes] = (None, b"")
        self._signed: dict[ConsensusMessage, bytes] = {}

    # ---- what the liars override -----------------------------------------------------------------

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """What is sent instead of this message."""
        return [self.plain(message)]

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Whether the honest code may see this message."""
        return True

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """What is answered instead."""
        return encode(response)

    # ---- what they use ---------------------------------------------------------------------------

    def plain(self, message: Message) -> bytes:
        """The message as it is; the same one goes to many."""
        if self._encoded[0] is not message:
            self._encoded = message, encode(message)
        return self._encoded[1]

    def sign(self, host: "Host", message: ConsensusMessage) -> bytes:
        """A message with a true signature of this member."""
        raw = self._signed.get(message)
        if raw is None:
            if len(self._signed) >= SIGNED_KEPT_MAX:
                self._signed.clear()
            chain_id = host.world.genesis.chain_id
            raw = encode(Consensus(sign(chain_id, host.id, host.key, message)))
            self._signed[message] = raw
        return raw

    def spread(self, host: "Host", message: ConsensusMessage, peers: Sequence[str]) -> None:
        """Send a signed message beside what the honest code says."""
        raw = self.sign(host, message)
        for peer in peers:
            host.world.network.send(host, peer, raw)

    def others(self, host: "Host") -> list[str]:
        """The other voters."""
        return [id for id in host.running.chain.committee.by_id if id != host.id]


def own_message(host: "Host", message: Message) -> ConsensusMessage | None:
    """What this member itself says to agree on a block, or None for anything else."""
    if isinstance(message, Consensus) and message.signed.signer == host.id:
        return message.signed.message
    return None


def other_block(host: "Host", height: int, view: int, time_ms: int) -> Block | None:
    """Another valid block in the place of a proposal, fresh even where the view obliges to one; or
    one that looks as if another view had proposed it.
    """
    chain = host.running.chain
    if height != chain.next_height or chain.writing is not None:
        return None
    chosen = select_batches(
        host.running.mempool.batches(),
        chain.next_height,
        chain.reader,
        chain.replay,
        chain.genesis,
    )
    try:
        return execute_block(
            chain.head,
            view,
            chain.committee.primary(height, view),
            max(time_ms, chain.head.time_ms + 1),
            chosen,
            chain.reader,
            chain.replay,
            chain.genesis,
        ).block
    except BlockError:
        return None
