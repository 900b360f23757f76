"""A ledger in memory for tests: institutions, a store of dictionaries, certified blocks."""

import hashlib
from collections.abc import Sequence
from itertools import count

from consensus.certificates import assemble
from consensus.committee import Committee, QuorumRule
from consensus.events import Persist
from consensus.messages import Decision, Phase, vote_digest
from ledger.committee import committee_at
from ledger.execution import ExecutedBlock, check_block, execute_block
from ledger.genesis import Genesis, genesis_state, parse_genesis, render_genesis
from ledger.operations import (
    EnrolPerson,
    Grant,
    InstitutionParty,
    Labels,
    Operation,
    Party,
    RecordShare,
    RegisterRecord,
)
from ledger.receipts import Receipt, ReceiptCode
from ledger.replay import ReplayWindow
from ledger.state import StateInMemory, grant_id, person_id, record_id
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

TIME_MS = 1_700_000_000_000
FAR_MS = 2_000_000_000_000
LABELS = Labels("imaging", "N", "CN-GD", "pacs", "verified")
TYPES = {
    "hospital": "tertiary_hospital",
    "authority": "health_authority",
    "institute": "research_institute",
}


def key_of(name: object) -> PrivateKey:
    return PrivateKey(hashlib.sha256(str(name).encode()).digest())


def institution(id: str, number: int) -> Institution:
    return Institution(
        id=id,
        name=f"The {id} of “Müller & 王”",
        type=TYPES[id.split("-", maxsplit=1)[0]],
        region="CN-GD",
        lei=lei_with_check_digits(f"MEDPACT{number:011d}"),
        key=key_of(id).public,
        address=f"{id}.example:{7600 + number}",
    )


def consortium(recorders: int = 4, auditors: int = 3, observers: int = 1) -> list[Institution]:
    ids = [
        *(f"hospital-{n}" for n in range(recorders)),
        *(f"authority-{n}" for n in range(auditors)),
        *(f"institute-{n}" for n in range(observers)),
    ]
    return [institution(id, number) for number, id in enumerate(ids)]


