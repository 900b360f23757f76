"""Liars about batches and bodies: keeping them, leaving them out, giving false ones."""

import random
from typing import TYPE_CHECKING

import msgspec

from consensus.messages import Commit, Prepare, PrePrepare
from ledger.execution import payload_batches
from node.wire import (
    BatchBody,
    BatchesFound,
    BlockFound,
    BlocksFound,
    Consensus,
    Decided,
    Draft,
    Head,
    Message,
    Request,
    Response,
)
from primitives.block import Block
from primitives.codec import encode
from simulations.byzantine.behaviour import Behaviour, Collusion, own_message

if TYPE_CHECKING:
    from simulations.host import Host


class Withholder(Behaviour):
    """Orders and votes, but gives nobody the bodies of its batches and blocks, or gives them to one
    side only.
    """

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._to_one_side = chance.random() < 0.5

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Keep batches, and what was decided, to itself."""
        kept = not self._to_one_side or self.collusion.side(host, peer) == 1
        if isinstance(message, BatchBody | Decided) and kept:
            self.lies["batch kept"] += 1
            return []
        return [self.plain(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Have nothing; or say nothing at all."""
        self.lies["body kept"] += 1
        match response:
            case BatchesFound():
                return encode(BatchesFound(()))
            case BlockFound():
                return encode(BlockFound(None))
            case _:
                return None


class Censor(Behaviour):
    """Never proposes the batches of one member, and gives no vote to a block that lists one."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._victim: str | None = None

    def _censored(self, host: "Host") -> str:
        if self._victim is None:
            honest = [id for id in host.running.members if id not in self.collusion.members]
            self._victim = self.chance.choice(honest or [host.id])
        return self._victim

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Forget the victim's batches, however they came."""
        mempool = host.running.mempool
        held = [one.batch.id for one in mempool.by_author(self._censored(host))]
        self.lies["batch left out"] += len(held)
        mempool.remove(held)
        return True

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Give no vote to a block with a batch of the victim."""
        said = own_message(host, message)
        if isinstance(said, Prepare | Commit) and self._lists_victim(host, said.block_hash):
            self.lies["vote kept back"] += 1
            return []
        return [self.plain(message)]

    def _lists_victim(self, host: "Host", block_hash: bytes) -> bool:
        block = host.running.undecided_block(block_hash)
        known = [] if block is None else payload_batches(block.payload)
        batches = [host.world.checks.known(batch_id) for batch_id in known]
        victim = self._censored(host)
        return any(batch is not None and batch.author == victim for batch in batches)


class Spoiler(Behaviour):
    """Gives bodies that are not those of their headers: other batches under the right hash, and
    drafts of other blocks than it proposes. It helps blocks to be prepared but never to be decided,
    and tells nobody what it has decided itself, so that the others need each other.
    """

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Spoil half of its proposals; keep its COMMITs and its head to itself."""
        if isinstance(message, Head):
            return []
        if isinstance(message, Draft) and self.chance.random() < 0.5:
            self.lies["false draft"] += 1
            return [encode(self._draft_otherwise(message))]
        if isinstance(message, Consensus):
            signed = message.signed
            if isinstance(signed.message, Commit):
                self.lies["COMMIT kept"] += 1
                return []
            if isinstance(signed.message, PrePrepare) and self.chance.random() < 0.5:
                spoilt = msgspec.structs.replace(
                    signed.message, block=self._spoil(signed.message.block)
                )
                return [encode(Consensus(msgspec.structs.replace(signed, message=spoilt)))]
        return [self.plain(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Spoil undecided blocks that are asked for; have no decided ones."""
        if isinstance(response, BlockFound) and response.block is not None:
            return encode(BlockFound(self._spoil(response.block)))
        return None if isinstance(response, BlocksFound) else encode(response)

    def _draft_otherwise(self, draft: Draft) -> Draft:
        """Other batches or another time; both can be executed."""
        if len(draft.batches) > 1 and self.chance.random() < 0.5:
            return msgspec.structs.replace(draft, batches=draft.batches[1:])
        return msgspec.structs.replace(draft, time_ms=draft.time_ms + 1)

    def _spoil(self, block: Block) -> Block:
        self.lies["false body"] += 1
        ids = tuple(self.chance.randbytes(32) for _ in range(self.chance.randint(0, 2)))
        return Block(block.header, encode(ids))
