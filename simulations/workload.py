"""What clients do: enrol persons, register records, grant, revoke and share, rightly and wrongly.

A client keeps to what it has seen in receipts, mostly; the rest is deliberate nonsense, repetition
and haste. Without a receipt it submits the same bytes again, to any node that runs. It is the
simulator's idea of an acknowledged transaction: one whose receipt a client has seen.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from ledger.changes import Change, ChangeType, Relocate, RotateKey, possession_digest
from ledger.genesis import Genesis
from ledger.operations import (
    ApproveChange,
    EnrolPerson,
    Grant,
    InstitutionParty,
    Labels,
    Operation,
    Party,
    PersonParty,
    ProposeChange,
    RecordShare,
    RegisterRecord,
    ReportMisbehaviour,
    Revoke,
)
from ledger.receipts import DID_NOT_RUN, ReceiptCode
from ledger.standing import proposal_id
from ledger.state import grant_id, person_id, record_id
from ledger.store import WriteBlock
from ledger.transactions import (
    NONCE_BYTES,
    TransactionBody,
    sign_transaction,
    transaction_id,
)
from primitives.codec import encode
from primitives.keys import SEED_BYTES, PrivateKey
from simulations.scenario import GENESIS_MS

LABELS = Labels("imaging", "normal", "CN-GD", "ward-1", "original")
PURPOSE = "TREAT"
LIFE_MS = 3_600_000
TYPES = ("tertiary_hospital", "health_authority", "research_institute")
"""An institution type of each class."""


@dataclass(slots=True)
class Pending:
    """A transaction on its way, from its client's point of view."""

    id: bytes
    raw: bytes
    body: TransactionBody
    submitted_ms: int
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A receipt that a client has seen, and when and where."""

    height: int
    index: int
    code: int
    latency_ms: int


@dataclass(slots=True)
class _Known:
    """What receipts have told the clients."""

    persons: list[PrivateKey] = field(default_factory=list)
    records: list[tuple[str, RegisterRecord]] = field(default_factory=list)
    grants: list[tuple[bytes, PrivateKey, Grant]] = field(default_factory=list)
    revoked: list[tuple[bytes, PrivateKey, Grant]] = field(default_factory=list)
    proposals: list[tuple[bytes, list[str]]] = field(default_factory=list)
    """Ids of proposed changes of the membership, and who has been asked to approve each."""


class Workload:
    """All clients of a run."""

    def __init__(
        self,
        genesis: Genesis,
        keys: dict[str, PrivateKey],
        chance: random.Random,
        politics: float = 0.0,
    ) -> None:
        """`politics` is the share of transactions that propose or approve changes of members."""
        self._genesis = genesis
        self._keys = keys
        self._politics = politics
        self._authors = {key.public: id for id, key in keys.items()}
        self.new_keys: dict[bytes, PrivateKey] = {}
        """Keys that rotations were proposed to, by public key."""
        self._chance = chance
        self._known = _Known()
        self._effects: dict[bytes, Callable[[], None]] = {}
        self._raws: list[bytes] = []
        self.pending: dict[bytes, Pending] = {}
        self.acknowledged: dict[bytes, Acknowledged] = {}
        self.expired = 0
        self.kinds: dict[str, int] = {}

    # ---- making transactions ---------------------------------------------------------------------

    def make(self, now: int, height: int) -> Pending:
        """One more transaction. `height` is that of the node it will go to."""
        known = self._known
        acts: list[Callable[[], tuple[PrivateKey, list[Operation]]]] = [self._enrol, self._register]
        if known.records:
            acts += [self._grant] * 3 + [self._share_without_grant]
        if known.grants:
            acts += [self._share] * 4 + [self._revoke, self._share_wrongly]
        if known.revoked:
            acts += [self._share_revoked, self._revoke_again]
        if self._politics and self._chance.random() < self._politics:
            acts = [self._approve] * 6 * bool(known.proposals) + [partial(self._propose, height)]
        act = self._chance.choice(acts)
        if not known.persons and not self._politics:
            act = self._enrol
        self._count(getattr(act, "__name__", "_propose").removeprefix("_"))
        key, operations = act()
        return self._sign(now, height, key, operations)

    def make_bad(self) -> bytes:
        """Bytes that no node may accept."""
        self._count("not_a_transaction")
        if not self._raws or self._chance.random() < 0.3:
            return self._chance.randbytes(self._chance.randint(0, 300))
        damaged = bytearray(self._chance.choice(self._raws))
        damaged[self._chance.randrange(len(damaged))] ^= 0x10
        return bytes(damaged)

    def make_again(self) -> bytes | None:
        """Bytes that were submitted before."""
        self._count("again")
        return self._chance.choice(self._raws) if self._raws else None

    def _count(self, name: str) -> None:
        self.kinds[name] = self.kinds.get(name, 0) + 1

    def _sign(
        self, now: int, height: int, key: PrivateKey, operations: Sequence[Operation]
    ) -> Pending:
        window = self._genesis.limits.replay_window_blocks
        hasty = self._chance.random() < 0.1
        body = TransactionBody(
            author=key.public,
            valid_until_height=height + (self._chance.randint(1, 5) if hasty else window),
            valid_until_ms=GENESIS_MS + now + (2_000 if hasty else LIFE_MS),
            nonce=self._chance.randbytes(NONCE_BYTES),
            operations=tuple(operations),
        )
        raw = sign_transaction(self._genesis.chain_id, key, body)
        identity = transaction_id(self._genesis.chain_id, encode(body))
        pending = self.pending[identity] = Pending(identity, raw, body, now)
        self._effects[identity] = lambda: self._learn(identity, key, operations)
        self._raws.append(raw)
        return pending

    def _institution(self) -> tuple[str, PrivateKey]:
        id = self._chance.choice(list(self._keys))
        return id, self._keys[id]

    def _party(self) -> Party:
        if self._known.persons and self._chance.random() < 0.5:
            return PersonParty(person_id(self._chance.choice(self._known.persons).public))
        return InstitutionParty(self._institution()[0])

    def _enrol(self) -> tuple[PrivateKey, list[Operation]]:
        fresh = [PrivateKey(self._chance.randbytes(SEED_BYTES)) for _ in range(2)]
        kind = self._chance.choice(("patient", "researcher", "patient", "wizard"))
        operations: list[Operation] = [EnrolPerson(fresh[0].public, "patient")]
        if self._chance.random() < 0.5:
            operations.append(EnrolPerson(fresh[1].public, kind))
        if self._known.persons and self._chance.random() < 0.1:
            operations.append(EnrolPerson(self._known.persons[0].public, "patient"))
        for key in fresh:
            self._effects[key.public] = partial(self._known.persons.append, key)
        return self._institution()[1], operations

    def _register(self) -> tuple[PrivateKey, list[Operation]]:
        operations: list[Operation] = []
        for _ in range(self._chance.choice((1, 1, 2, 5))):
            commitment = self._chance.randbytes(32)
            if self._known.records and self._chance.random() < 0.1:
                commitment = self._chance.choice(self._known.records)[1].commitment
            person = self._chance.choice([*self._known.persons, None])
            subject = None if person is None else person_id(person.public)
            operations.append(RegisterRecord(commitment, LABELS, subject))
        return self._institution()[1], operations

    def _decider(self, custodian: str, record: RegisterRecord) -> PrivateKey:
        """Whoever may consent to the sharing of a record."""
        owners = [p for p in self._known.persons if person_id(p.public) == record.subject]
        return owners[0] if owners else self._keys[custodian]

    def _grant(self) -> tuple[PrivateKey, list[Operation]]:
        custodian, record = self._chance.choice(self._known.records)
        key = self._decider(custodian, record)
        if self._chance.random() < 0.1:
            key = self._institution()[1]
        records: tuple[bytes, ...] = (record_id(custodian, record.commitment),)
        if self._chance.random() < 0.2:
            records = ()
        expires = self._chance.choice((0, 0, 1, GENESIS_MS + 8_000, GENESIS_MS + LIFE_MS))
        return key, [Grant(self._party(), records, PURPOSE, expires)]

    def _revoke(self) -> tuple[PrivateKey, list[Operation]]:
        grant, key, _ = self._chance.choice(self._known.grants)
        return (self._institution()[1] if self._chance.random() < 0.1 else key), [Revoke(grant)]

    def _revoke_again(self) -> tuple[PrivateKey, list[Operation]]:
        grant, key, _ = self._chance.choice(self._known.revoked)
        return key, [Revoke(grant)]

    def _share_of(self, granted: tuple[bytes, PrivateKey, Grant]) -> tuple[str, RecordShare]:
        grant, key, terms = granted
        fitting = [
            (custodian, record)
            for custodian, record in self._known.records
            if record_id(custodian, record.commitment) in terms.records
            or (not terms.records and record.subject == person_id(key.public))
        ]
        custodian, record = self._chance.choice(fitting or self._known.records)
        name = record_id(custodian, record.commitment)
        return custodian, RecordShare(name, terms.grantee, grant, record.commitment, terms.purpose)

    def _share(self) -> tuple[PrivateKey, list[Operation]]:
        custodian, share = self._share_of(self._chance.choice(self._known.grants))
        return self._keys[custodian], [share]

    def _share_revoked(self) -> tuple[PrivateKey, list[Operation]]:
        custodian, share = self._share_of(self._chance.choice(self._known.revoked))
        return self._keys[custodian], [share]

    def _share_without_grant(self) -> tuple[PrivateKey, list[Operation]]:
        custodian, record = self._chance.choice(self._known.records)
        name = record_id(custodian, record.commitment)
        grant = self._chance.randbytes(32)
        share = RecordShare(name, self._party(), grant, record.commitment, PURPOSE)
        return self._keys[custodian], [share]

    def _share_wrongly(self) -> tuple[PrivateKey, list[Operation]]:
        custodian, right = self._share_of(self._chance.choice(self._known.grants))
        record, requester, grant, commitment, purpose = (
            right.record,
            right.requester,
            right.grant,
            right.commitment,
            right.purpose,
        )
        wrong = self._chance.choice(
            (
                RecordShare(self._chance.randbytes(32), requester, grant, commitment, purpose),
                RecordShare(record, self._party(), grant, commitment, purpose),
                RecordShare(record, requester, grant, self._chance.randbytes(32), purpose),
                RecordShare(record, requester, grant, commitment, "HRESCH"),
                RecordShare(record, requester, grant, commitment, "CURIOSITY"),
                right,
            )
        )
        key = self._institution()[1] if wrong is right else self._keys[custodian]
        return key, [wrong]

    def _propose(self, height: int) -> tuple[PrivateKey, list[Operation]]:
        """A change of the membership that takes effect soon, or that cannot."""
        key = self._institution()[1]
        other = self._institution()[0]
        change: Change
        match self._chance.randrange(4):
            case 0:
                change = Relocate(other, f"{other}.example:{self._chance.randint(1_024, 9_000)}")
            case 1:
                new = PrivateKey(self._chance.randbytes(SEED_BYTES))
                self.new_keys[new.public] = new
                member = next(one for one in self._genesis.institutions if one.id == other)
                held = possession_digest(self._genesis.chain_id, replace(member, key=new.public))
                change = RotateKey(other, new.public, new.sign(held))
            case _:
                change = ChangeType(other, self._chance.choice(TYPES))
        return key, [ProposeChange(change, height + self._chance.randint(3, 9))]

    def _approve(self) -> tuple[PrivateKey, list[Operation]]:
        """The approval of a member that has not been asked yet; any member's, at last."""
        proposal, asked = self._chance.choice(self._known.proposals[-2:])
        waiting = [id for id in self._keys if id not in asked]
        id = self._chance.choice(waiting or list(self._keys))
        asked.append(id)
        return self._keys[id], [ApproveChange(proposal)]

    def take_key(self, id: str, key: PrivateKey) -> None:
        """A member's node key has been replaced."""
        self._keys[id] = key
        self._authors[key.public] = id

    # ---- receipts --------------------------------------------------------------------------------

    def see(self, written: WriteBlock, now: int) -> None:
        """A correct node has told its clients of a block."""
        height = written.decision.block.header.height
        for index, receipt in enumerate(written.receipts):
            if receipt.code in [int(code) for code in DID_NOT_RUN]:
                continue
            pending = self.pending.get(receipt.transaction)
            if pending is None or receipt.transaction in self.acknowledged:
                continue
            pending.settled = True
            latency = now - pending.submitted_ms
            self.acknowledged[receipt.transaction] = Acknowledged(
                height, index, receipt.code, latency
            )
            if receipt.code == ReceiptCode.OK:
                self._effects[receipt.transaction]()

    def expire(self, height: int, time_ms: int) -> None:
        """No block above one of this height and time can run what had to run before it."""
        for pending in self.unsettled():
            body = pending.body
            if body.valid_until_height <= height or body.valid_until_ms <= time_ms:
                pending.settled = True
                self.expired += 1

    def unsettled(self) -> list[Pending]:
        """Transactions that are owed a receipt, oldest first."""
        return [pending for pending in self.pending.values() if not pending.settled]

    def _learn(self, identity: bytes, key: PrivateKey, operations: Sequence[Operation]) -> None:
        known = self._known
        for index, operation in enumerate(operations):
            match operation:
                case EnrolPerson(person):
                    effect = self._effects.get(person)
                    if effect is not None:
                        effect()
                case RegisterRecord():
                    known.records.append((self._authors[key.public], operation))
                case Grant():
                    known.grants.append((grant_id(identity, index), key, operation))
                case Revoke(grant):
                    ended = [entry for entry in known.grants if entry[0] == grant]
                    known.revoked += ended
                    known.grants = [entry for entry in known.grants if entry[0] != grant]
                case ProposeChange():
                    known.proposals.append((proposal_id(identity, index), []))
                case RecordShare() | ReportMisbehaviour() | ApproveChange():
                    pass
