"""A node around a replica, as far as consensus needs one: what the ledger and the shell would do.

A transaction is a byte string, a block's payload is one, and it is valid if it starts with b"+".
Promises, vouched-for blocks and the chain are durable, everything else dies in a crash.
"""

from collections.abc import Sequence
from typing import Protocol

from consensus.certificates import check_certificate
from consensus.committee import Committee
from consensus.events import (
    Accuse,
    Advanced,
    Blame,
    Broadcast,
    Decide,
    Effect,
    Event,
    Fetch,
    Fetched,
    Pending,
    Persist,
    Proposed,
    Send,
    Serve,
    WantBlock,
)
from consensus.messages import Decision, Phase, Signed, ViewChange
from consensus.replica import Replica
from consensus.settings import ConsensusSettings
from primitives.block import Block, BlockHeader
from primitives.hashing import digest
from tests.consensus.support import CHAIN, genesis, key_of, make_block


class World(Protocol):
    """What a node is in: a network and a scheduler."""

    now: int

    def connected(self, node: "Node") -> list[str]:
        """Whom a node that starts can reach."""

    def send(self, node: "Node", to: str, signed: Signed) -> None:
        """A message leaves the node."""

    def announce(self, node: "Node", transaction: bytes) -> None:
        """A transaction is spread to everyone."""

    def answer(self, node: "Node", event: Event) -> None:
        """The node's own machinery will answer its replica."""

    def look_for(self, node: "Node", fetch: Fetch) -> None:
        """The node asks others for a block that it does not have."""

    def serve(self, node: "Node", to: str, height: int) -> None:
        """The node sends a decision to a laggard."""

    def note(self, node: "Node", effect: Effect) -> None:
        """Every effect passes here before it is performed."""


class Node:
    """One honest node."""

    def __init__(
        self, world: World, id: str, committee: Committee, settings: ConsensusSettings
    ) -> None:
        self.world = world
        self.id = id
        self.label = id
        """Tells twins apart."""
        self.committee = committee
        self.settings = settings
        self.chain: list[Decision] = []
        self.promises: list[Persist] = []
        self.stored: dict[bytes, Block] = {}
        self.transactions: dict[bytes, None] = {}
        self.seen: dict[bytes, Block] = {}
        self.invalid: dict[bytes, None] = {}
        self.clock_off = False
        self.deciding = False
        self.replica: Replica | None = None
        self.start()

    @property
    def head(self) -> BlockHeader:
        return self.chain[-1].block.header if self.chain else genesis(self.committee)

    @property
    def up(self) -> bool:
        return self.replica is not None

    def start(self) -> None:
        """Start, or start again with what is durable."""
        self.replica = Replica(
            CHAIN,
            self.id,
            key_of(self.id),
            self.settings,
            self.head,
            self.committee,
            self.promises,
            self.world.connected(self),
            self.world.now,
        )

    def crash(self) -> None:
        self.replica = None
        self.seen = {}
        self.transactions = {}
        self.deciding = False

    def step(self, event: Event) -> list[Effect]:
        """Step the replica and perform what it asks for."""
        if self.replica is None:
            return []
        if isinstance(event, Advanced):
            self.deciding = False
            if self.transactions:
                self.world.answer(self, Pending())
        effects = self.replica.step(event, self.world.now)
        self.perform(effects)
        return effects

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self.world.note(self, effect)
            self._perform(effect)

    def learn(self, transaction: bytes) -> None:
        """A transaction came, from a client or another node."""
        if self.up and all(transaction != decision.block.payload for decision in self.chain):
            self.transactions[transaction] = None
            self.world.answer(self, Pending())

    def is_valid(self, block: Block) -> bool:
        header = block.header
        return (
            header.parent_hash == self.head.hash()
            and header.batches_root == digest("tests", block.payload)
            and block.payload.startswith(b"+")
            and all(block.payload != decision.block.payload for decision in self.chain)
        )

    def apply(self, decision: Decision) -> bool:
        """Append a decided block, whoever decided it, if it is the next one and proven."""
        if decision.block.header.height != self.head.height + 1 or self.deciding:
            return False
        certificate = decision.certificate
        check_certificate(certificate, Phase.COMMIT, CHAIN, self.committee)
        named = (certificate.height, certificate.block_hash)
        if named != (decision.block.header.height, decision.block.hash):
            raise AssertionError("a decision whose certificate is for something else")
        if not self.is_valid(decision.block):
            raise AssertionError("a decided block is not valid")
        self.chain.append(decision)
        self.promises.clear()
        self.stored.clear()
        self.seen.clear()
        self.transactions.pop(decision.block.payload, None)
        self.deciding = True
        self.world.answer(self, Advanced(self.head, self.committee))
        return True

    def find(self, block_hash: bytes) -> Block | None:
        """A block that this node vouched for or has decided."""
        decided = {decision.block.hash: decision.block for decision in self.chain[-2:]}
        return self.stored.get(block_hash) or decided.get(block_hash)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist(block=block):
                self.promises.append(effect)
                if block is not None:
                    self.stored[block.hash] = block
            case Broadcast(signed):
                for voter in self.committee.voters:
                    if voter.id != self.id:
                        self.world.send(self, voter.id, signed)
                if isinstance(signed.message, ViewChange):
                    for transaction in self.transactions:
                        self.world.announce(self, transaction)
            case Send(to, signed):
                self.world.send(self, to, signed)
            case WantBlock(height, view):
                if self.transactions and height == self.head.height + 1:
                    payload = next(iter(self.transactions))
                    block = make_block(self.head, self.id, view, payload)
                    self.seen[block.hash] = block
                    self.world.answer(self, Proposed(block))
            case Fetch():
                self._fetch(effect)
            case Serve(to, height):
                self.world.serve(self, to, height)
            case Decide(decision):
                # While a synced block is being applied, its votes may still decide it here.
                if not self.deciding and decision.block.hash not in self.seen:
                    raise AssertionError("a block was decided that was never checked")
                self.apply(decision)
            case Accuse() | Blame():
                pass

    def _fetch(self, fetch: Fetch) -> None:
        known = self.seen.get(fetch.block_hash) or self.stored.get(fetch.block_hash) or fetch.block
        if known is None:
            self.world.look_for(self, fetch)
        elif self.is_valid(known) and not (fetch.fresh and self.clock_off):
            self.seen[known.hash] = known
            self.world.answer(self, Fetched(known))
        elif fetch.block is None:
            self.world.look_for(self, fetch)
