"""Members that lie. Each runs the honest code and holds its own true key, but what leaves it and
what reaches it passes through a `Behaviour`, which changes, adds or swallows at will.

Twins, two processes with one key, need nothing of this: the cluster starts two honest hosts.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    VoteSignature,
    sign,
    vote_digest,
)
from ledger.execution import BlockError, execute_block, select_batches
from node.wire import (
    BatchBody,
    BatchesFound,
    BlockFound,
    BlocksFound,
    BlockWithBatches,
    Consensus,
    Head,
    Message,
    Request,
    Response,
)
from primitives.block import Block
from primitives.codec import VIEW_MAX, encode

if TYPE_CHECKING:
    from simulations.host import Host

MEMORY_MAX = 100


@dataclass(slots=True)
class Collusion:
    """What the liars of one run tell each other: which two blocks are proposed in one view."""

    members: tuple[str, ...]
    pairs: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)

    def side(self, peer: str) -> int:
        """Which of two stories this member is told."""
        return 0 if peer in self.members else sum(peer.encode()) % 2


class Behaviour:
    """Passes everything on; the liars override what they lie about."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        self.chance = chance
        self.collusion = collusion

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """What is sent instead of this message."""
        return [encode(message)]

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Whether the honest code may see this message."""
        return True

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """What is answered instead."""
        return encode(response)

    def sign(self, host: "Host", message: Prepare | Commit | ViewChange | PrePrepare) -> bytes:
        """A message with a true signature of this member."""
        chain_id = host.world.genesis.chain_id
        return encode(Consensus(sign(chain_id, host.id, host.key, message)))

    def others(self, host: "Host") -> list[str]:
        """The other voters."""
        return [id for id in host.running.chain.committee.by_id if id != host.id]


class Equivocator(Behaviour):
    """Proposes two blocks in one view, one to each half, and votes for whichever its listener has.

    All equivocators of a run play together: with enough of them in every class each half would see
    a quorum for its own block.
    """

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Tell one side of the other block."""
        if not isinstance(message, Consensus) or self.collusion.side(peer) == 0:
            return [encode(message)]
        said = message.signed.message
        if message.signed.signer != host.id:
            return [encode(message)]
        place = (said.height, said.view)
        match said:
            case PrePrepare(height, view, block, justification):
                other = self._other_block(host, said)
                if other is None:
                    return [encode(message)]
                self.collusion.pairs[place] = (block.hash, other.hash)
                pre_prepare = PrePrepare(height, view, other, justification)
                return [
                    self.sign(host, pre_prepare),
                    self.sign(host, Prepare(height, view, other.hash)),
                    self.sign(host, Commit(height, view, other.hash)),
                ]
            case Prepare(height, view) | Commit(height, view) if place in self.collusion.pairs:
                other_hash = self.collusion.pairs[place][1]
                return [
                    self.sign(host, Prepare(height, view, other_hash)),
                    self.sign(host, Commit(height, view, other_hash)),
                ]
            case _:
                return [encode(message)]

    def _other_block(self, host: "Host", said: PrePrepare) -> Block | None:
        """Another valid block in the same place, even where the view obliges to this one."""
        chain = host.running.chain
        header = said.block.header
        if header.height != chain.next_height or chain.writing is not None:
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
                said.view,
                host.id,
                header.time_ms + 1,
                chosen,
                chain.reader,
                chain.replay,
                chain.genesis,
            ).block
        except BlockError:
            return None


