"""Liars who say what they have no right to: in others' names, of other heights and views, with
certificates that prove nothing, or no longer.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from consensus.messages import (
    Certificate,
    Commit,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    sign,
)
from node.wire import Consensus, Message
from primitives.codec import VIEW_MAX, encode
from simulations.byzantine.behaviour import Behaviour, Collusion, other_block, own_message
from simulations.byzantine.forgeries import altered, invented, spoilt, unasked

if TYPE_CHECKING:
    from simulations.host import Host

MEMORY_MAX = 100
CERTIFICATES_MAX = 8


def certificate_in(signed: Signed) -> Certificate | None:
    """The prepared certificate that a message carries."""
    match signed.message:
        case ViewChange(_, _, prepared):
            return prepared
        case PrePrepare(_, _, _, justification):
            return None if justification is None else justification.prepared
        case _:
            return None


class Forger(Behaviour):
    """Votes for anything, of others, for other heights and views; proposes out of turn."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._seen: list[Signed] = []
        self._certificates: list[Certificate] = []
        self._ways: dict[str, Callable[[Host, Signed], bytes]] = {
            "vote": self._vote,
            "view change": self._view_change,
            "vote of another": self._impersonate,
            "repetition": self._repeat,
            "proposal": self._propose,
        }

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Remember what was said, and answer one message in six with a lie."""
        if isinstance(message, Consensus):
            self._remember(message.signed)
            if self.chance.random() < 1 / 6:
                way = self.chance.choice(tuple(self._ways))
                self.lies[way] += 1
                raw = self._ways[way](host, message.signed)
                for other in self.others(host):
                    if self.chance.random() < 0.6:
                        host.world.network.send(host, other, raw)
        return True

    def _remember(self, signed: Signed) -> None:
        self._seen = [*self._seen[-MEMORY_MAX:], signed]
        certificate = certificate_in(signed)
        if certificate is not None:
            self._certificates = [*self._certificates[-CERTIFICATES_MAX:], certificate]

    def _block_hash(self, host: "Host") -> bytes:
        known = [s.message.block_hash for s in self._seen if isinstance(s.message, Prepare)]
        return self.chance.choice([*known[-4:], self.chance.randbytes(32)])

    def _vote(self, host: "Host", heard: Signed) -> bytes:
        kind = self.chance.choice((Prepare, Commit))
        height = max(0, heard.message.height + self.chance.choice((-1, 0, 0, 0, 1, 2)))
        view = min(heard.message.view + self.chance.choice((0, 0, 0, 1, 5)), VIEW_MAX)
        return self.sign(host, kind(height, view, self._block_hash(host)))

    def _view_change(self, host: "Host", heard: Signed) -> bytes:
        height = heard.message.height
        view = min(heard.message.view + self.chance.choice((1, 1, 2, 9, VIEW_MAX)), VIEW_MAX)
        block_hash = self._block_hash(host)
        claims: list[Certificate | None] = [None, invented(host, height, view - 1, block_hash)]
        for known in self._certificates[-2:]:
            claims += [known, altered(self.chance, known, height, view, block_hash)]
        return self.sign(host, ViewChange(height, view, self.chance.choice(claims)))

    def _impersonate(self, host: "Host", heard: Signed) -> bytes:
        victim = self.chance.choice(self.others(host) or [host.id])
        forged = sign(host.world.genesis.chain_id, victim, host.key, heard.message)
        return encode(Consensus(forged))

    def _repeat(self, host: "Host", heard: Signed) -> bytes:
        return encode(Consensus(self.chance.choice(self._seen or [heard])))

    def _propose(self, host: "Host", heard: Signed) -> bytes:
        """Propose again what others proposed, out of turn or without the right to."""
        proposals = [s.message for s in self._seen if isinstance(s.message, PrePrepare)]
        if not proposals:
            return self._vote(host, heard)
        old = self.chance.choice(proposals[-3:])
        view = min(old.view + self.chance.choice((0, 1)), VIEW_MAX)
        justification = old.justification
        if justification is not None and self.chance.random() < 0.5:
            justification = msgspec.structs.replace(justification, prepared=None)
        return self.sign(host, PrePrepare(old.height, view, old.block, justification))


class ViewForger(Behaviour):
    """Lies about view changes: asks for many views, different ones of different members, hides what
    it had prepared, claims what it has no proof of; as primary, starts views that nobody asked for.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._certificates: list[Certificate] = []
        self._place = (0, 0)

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Collect certificates, and now and then ask for views out of the blue."""
        if isinstance(message, Consensus):
            certificate = certificate_in(message.signed)
            if certificate is not None and certificate not in self._certificates:
                self._certificates = [*self._certificates[-CERTIFICATES_MAX:], certificate]
            said = message.signed.message
            if (said.height, said.view) > self._place:
                self._place = (said.height, said.view)
                if self.chance.random() < 0.5:
                    self._ask_around(host, said.height, said.view)
                if self.chance.random() < 0.5:
                    self._begin(host, said.height, said.view + 1)
        return True

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Give each member another reason for a view, and views false justifications first."""
        said = own_message(host, message)
        if isinstance(said, ViewChange) and self.chance.random() < 0.6:
            self.lies["altered claim"] += 1
            return [self.sign(host, ViewChange(said.height, said.view, self._claim(host, said)))]
        if isinstance(said, PrePrepare) and said.justification is not None:
            self.lies["false justification"] += 1
            other = other_block(host, said.height, said.view, host.wall)
            if other is not None and self.chance.random() < 0.4:
                # True reasons, which may oblige to another block than this.
                wrong = PrePrepare(said.height, said.view, other, said.justification)
                return [self.sign(host, wrong), self.plain(message)]
            committee = host.running.chain.committee
            groups = [
                [voter.id for voter in committee.voters if voter.group == group]
                for group in committee.group_sizes
            ]
            false = spoilt(self.chance, said.justification, self._certificates, groups)
            raw = self.sign(host, PrePrepare(said.height, said.view, said.block, false))
            return [raw, self.plain(message)] if self.chance.random() < 0.7 else [raw]
        return [self.plain(message)]

    def _begin(self, host: "Host", height: int, view: int) -> None:
        """Begin its own next view, although nobody has asked for it."""
        committee = host.running.chain.committee
        for later in range(view, view + len(committee.roster)):
            if committee.primary(height, later) == host.id:
                block = other_block(host, height, later, host.wall)
                if block is not None:
                    self.lies["view begun"] += 1
                    why = unasked(host, height, later)
                    self.spread(host, PrePrepare(height, later, block, why), self.others(host))
                return

    def _ask_around(self, host: "Host", height: int, view: int) -> None:
        """Ask for later views: one for all, or another of each, or one after the other."""
        self.lies["view asked for"] += 1
        style = self.chance.randrange(3)
        ahead = self.chance.choice((1, 1, 2, 3, 50))
        for peer in self.others(host):
            if style == 1:
                ahead = self.chance.randint(1, 9)
            for step in range(1, min(ahead, 4) + 1) if style == 2 else (ahead,):
                wanted = min(view + step, VIEW_MAX)
                claim = self._claim(host, ViewChange(height, wanted, None))
                self.spread(host, ViewChange(height, wanted, claim), [peer])

    def _claim(self, host: "Host", said: ViewChange) -> Certificate | None:
        style = self.chance.randrange(4)
        block_hash = self.chance.randbytes(32)
        if self._certificates:
            block_hash = self.chance.choice(self._certificates).block_hash
        if style == 0:
            return None
        if style == 1 or not self._certificates:
            return invented(host, said.height, max(said.view - 1, 0), block_hash)
        old = self.chance.choice(self._certificates)
        if style == 2:
            return old
        return altered(self.chance, old, said.height, said.view, block_hash)