class MemoryStore(StateInMemory):
    """A LedgerReader over dictionaries, which performs writes as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[BlockHeader] = []
        self.blocks: dict[int, WriteBlock] = {}
        self.batches: dict[bytes, bytes] = {}
        self.positions: dict[bytes, tuple[int, int]] = {}

    def write(self, write: Write) -> None:
        match write:
            case WriteGenesis(header, changes):
                self.headers.append(header)
            case WriteBlock(decision=decision, changes=changes):
                header = decision.block.header
                self.headers.append(header)
                self.blocks[header.height] = write
                self.batches.update((batch.id, batch.raw) for batch in write.batches)
                for index in write.executed:
                    id = write.transaction_ids[index]
                    assert id not in self.positions, "a transaction ran twice"
                    self.positions[id] = (header.height, index)
            case WriteBatch() | WritePromise():
                raise NotImplementedError
        self.take(changes)

    def head_height(self) -> int | None:
        return len(self.headers) - 1 if self.headers else None

    def header(self, height: int) -> BlockHeader | None:
        return self.headers[height] if height < len(self.headers) else None

    def height_of(self, block_hash: bytes) -> int | None:
        return next((h.height for h in self.headers if h.hash() == block_hash), None)

    def decision(self, height: int) -> Decision | None:
        return self.blocks[height].decision if height in self.blocks else None

    def receipts(self, height: int) -> tuple[Receipt, ...] | None:
        return tuple(self.blocks[height].receipts) if height in self.blocks else None

    def sequences(self, height: int) -> tuple[tuple[str, int], ...] | None:
        if height not in self.blocks:
            return None
        listed = self.blocks[height].batches
        if any(batch.id not in self.batches for batch in listed):
            return None
        return tuple((batch.author, batch.sequence) for batch in listed)

    def has_batch(self, batch_id: bytes) -> bool:
        return batch_id in self.batches

    def batch(self, batch_id: bytes) -> bytes | None:
        return self.batches.get(batch_id)

    def transaction_position(self, transaction_id: bytes) -> tuple[int, int] | None:
        return self.positions.get(transaction_id)

    def chain_heights(self, chain_id: bytes, above: int, limit: int) -> tuple[int, ...]:
        heights = (h for h, block in self.blocks.items() if h > above and chain_id in block.chains)
        return tuple(sorted(heights))[:limit]

    def promises(self, height: int) -> tuple[Persist, ...]:
        return ()

    def proposal(self, block_hash: bytes) -> Block | None:
        return None

    def pending_batches(self) -> tuple[bytes, ...]:
        return ()


class World:
    """A ledger that grows a block at a time."""

    def __init__(
        self,
        institutions: Sequence[Institution] | None = None,
        quorum: QuorumRule = "per_class",
        **settings: int,
    ) -> None:
        members = consortium() if institutions is None else institutions
        raw = render_genesis("A test ledger", TIME_MS, members, quorum=quorum, settings=settings)
        self.genesis: Genesis = parse_genesis(raw)
        self.store = MemoryStore()
        self.store.write(WriteGenesis(*genesis_state(self.genesis)))
        self.window = ReplayWindow(self.genesis.limits.replay_window_blocks)
        self.keys: dict[str, PrivateKey] = {}
        """Keys by member that are not those of its name any more."""
        self._numbers = count(1)

    @property
    def chain_id(self) -> bytes:
        return self.genesis.chain_id

    @property
    def head(self) -> BlockHeader:
        return self.store.headers[-1]

    def transaction(
        self,
        key: PrivateKey,
        *operations: Operation,
        valid_until_height: int | None = None,
        valid_until_ms: int = FAR_MS,
    ) -> CheckedTransaction:
        body = TransactionBody(
            author=key.public,
            valid_until_height=valid_until_height or self.head.height + 5,
            valid_until_ms=valid_until_ms,
            nonce=next(self._numbers).to_bytes(16, "big"),
            operations=operations,
        )
        raw = sign_transaction(self.chain_id, key, body)
        return check_transaction(raw, self.chain_id, self.genesis.limits)

    def batch(
        self,
        *transactions: CheckedTransaction,
        author: str = "hospital-0",
        sequence: int | None = None,
        valid_until_height: int | None = None,
        key: PrivateKey | None = None,
    ) -> CheckedBatch:
        return seal_batch(
            self.chain_id,
            key or self.key_of(author),
            author,
            next(self._numbers) if sequence is None else sequence,
            valid_until_height or self.head.height + 5,
            transactions,
        )

    @property
    def committee(self) -> Committee:
        """That decides the next height."""
        return committee_at(self.store, self.genesis)

    def key_of(self, name: str) -> PrivateKey:
        """The key that a member has now."""
        return self.keys.get(name) or key_of(name)

    def execute(
        self,
        *batches: CheckedBatch,
        time_ms: int | None = None,
        view: int = 0,
        proposer: str = "hospital-1",
    ) -> ExecutedBlock:
        return execute_block(
            self.head,
            view,
            proposer,
            time_ms or self.head.time_ms + 1_000,
            batches,
            self.store,
            self.window,
            self.genesis,
        )

    def check(self, block: Block, *batches: CheckedBatch) -> ExecutedBlock:
        return check_block(block, self.head, batches, self.store, self.window, self.genesis)

    def decide(self, block: Block, view: int = 0, signers: Sequence[str] | None = None) -> Decision:
        names = [voter.id for voter in self.committee.voters] if signers is None else signers
        height = block.header.height
        signatures = {
            name: self.key_of(name).sign(
                vote_digest(self.chain_id, name, Phase.COMMIT, height, view, block.hash)
            )
            for name in names
        }
        return Decision(block, assemble(Phase.COMMIT, height, view, block.hash, signatures))

    def apply(self, executed: ExecutedBlock, view: int | None = None) -> None:
        """Decide it, in the view of its proposal unless told otherwise."""
        self.store.write(
            WriteBlock(
                decision=self.decide(
                    executed.block, executed.block.header.view if view is None else view
                ),
                batches=executed.batches,
                receipts=executed.receipts,
                transaction_ids=executed.transaction_ids,
                executed=executed.executed,
                chains=executed.chains,
                changes=executed.changes,
            )
        )
        self.window.add(executed.block.header.height, executed.ran, executed.sequences)

    def run(
        self,
        *transactions: CheckedTransaction,
        time_ms: int | None = None,
        view: int = 0,
        batch_author: str = "hospital-0",
    ) -> list[ReceiptCode]:
        """Make, check and apply a block of one batch, and return the codes."""
        batch = self.batch(*transactions, author=batch_author)
        proposer = self.committee.primary(self.head.height + 1, view)
        executed = self.execute(batch, time_ms=time_ms, view=view, proposer=proposer)
        assert self.check(executed.block, batch).changes.root == executed.changes.root
        self.apply(executed)
        return [ReceiptCode(receipt.code) for receipt in executed.receipts]


class Story:
    """A patient, two records at hospital-0 (one without a subject), a grant on each, one share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.custodian = key_of("hospital-0")
        self.patient = key_of("patient")
        self.patient_id = person_id(self.patient.public)
        self.commitment = bytes([1]) * 32
        self.record = record_id("hospital-0", self.commitment)
        self.plain_commitment = bytes([2]) * 32
        self.plain = record_id("hospital-0", self.plain_commitment)
        self.institute: Party = InstitutionParty("institute-0")
        registration = world.transaction(
            self.custodian,
            EnrolPerson(self.patient.public, "patient"),
            RegisterRecord(self.commitment, LABELS, self.patient_id),
            RegisterRecord(self.plain_commitment, LABELS, None),
        )
        grant = world.transaction(self.patient, self.grant_of(self.record))
        plain_grant = world.transaction(self.custodian, self.grant_of(self.plain))
        assert world.run(registration, grant, plain_grant) == [ReceiptCode.OK] * 3
        self.registration = registration.id
        self.grant = grant_id(grant.id, 0)
        self.plain_grant = grant_id(plain_grant.id, 0)
        share = world.transaction(self.custodian, self.share_of(self.record, self.grant))
        assert world.run(share) == [ReceiptCode.OK]
        self.shared = share.id

    def grant_of(self, *records: bytes, expires_ms: int = 0, purpose: str = "HRESCH") -> Grant:
        return Grant(self.institute, records, purpose, expires_ms)

    def share_of(self, record: bytes, grant: bytes, purpose: str = "HRESCH") -> RecordShare:
        commitment = self.commitment if record == self.record else self.plain_commitment
        return RecordShare(record, self.institute, grant, commitment, purpose)
