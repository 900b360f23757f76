"""What the ledger must say, worked out again from the meaning of the operations alone.

Written apart from the ledger's own rules, over plain dictionaries and in the simplest way that is
right, so that a mistake in one is not a mistake in the other. It runs a decided chain from genesis
and tells the receipt of every transaction.
"""

from dataclasses import dataclass, field

from ledger.genesis import Genesis
from ledger.operations import (
    PERSON_KINDS,
    PURPOSES,
    ApproveChange,
    EnrolPerson,
    Grant,
    InstitutionParty,
    Operation,
    Party,
    PersonParty,
    ProposeChange,
    RecordShare,
    RegisterRecord,
    ReportMisbehaviour,
    Revoke,
)
from ledger.receipts import ReceiptCode
from ledger.state import grant_id, person_id, record_id
from ledger.transactions import CheckedTransaction
from simulations.governance import Government


@dataclass(slots=True)
class _Consent:
    by: Party
    terms: Grant
    revoked_height: int = 0


@dataclass(slots=True)
class _Facts:
    persons: dict[bytes, bytes] = field(default_factory=dict)
    """Person ids by key."""
    records: dict[bytes, tuple[str, RegisterRecord]] = field(default_factory=dict)
    consents: dict[bytes, _Consent] = field(default_factory=dict)

    def copy(self) -> "_Facts":
        consents = {
            name: _Consent(consent.by, consent.terms, consent.revoked_height)
            for name, consent in self.consents.items()
        }
        return _Facts(dict(self.persons), dict(self.records), consents)