class Replayer(Behaviour):
    """Keeps what it heard, at all heights and over all restarts, and says it again: messages of
    others as they were, and old certificates and justifications in messages of its own.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._kept: list[Signed] = []
        self._proofs: list[Signed] = []

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Keep some of what it hears for ever, and repeat some of that."""
        if isinstance(message, Consensus):
            if certificate_in(message.signed) is not None:
                self._proofs = [*self._proofs[-CERTIFICATES_MAX:], message.signed]
            if len(self._kept) < MEMORY_MAX:
                self._kept.append(message.signed)
            elif self.chance.random() < 0.1:
                self._kept[self.chance.randrange(MEMORY_MAX)] = message.signed
            if self.chance.random() < 0.15:
                self._repeat(host, message.signed)
        return True

    def _repeat(self, host: "Host", heard: Signed) -> None:
        others = [who for who in self.others(host) if self.chance.random() < 0.6]
        if self._proofs and self.chance.random() < 0.5:
            raw = self._old_proof(host, heard, self.chance.choice(self._proofs))
        else:
            self.lies["repetition"] += 1
            raw = encode(Consensus(self.chance.choice(self._kept)))
        for other in others:
            host.world.network.send(host, other, raw)

    def _old_proof(self, host: "Host", heard: Signed, old: Signed) -> bytes:
        """An old certificate or justification in a new place."""
        self.lies["old proof"] += 1
        height, view = heard.message.height, min(heard.message.view + 1, VIEW_MAX)
        certificate = certificate_in(old)
        if isinstance(old.message, PrePrepare) and self.chance.random() < 0.5:
            block = old.message.block
            if isinstance(heard.message, PrePrepare):
                block = heard.message.block
            later = self.chance.choice((old.message.view, view))
            return self.sign(host, PrePrepare(height, later, block, old.message.justification))
        if certificate is not None and self.chance.random() < 0.5:
            certificate = altered(self.chance, certificate, height, view, certificate.block_hash)
        return self.sign(host, ViewChange(height, view, certificate))