class Forger(Behaviour):
    """Says what it has no right to: votes for anything, of others, for other heights and views,
    with certificates that prove nothing, or no longer.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._seen: list[Signed] = []
        self._certificates: list[Certificate] = []
        self._lies: list[Callable[[Host, Signed], bytes]] = [
            self._vote,
            self._view_change,
            self._impersonate,
            self._repeat,
            self._propose,
        ]

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Remember what was said, and answer one message in six with a lie."""
        if isinstance(message, Consensus):
            self._remember(message.signed)
            if self.chance.random() < 1 / 6:
                raw = self.chance.choice(self._lies)(host, message.signed)
                for other in self.others(host):
                    if self.chance.random() < 0.6:
                        host.world.network.send(host, other, raw)
        return True

    def _remember(self, signed: Signed) -> None:
        self._seen = [*self._seen[-MEMORY_MAX:], signed]
        match signed.message:
            case ViewChange(_, _, prepared) if prepared is not None:
                self._certificates = [*self._certificates[-5:], prepared]
            case PrePrepare(_, _, _, justification):
                if justification is not None and justification.prepared is not None:
                    self._certificates = [*self._certificates[-5:], justification.prepared]
            case _:
                pass

    def _block_hash(self, host: "Host") -> bytes:
        known = [s.message.block_hash for s in self._seen if isinstance(s.message, Prepare)]
        return self.chance.choice([*known[-4:], self.chance.randbytes(32)])

    def _vote(self, host: "Host", heard: Signed) -> bytes:
        kind = self.chance.choice((Prepare, Commit))
        height = max(0, heard.message.height + self.chance.choice((-1, 0, 0, 0, 1, 2)))
        view = heard.message.view + self.chance.choice((0, 0, 0, 1, 5))
        return self.sign(host, kind(height, view, self._block_hash(host)))

    def _view_change(self, host: "Host", heard: Signed) -> bytes:
        height = heard.message.height
        view = min(heard.message.view + self.chance.choice((1, 1, 2, 9, VIEW_MAX)), VIEW_MAX)
        claims: list[Certificate | None] = [None, self._invented(host, height, view - 1)]
        for known in self._certificates[-2:]:
            claims += [known, msgspec.structs.replace(known, view=max(view - 1, 0))]
        return self.sign(host, ViewChange(height, view, self.chance.choice(claims)))

    def _invented(self, host: "Host", height: int, view: int) -> Certificate:
        """A certificate in which all signatures are the forger's own."""
        block_hash = self._block_hash(host)
        chain_id = host.world.genesis.chain_id
        entries = []
        for voter in sorted(host.running.chain.committee.by_id):
            digest = vote_digest(chain_id, voter, Phase.PREPARE, height, view, block_hash)
            entries.append(VoteSignature(voter, host.key.sign(digest)))
        return Certificate(int(Phase.PREPARE), height, view, block_hash, tuple(entries))

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
        view = old.view + self.chance.choice((0, 1))
        justification = old.justification
        if justification is not None and self.chance.random() < 0.5:
            justification = msgspec.structs.replace(justification, prepared=None)
        return self.sign(host, PrePrepare(old.height, view, old.block, justification))