class Model:
    """Facts after the blocks run so far."""

    def __init__(self, genesis: Genesis) -> None:
        self.government = Government.found(genesis)
        self._window = genesis.limits.replay_window_blocks
        self._facts = _Facts()
        self._ran: dict[bytes, int] = {}

    def run(self, height: int, time_ms: int, transaction: CheckedTransaction) -> tuple[int, int]:
        """The code and operation index that the receipt of this transaction must have here."""
        body = transaction.body
        if body.valid_until_height < height or body.valid_until_ms < time_ms:
            return ReceiptCode.EXPIRED, 0
        if body.valid_until_height - height > self._window:
            return ReceiptCode.TOO_FAR_AHEAD, 0
        if transaction.id in self._ran:
            return ReceiptCode.REPLAYED, 0
        self._ran[transaction.id] = height
        author = self._party(body.author)
        if author is None:
            return ReceiptCode.UNKNOWN_AUTHOR, 0
        before = self._facts.copy(), self.government.copy()
        for index, operation in enumerate(body.operations):
            code = self._operate(height, time_ms, transaction.id, index, author, operation)
            if code != ReceiptCode.OK:
                self._facts, self.government = before
                return code, index
        return ReceiptCode.OK, 0

    def finish(self, height: int, view: int, proposer: str) -> None:
        """The block at `height`, first proposed by `proposer` in `view`, is over."""
        self.government.persons = self._facts.persons
        self.government.finish(height, view, proposer)

    def revoked_height(self, grant: bytes) -> int:
        """The height at which a grant was revoked; 0 if it holds or never was."""
        consent = self._facts.consents.get(grant)
        return 0 if consent is None else consent.revoked_height

    def _party(self, key: bytes) -> Party | None:
        for member in self.government.members.values():
            if member.key == key:
                return InstitutionParty(member.id)
        person = self._facts.persons.get(key)
        return None if person is None else PersonParty(person)

    def _exists(self, party: Party) -> bool:
        if isinstance(party, PersonParty):
            return party.id in self._facts.persons.values()
        return party.id in self.government.ids

    def _may_consent(self, party: Party, record: bytes) -> bool:
        custodian, facts = self._facts.records[record]
        if facts.subject is None:
            return party == InstitutionParty(custodian)
        return party == PersonParty(facts.subject)

    def _operate(
        self,
        height: int,
        time_ms: int,
        transaction: bytes,
        index: int,
        author: Party,
        operation: Operation,
    ) -> ReceiptCode:
        match operation:
            case EnrolPerson(key, kind):
                return self._enrol(author, key, kind)
            case RegisterRecord():
                return self._register(author, operation)
            case Grant():
                name = grant_id(transaction, index)
                return self._consent(time_ms, name, author, operation)
            case Revoke(grant):
                return self._end(height, grant, author)
            case RecordShare():
                return self._share(time_ms, author, operation)
            case ReportMisbehaviour() | ProposeChange() | ApproveChange():
                if not isinstance(author, InstitutionParty):
                    return ReceiptCode.NOT_AN_INSTITUTION
                self.government.persons = self._facts.persons
                return self.government.run(height, transaction, index, author.id, operation)

    def _enrol(self, author: Party, key: bytes, kind: str) -> ReceiptCode:
        if not isinstance(author, InstitutionParty):
            return ReceiptCode.NOT_AN_INSTITUTION
        if kind not in PERSON_KINDS:
            return ReceiptCode.UNKNOWN_KIND
        government = self.government
        if key in government.keys or key in government.reserved or key in self._facts.persons:
            return ReceiptCode.ALREADY_ENROLLED
        self._facts.persons[key] = person_id(key)
        return ReceiptCode.OK

    def _register(self, author: Party, operation: RegisterRecord) -> ReceiptCode:
        if not isinstance(author, InstitutionParty):
            return ReceiptCode.NOT_AN_INSTITUTION
        subject = operation.subject
        if subject is not None and not self._exists(PersonParty(subject)):
            return ReceiptCode.UNKNOWN_PERSON
        name = record_id(author.id, operation.commitment)
        if name in self._facts.records:
            return ReceiptCode.ALREADY_REGISTERED
        self._facts.records[name] = (author.id, operation)
        return ReceiptCode.OK

    def _consent(self, time_ms: int, name: bytes, author: Party, terms: Grant) -> ReceiptCode:
        if terms.purpose not in PURPOSES:
            return ReceiptCode.UNKNOWN_PURPOSE
        if terms.expires_ms and terms.expires_ms <= time_ms:
            return ReceiptCode.GRANT_EXPIRED
        if not self._exists(terms.grantee):
            return ReceiptCode.UNKNOWN_PARTY
        if not terms.records and isinstance(author, InstitutionParty):
            return ReceiptCode.NOT_ENTITLED
        for record in terms.records:
            if record not in self._facts.records:
                return ReceiptCode.UNKNOWN_RECORD
            if not self._may_consent(author, record):
                return ReceiptCode.NOT_ENTITLED
        self._facts.consents[name] = _Consent(author, terms)
        return ReceiptCode.OK

    def _end(self, height: int, grant: bytes, author: Party) -> ReceiptCode:
        consent = self._facts.consents.get(grant)
        if consent is None:
            return ReceiptCode.UNKNOWN_GRANT
        if consent.by != author:
            return ReceiptCode.NOT_ENTITLED
        if consent.revoked_height:
            return ReceiptCode.ALREADY_REVOKED
        consent.revoked_height = height
        return ReceiptCode.OK

    def _share(self, time_ms: int, author: Party, share: RecordShare) -> ReceiptCode:
        if not isinstance(author, InstitutionParty):
            return ReceiptCode.NOT_AN_INSTITUTION
        if share.purpose not in PURPOSES:
            return ReceiptCode.UNKNOWN_PURPOSE
        if share.record not in self._facts.records:
            return ReceiptCode.UNKNOWN_RECORD
        custodian, facts = self._facts.records[share.record]
        if author.id != custodian:
            return ReceiptCode.NOT_CUSTODIAN
        if share.commitment != facts.commitment:
            return ReceiptCode.COMMITMENT_DIFFERS
        if not self._exists(share.requester):
            return ReceiptCode.UNKNOWN_PARTY
        consent = self._facts.consents.get(share.grant)
        if consent is None:
            return ReceiptCode.UNKNOWN_GRANT
        if consent.revoked_height:
            return ReceiptCode.GRANT_REVOKED
        if consent.terms.expires_ms and consent.terms.expires_ms <= time_ms:
            return ReceiptCode.GRANT_EXPIRED
        terms = consent.terms
        named = not terms.records or share.record in terms.records
        if (terms.grantee, terms.purpose) != (share.requester, share.purpose) or not named:
            return ReceiptCode.GRANT_NOT_COVERING
        if not self._may_consent(consent.by, share.record):
            return ReceiptCode.NOT_ENTITLED
        return ReceiptCode.OK
