"""Liars to whoever catches up: about how far the ledger is, and about its blocks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from consensus.messages import Decision, Phase
from node.wire import (
    BlocksFound,
    BlocksWanted,
    BlockWithBatches,
    Decided,
    Head,
    Message,
    Request,
    Response,
)
from primitives.block import Block
from primitives.codec import encode
from simulations.byzantine.behaviour import Behaviour
from simulations.byzantine.forgeries import invented

if TYPE_CHECKING:
    from simulations.host import Host

Blocks = tuple[BlockWithBatches, ...]


class SyncLiar(Behaviour):
    """Claims to be ahead or behind, stalls, answers half, and gives blocks that are not what was
    decided: unsigned, redated, signed by itself alone, with others' bodies, under old certificates.
    """

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Claim a higher head, or an older one; tell of blocks that were not decided."""
        if isinstance(message, Decided) and self.chance.random() < 0.5:
            return self._false_decision(host, message.decision)
        if isinstance(message, Head) and self.chance.random() < 0.5:
            self.lies["height"] += 1
            other = message.height + self.chance.choice((1, 3, 10**6, -1, -message.height))
            return [encode(Head(max(other, 0), self.chance.randbytes(32)))]
        return [self.plain(message)]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Spoil the blocks in one way or another."""
        if not isinstance(response, BlocksFound) or not isinstance(request, BlocksWanted):
            return encode(response)
        if self.chance.random() < 0.2:
            return encode(response)
        if not response.blocks or self.chance.random() < 0.15:
            self.lies["stall"] += 1
            return None
        ways = self._forgeries | {"half": self._half, "gap": self._gap}
        way = self.chance.choice(tuple(ways))
        self.lies[way] += 1
        blocks = ways[way](host, response.blocks)
        head_height = max(response.head_height + self.chance.choice((0, 5, -1)), 0)
        return encode(BlocksFound(blocks, head_height))

    @property
    def _forgeries(self) -> dict[str, Callable[["Host", Blocks], Blocks]]:
        return {
            "unsigned": self._unsigned,
            "redated": self._redated,
            "signed alone": self._signed_alone,
            "swapped bodies": self._swapped,
            "old certificate": self._old_certificate,
            "old block": self._old_block,
        }

    def _false_decision(self, host: "Host", decision: Decision) -> list[bytes]:
        ways = self._forgeries
        way = self.chance.choice(tuple(ways))
        self.lies[way] += 1
        (false,) = ways[way](host, (BlockWithBatches(decision, ()),))
        return [encode(Decided(false.decision))]

    def _unsigned(self, host: "Host", blocks: Blocks) -> Blocks:
        """Too few signatures, from some block on."""
        start = self.chance.randrange(len(blocks))
        committee = host.running.chain.committee
        without = self.chance.choice((None, *committee.group_sizes))
        kept = [
            who
            for who, voter in committee.by_id.items()
            if who == host.id or (without is not None and voter.group != without)
        ]
        spare = [who for who in committee.by_id if who not in kept]
        if without is not None and spare:
            # One group alone is short, and the total may still look enough.
            kept += self.chance.sample(spare, self.chance.randrange(len(spare)))
        return blocks[:start] + tuple(_certified(block, kept) for block in blocks[start:])

    def _redated(self, host: "Host", blocks: Blocks) -> Blocks:
        return tuple(_redated(block, 1) for block in blocks)

    def _signed_alone(self, host: "Host", blocks: Blocks) -> Blocks:
        """A whole chain of its own, each block on the one before, certified by its key alone."""
        forged: list[BlockWithBatches] = []
        parent: bytes | None = None
        for block in blocks:
            header = block.decision.block.header
            header = msgspec.structs.replace(
                header,
                time_ms=header.time_ms + 1,
                parent_hash=header.parent_hash if parent is None else parent,
            )
            own = Block(header, block.decision.block.payload)
            certificate = invented(host, header.height, header.view, own.hash, Phase.COMMIT)
            forged.append(BlockWithBatches(Decision(own, certificate), block.batches))
            parent = own.hash
        return tuple(forged)

    def _swapped(self, host: "Host", blocks: Blocks) -> Blocks:
        """The batches of another block; or another list of batches under the right header."""
        first, last = blocks[0], blocks[-1]
        if len(blocks) > 1 and self.chance.random() < 0.5:
            return (BlockWithBatches(first.decision, last.batches), *blocks[1:])
        body = Block(first.decision.block.header, last.decision.block.payload)
        if len(blocks) == 1:
            body = Block(first.decision.block.header, encode(()))
        decision = msgspec.structs.replace(first.decision, block=body)
        batches = last.batches if len(blocks) > 1 else ()
        return (BlockWithBatches(decision, batches), *blocks[1:])

    def _old_certificate(self, host: "Host", blocks: Blocks) -> Blocks:
        """The true certificate of the height before, passed off as this one's."""
        header = blocks[0].decision.block.header
        older = host.store.decision(max(header.height - 1, 1))
        source = blocks[0].decision if older is None else older
        own = _redated(blocks[0], 7).decision.block
        certificate = msgspec.structs.replace(
            source.certificate, height=header.height, block_hash=own.hash
        )
        return (BlockWithBatches(Decision(own, certificate), blocks[0].batches), *blocks[1:])

    def _old_block(self, host: "Host", blocks: Blocks) -> Blocks:
        """A decided block once more, at the next heights as well."""
        height = blocks[0].decision.block.header.height
        repeated = []
        for offset, _ in enumerate(blocks):
            header = msgspec.structs.replace(
                blocks[0].decision.block.header, height=height + offset
            )
            body = Block(header, blocks[0].decision.block.payload)
            decision = msgspec.structs.replace(blocks[0].decision, block=body)
            repeated.append(BlockWithBatches(decision, blocks[0].batches))
        return tuple(repeated) if len(blocks) > 1 else (_redated(blocks[0], 3),)

    def _half(self, host: "Host", blocks: Blocks) -> Blocks:
        return blocks[: len(blocks) // 2]

    def _gap(self, host: "Host", blocks: Blocks) -> Blocks:
        return blocks[1:]


def _certified(block: BlockWithBatches, kept: Sequence[str]) -> BlockWithBatches:
    """The block with the signatures of these alone."""
    true = block.decision.certificate
    signatures = tuple(entry for entry in true.signatures if entry.signer in kept)
    certificate = msgspec.structs.replace(true, signatures=signatures)
    decision = msgspec.structs.replace(block.decision, certificate=certificate)
    return BlockWithBatches(decision, block.batches)


def _redated(block: BlockWithBatches, by_ms: int) -> BlockWithBatches:
    """The block with another time, under its old certificate."""
    header = block.decision.block.header
    other = msgspec.structs.replace(header, time_ms=header.time_ms + by_ms)
    body = Block(other, block.decision.block.payload)
    return BlockWithBatches(msgspec.structs.replace(block.decision, block=body), block.batches)
