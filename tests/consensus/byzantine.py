"""Voters that lie. Each holds its real key, sees what it is sent, and says what hurts most."""

import random
from collections.abc import Callable

import msgspec

from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Message,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
)
from consensus.view_change import justify
from primitives.block import Block
from primitives.codec import VIEW_MAX
from tests.consensus.cluster import Cluster
from tests.consensus.node import Node
from tests.consensus.support import by, certify, make_block

MEMORY_MAX = 200


class Liar:
    """One Byzantine voter: reacts to every message with a random choice of lies."""

    def __init__(self, cluster: Cluster, id: str) -> None:
        self.cluster = cluster
        self.id = id
        self.random = random.Random(cluster.random.random())
        self.seen: list[Signed] = []
        self.blocks: list[Block] = []
        self.certificates: list[Certificate] = []
        self.asked: dict[tuple[int, int], dict[str, tuple[Signed, ViewChange]]] = {}
        self.lies: list[Callable[[Signed], None]] = [
            self.vote_for_everything,
            self.ask_for_another_view,
            self.propose_twice,
            self.start_a_view,
            self.repeat,
            self.impersonate,
            self.speak_of_the_future,
        ]

    def hear(self, signed: Signed) -> None:
        """Remember what was sent, and answer one message in three with a lie."""
        self.seen = [*self.seen[-MEMORY_MAX:], signed]
        match signed.message:
            case PrePrepare(_, _, block, justification):
                self.blocks = [*self.blocks[-3:], block]
                if justification is not None and justification.prepared is not None:
                    self.certificates = [*self.certificates[-3:], justification.prepared]
            case ViewChange(height, view, prepared) as message:
                self.asked.setdefault((height, view), {})[signed.signer] = signed, message
                if prepared is not None:
                    self.certificates = [*self.certificates[-3:], prepared]
            case _:
                pass
        if self.random.random() < 1 / 3:
            self.random.choice(self.lies)(signed)

    def say(self, message: Message, share: float = 0.5) -> None:
        """Send a message to some of the voters."""
        self.forward(by(self.id, message), share)

    def forward(self, signed: Signed, share: float = 0.5) -> None:
        for node in self.cluster.honest:
            if self.random.random() < share:
                self.cluster.transmit(self.id, node, signed)

    def any_head(self) -> Node:
        return self.random.choice(self.cluster.honest)

    def vote_for_everything(self, signed: Signed) -> None:
        height, view = signed.message.height, signed.message.view
        hashes = [block.hash for block in self.blocks] + [self.random.randbytes(32)]
        for kind in (Prepare, Commit):
            for block_hash in hashes:
                self.say(kind(height, view + self.random.choice((0, 0, 0, 1)), block_hash))

    def ask_for_another_view(self, signed: Signed) -> None:
        view = signed.message.view + self.random.choice((0, 1, 1, 2, 7, VIEW_MAX))
        claims: list[Certificate | None] = [None, *self.certificates]
        if self.blocks:
            # Signed by the liar alone; and a true one under a false view.
            claims.append(certify(Phase.PREPARE, [self.id], self.blocks[-1], max(view - 1, 0)))
        if self.certificates:
            claims.append(msgspec.structs.replace(self.certificates[-1], view=view))
        for claim in self.random.sample(claims, min(2, len(claims))):
            self.say(ViewChange(signed.message.height, min(view, VIEW_MAX), claim))

    def propose_twice(self, signed: Signed) -> None:
        head = self.any_head().head
        view = signed.message.view
        justification = self.justification(head.height + 1, view) if view else None
        for _ in range(2):
            payload = self.random.choice((b"+", b"-")) + self.random.randbytes(3)
            block = make_block(head, self.id, view, payload)
            false_payload = Block(block.header, b"+another")
            self.blocks = [*self.blocks[-3:], block]
            shown = self.random.choice((block, block, false_payload))
            self.say(PrePrepare(head.height + 1, view, shown, justification))

    def start_a_view(self, signed: Signed) -> None:
        """With a true quorum of VIEW-CHANGEs, propose something else than what it obliges to."""
        head = self.any_head().head
        for height, view in list(self.asked)[-3:]:
            if height == head.height + 1:
                justification = self.justification(height, view)
                block = make_block(head, self.id, view, b"+" + self.random.randbytes(3))
                if justification is not None and self.random.random() < 0.5:
                    justification = Justification(justification.view_changes, None)
                self.say(PrePrepare(height, view, block, justification), share=1)

    def justification(self, height: int, view: int) -> Justification | None:
        asked = self.asked.get((height, view), {})
        own = ViewChange(height, view, None)
        known = [*asked.values(), (by(self.id, own), own)]
        return justify(sorted(known, key=lambda pair: pair[0].signer), self.cluster.committee)

    def repeat(self, signed: Signed) -> None:
        self.forward(self.random.choice(self.seen))

    def impersonate(self, signed: Signed) -> None:
        victim = self.random.choice(self.cluster.committee.voters).id
        forged = Signed(victim, signed.message, by(self.id, signed.message).signature)
        self.forward(forged)

    def speak_of_the_future(self, signed: Signed) -> None:
        height = signed.message.height + self.random.choice((-1, 1, 1, 2, 1000))
        if height >= 0:
            self.say(Prepare(height, signed.message.view, self.random.randbytes(32)))
            self.say(ViewChange(height, 1, None))


def corrupt(cluster: Cluster) -> None:
    """Put a liar in the place of every Byzantine voter that is not a twin."""
    for name in cluster.byzantine:
        cluster.hooks[name] = Liar(cluster, name).hear