class Garbler(Behaviour):
    """Sends bytes that are no message, or nearly one, besides what it should send."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Precede messages by garbage."""
        raw = encode(message)
        return [self._garble(raw), raw] if self.chance.random() < 0.3 else [raw]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Answer with garbage half of the time."""
        raw = encode(response)
        return self._garble(raw) if self.chance.random() < 0.5 else raw

    def _garble(self, raw: bytes) -> bytes:
        style = self.chance.randrange(3)
        if style == 0:
            return self.chance.randbytes(self.chance.randint(0, 200))
        if style == 1:
            return raw[: self.chance.randrange(len(raw))]
        damaged = bytearray(raw)
        for _ in range(self.chance.randint(1, 3)):
            damaged[self.chance.randrange(len(damaged))] ^= 1 << self.chance.randrange(8)
        return bytes(damaged)


class Withholder(Behaviour):
    """Orders and votes, but gives nobody the bodies of its batches and blocks."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Keep batches to itself."""
        return [] if isinstance(message, BatchBody) else [encode(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Have nothing; or say nothing at all."""
        match response:
            case BatchesFound():
                return encode(BatchesFound(()))
            case BlockFound():
                return encode(BlockFound(None))
            case _:
                return None


class Censor(Behaviour):
    """Never hears of the batches of one member, so that it never proposes them."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._victim: str | None = None

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Swallow the victim's batches."""
        if self._victim is None:
            self._victim = self.chance.choice(self.others(host) or [host.id])
        return not (isinstance(message, BatchBody) and peer == self._victim)


class SyncLiar(Behaviour):
    """Claims to be ahead, and gives blocks that are not what was decided."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Claim a higher head."""
        if isinstance(message, Head) and self.chance.random() < 0.5:
            ahead = message.height + self.chance.choice((1, 3, 10**6))
            return [encode(Head(ahead, self.chance.randbytes(32)))]
        return [encode(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Spoil the blocks in one way or another."""
        if not isinstance(response, BlocksFound) or self.chance.random() < 0.3:
            return encode(response)
        style = self.chance.randrange(4)
        if style == 0:
            return None
        head_height = response.head_height + self.chance.choice((0, 5))
        blocks = response.blocks
        if style == 1:
            blocks = tuple(self._without_signatures(block) for block in blocks)
        elif style == 2:
            blocks = tuple(self._with_another_time(block) for block in blocks)
        else:
            blocks = blocks[1:]
        return encode(BlocksFound(blocks, head_height))

    def _without_signatures(self, block: BlockWithBatches) -> BlockWithBatches:
        decision = block.decision
        kept = decision.certificate.signatures[:1]
        certificate = msgspec.structs.replace(decision.certificate, signatures=kept)
        spoilt = msgspec.structs.replace(decision, certificate=certificate)
        return BlockWithBatches(spoilt, block.batches)

    def _with_another_time(self, block: BlockWithBatches) -> BlockWithBatches:
        header = block.decision.block.header
        other = msgspec.structs.replace(header, time_ms=header.time_ms + 1)
        body = Block(other, block.decision.block.payload)
        spoilt = msgspec.structs.replace(block.decision, block=body)
        return BlockWithBatches(spoilt, block.batches)


class Spoiler(Behaviour):
    """Gives bodies that are not those of their headers: other batches under the right hash. It
    helps blocks to be prepared but never to be decided, and tells nobody what it has decided
    itself, so that the others need each other.
    """

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Spoil half of its proposals; keep its COMMITs and its head to itself."""
        if isinstance(message, Head):
            return []
        if isinstance(message, Consensus):
            signed = message.signed
            if isinstance(signed.message, Commit):
                return []
            if isinstance(signed.message, PrePrepare) and self.chance.random() < 0.5:
                spoilt = msgspec.structs.replace(
                    signed.message, block=self._spoil(signed.message.block)
                )
                return [encode(Consensus(msgspec.structs.replace(signed, message=spoilt)))]
        return [encode(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Spoil undecided blocks that are asked for; have no decided ones."""
        if isinstance(response, BlockFound) and response.block is not None:
            return encode(BlockFound(self._spoil(response.block)))
        return None if isinstance(response, BlocksFound) else encode(response)

    def _spoil(self, block: Block) -> Block:
        ids = tuple(self.chance.randbytes(32) for _ in range(self.chance.randint(0, 2)))
        return Block(block.header, encode(ids))


class Silent(Behaviour):
    """Hears everything and says nothing."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Nothing."""
        return []

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Nothing."""
        return None


LIES: dict[str, type[Behaviour]] = {
    "equivocator": Equivocator,
    "forger": Forger,
    "garbler": Garbler,
    "withholder": Withholder,
    "censor": Censor,
    "sync_liar": SyncLiar,
    "spoiler": Spoiler,
    "silent": Silent,
}


class Chameleon(Behaviour):
    """All of these, each message at random, and mostly honest."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._lies = [kind(chance, collusion) for kind in LIES.values()]

    def _one(self) -> Behaviour:
        honest = Behaviour(self.chance, self.collusion)
        return self.chance.choice(self._lies) if self.chance.random() < 0.4 else honest

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """As one of them would."""
        return self._one().outgoing(host, peer, message)

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """As one of them would."""
        return self._one().incoming(host, peer, message)

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """As one of them would."""
        return self._one().answer(host, request, response)


BEHAVIOURS: dict[str, type[Behaviour]] = {**LIES, "chameleon": Chameleon}
KINDS = tuple(BEHAVIOURS)
