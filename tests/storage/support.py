"""A small real ledger, block by block, and a model of the store in dictionaries."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consensus.certificates import assemble
from consensus.committee import Committee
from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Commit,
    Decision,
    Message,
    Phase,
    Prepare,
    PrePrepare,
    ViewChange,
    sign,
    vote_digest,
)
from ledger.committee import committee_at
from ledger.execution import ExecutedBlock, execute_block
from ledger.genesis import Genesis, genesis_state, parse_genesis, render_genesis
from ledger.operations import EnrolPerson, Labels, Operation, RegisterRecord
from ledger.receipts import Receipt
from ledger.replay import ReplayWindow
from ledger.state import StateInMemory, person_id
from ledger.store import Write, WriteBatch, WriteBlock, WriteGenesis, WritePromise
from ledger.transactions import (
    CheckedBatch,
    CheckedTransaction,
    TransactionBody,
    check_transaction,
    seal_batch,
    sign_transaction,
)
from primitives.block import Block, BlockHeader
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import PrivateKey

TYPES = {"alpha": "tertiary_hospital", "beta": "tertiary_hospital", "gamma": "regulator"}
KEYS = {name: PrivateKey(hashlib.sha256(name.encode()).digest()) for name in TYPES}
GENESIS_TIME_MS = 1_700_000_000_000


def make_genesis(name: str = "A test") -> Genesis:
    institutions = [
        Institution(
            id=id,
            name=id.title(),
            type=kind,
            region="CN-GD",
            lei=lei_with_check_digits(f"{number:018d}"),
            key=KEYS[id].public,
            address=f"{id}.example:7600",
        )
        for number, (id, kind) in enumerate(TYPES.items())
    ]
    return parse_genesis(render_genesis(name, GENESIS_TIME_MS, institutions))


@dataclass
class Model(StateInMemory):
    """What a store must hold after the same writes."""

    blocks: list[BlockHeader] = field(default_factory=list)
    decisions: dict[int, Decision] = field(default_factory=dict)
    receipts: dict[int, tuple[Receipt, ...]] = field(default_factory=dict)
    batches: dict[bytes, CheckedBatch] = field(default_factory=dict)
    undecided: dict[bytes, None] = field(default_factory=dict)
    positions: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    chains: dict[bytes, list[int]] = field(default_factory=dict)
    kept: list[tuple[int, Persist]] = field(default_factory=list)
    values: dict[bytes, bytes] = field(default_factory=dict)
    nodes: dict[bytes, bytes] = field(default_factory=dict)

    def promises(self, height: int) -> tuple[Persist, ...]:
        return tuple(promise for at, promise in self.kept if at == height)

    def proposals(self) -> dict[bytes, Block]:
        return {p.block.hash: p.block for _, p in self.kept if p.block is not None}

    def pending(self) -> tuple[bytes, ...]:
        return tuple(self.batches[id].raw for id in self.undecided)

    def apply(self, writes: Iterable[Write]) -> None:
        for write in writes:
            match write:
                case WriteGenesis(header, changes):
                    self.blocks.append(header)
                    self.receipts[0] = ()
                    self.values.update(changes.values)
                    self.nodes.update(changes.nodes)
                case WriteBatch(batch):
                    if batch.id not in self.batches:
                        self.batches[batch.id] = batch
                        self.undecided[batch.id] = None
                case WritePromise(height, promise):
                    self.kept.append((height, promise))
                case WriteBlock():
                    self._apply_block(write)

    def _apply_block(self, write: WriteBlock) -> None:
        header = write.decision.block.header
        height = header.height
        self.blocks.append(header)
        self.decisions[height] = write.decision
        self.receipts[height] = tuple(write.receipts)
        for batch in write.batches:
            self.batches.setdefault(batch.id, batch)
            self.undecided.pop(batch.id, None)
        for index in write.executed:
            self.positions[write.transaction_ids[index]] = (height, index)
        for chain in write.chains:
            self.chains.setdefault(chain, []).append(height)
        self.values.update(write.changes.values)
        self.nodes.update(write.changes.nodes)
        self.kept = [(at, promise) for at, promise in self.kept if at > height]
        for id in [i for i in self.undecided if self.batches[i].valid_until_height <= height]:
            del self.undecided[id], self.batches[id]


class Ledger:
    """Makes blocks, one on the other, and what nodes sign on the way; `model` follows."""

    def __init__(self, genesis: Genesis | None = None) -> None:
        self.genesis = make_genesis() if genesis is None else genesis
        self.chain_id = self.genesis.chain_id
        self.model = Model()
        self.replay = ReplayWindow(self.genesis.limits.replay_window_blocks)
        self.keys = dict(KEYS)
        """The members' present keys."""
        self._sequence = 0
        self._nonce = 0

    @property
    def height(self) -> int:
        return len(self.model.blocks) - 1

    def begin(self) -> WriteGenesis:
        write = WriteGenesis(*genesis_state(self.genesis))
        self.model.apply([write])
        return write

    def transaction(self, *operations: Operation, author: str = "alpha") -> CheckedTransaction:
        self._nonce += 1
        number = self._nonce.to_bytes(32, "big")
        person = PrivateKey(number).public
        labels = Labels("imaging", "normal", "CN", "pacs", "checked")
        body = TransactionBody(
            author=self.keys[author].public,
            valid_until_height=900,
            valid_until_ms=GENESIS_TIME_MS * 2,
            nonce=number[16:],
            operations=operations
            or (
                EnrolPerson(person, "patient"),
                RegisterRecord(number, labels, person_id(person)),
            ),
        )
        raw = sign_transaction(self.chain_id, self.keys[author], body)
        return check_transaction(raw, self.chain_id, self.genesis.limits)

    def batch(self, count: int = 2, valid_until_height: int = 900) -> CheckedBatch:
        transactions = [self.transaction() for _ in range(count)]
        return self.seal(transactions, valid_until_height)

    def seal(
        self, transactions: Sequence[CheckedTransaction], valid_until_height: int = 900
    ) -> CheckedBatch:
        self._sequence += 1
        key = self.keys["alpha"]
        return seal_batch(
            self.chain_id, key, "alpha", self._sequence, valid_until_height, transactions
        )

    def execute(self, batches: Sequence[CheckedBatch]) -> ExecutedBlock:
        head = self.model.blocks[-1]
        return execute_block(
            head,
            0,
            self.committee.primary(head.height + 1, 0),
            head.time_ms + 1,
            batches,
            self.model,
            self.replay,
            self.genesis,
        )

    @property
    def committee(self) -> Committee:
        return committee_at(self.model, self.genesis)

    def certificate(self, phase: Phase, block: Block, view: int = 0) -> Certificate:
        height = block.header.height
        return assemble(
            phase,
            height,
            view,
            block.hash,
            {
                name: key.sign(vote_digest(self.chain_id, name, phase, height, view, block.hash))
                for name, key in self.keys.items()
            },
        )

    def decide(self, batches: Sequence[CheckedBatch]) -> WriteBlock:
        """The next block, of these batches."""
        executed = self.execute(batches)
        decision = Decision(executed.block, self.certificate(Phase.COMMIT, executed.block))
        write = executed.write(decision)
        self.model.apply([write])
        self.replay.add(self.height, executed.ran, executed.sequences)
        return write

    def promise(self, message: Message, block: Block | None = None) -> WritePromise:
        prepared = None
        if isinstance(message, Commit):
            assert block is not None
            prepared, block = self.certificate(Phase.PREPARE, block, message.view), None
        signed = sign(self.chain_id, "alpha", self.keys["alpha"], message)
        return WritePromise(message.height, Persist(signed, prepared, block))

    def round(self, batches: Sequence[CheckedBatch]) -> list[Write]:
        """What a voter writes while the next block, of these batches, is agreed on in view 0."""
        executed = self.execute(batches)
        block = executed.block
        height = block.header.height
        return [
            *(WriteBatch(batch) for batch in batches),
            self.promise(PrePrepare(height, 0, block, None)),
            self.promise(Prepare(height, 0, block.hash), block),
            self.promise(Commit(height, 0, block.hash), block),
            self.promise(ViewChange(height, 1, self.certificate(Phase.PREPARE, block))),
        ]
