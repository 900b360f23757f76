"""What each operation may do: who is entitled, what must hold, and what it changes.

Every function checks first and writes last, and returns the receipt code of the first thing that
is wrong. Writes go to an overlay that is dropped if any operation of the transaction fails.
`chains_of` says whom an operation concerns. It rests only on facts that never change once an
operation has succeeded, so that a block's entries can be worked out again at any later time.
Sections of docs/ARCHITECTURE.md are named where a rule comes from one.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from consensus.committee import Committee
from ledger.changes import Change, Join, subject_of
from ledger.genesis import Genesis
from ledger.membership import approve_change, propose_change
from ledger.misbehaviour import report_misbehaviour
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
from ledger.standing import known_proposal, owner_key, owner_of
from ledger.state import (
    ChainHead,
    GrantState,
    Overlay,
    Person,
    Record,
    StateError,
    chain_head,
    chain_key,
    chain_of,
    grant_id,
    grant_key,
    grant_state,
    institution_chain,
    new_chain,
    person_id,
    record_id,
)
from ledger.store import StateReader
from ledger.transactions import CheckedTransaction

OK = ReceiptCode.OK


class Situation(msgspec.Struct, frozen=True):
    """In which an operation runs: its block, its transaction, its author."""

    genesis: Genesis
    height: int
    time_ms: int
    committee: Committee
    """That decides this height."""
    member_ids: dict[bytes, str]
    """Institution ids by the key that the member has now."""
    transaction: bytes
    author: Party


def apply(operation: Operation, index: int, now: Situation, state: Overlay) -> ReceiptCode:
    """Run operation number `index` of a transaction; `state` is untouched unless it returns OK."""
    match operation:
        case RecordShare():
            return _record_share(operation, now, state)
        case RegisterRecord():
            return _register_record(operation, now, state)
        case Grant():
            return _grant(operation, index, now, state)
        case EnrolPerson():
            return _enrol_person(operation, now, state)
        case Revoke():
            return _revoke(operation, now, state)
        case ReportMisbehaviour():
            return report_misbehaviour(operation, now, state)
        case ProposeChange():
            return propose_change(operation, index, now, state)
        case ApproveChange():
            return approve_change(operation, now, state)
        case _:
            assert_never(operation)


def keys_asked(
    transactions: Sequence[CheckedTransaction], member_ids: Mapping[bytes, str]
) -> list[bytes]:
    """Return keys of the state that running these transactions will ask for.

    So that they are read in one go: what is left out is read when its turn comes.
    """
    keys: list[bytes] = []
    for transaction in transactions:
        body = transaction.body
        member = member_ids.get(body.author)
        if member is None:
            keys.append(chain_key(person_id(body.author)))
        for operation in body.operations:
            match operation:
                case RegisterRecord():
                    if member is not None:
                        keys.append(chain_key(record_id(member, operation.commitment)))
                    if operation.subject is not None:
                        keys.append(chain_key(operation.subject))
                case EnrolPerson():
                    keys += owner_key(operation.key), chain_key(person_id(operation.key))
                case Grant():
                    keys += map(chain_key, operation.records)
                case RecordShare():
                    keys += chain_key(operation.record), grant_key(operation.grant)
                case Revoke():
                    keys.append(grant_key(operation.grant))
                case _:
                    pass
    return keys


def chains_of(operation: Operation, author: Party, state: StateReader) -> tuple[bytes, ...]:
    """Return the ids of the chains that a successful operation belongs to, each once."""
    chains: tuple[bytes, ...]
    match operation:
        case RecordShare():
            record = operation.record
            chains = (record, chain_of(author), chain_of(operation.requester))
            subject = _known_record(state, record).subject
            if subject is not None:
                chains += (subject,)
        case RegisterRecord():
            if not isinstance(author, InstitutionParty):
                raise StateError("A record was registered by a person.")
            record, own = record_id(author.id, operation.commitment), institution_chain(author.id)
            subject = operation.subject
            # A record, an institution and a person: three kinds of id.
            return (record, own) if subject is None else (record, own, subject)
        case Grant(grantee, records):
            chains = (chain_of(author), chain_of(grantee), *records)
        case EnrolPerson(key):
            chains = (person_id(key), chain_of(author))
        case Revoke(grant):
            ended = grant_state(state, grant)
            if ended is None:
                raise StateError(f"The state has lost grant {grant.hex()}.")
            chains = (chain_of(author), chain_of(ended.grantee), *ended.records)
        case ReportMisbehaviour(evidence):
            chains = (chain_of(author), institution_chain(evidence.signer))
        case ProposeChange(change):
            chains = (chain_of(author), *_chain_changed(change))
        case ApproveChange(proposal):
            chains = (chain_of(author), *_chain_changed(known_proposal(state, proposal).change))
        case _:
            assert_never(operation)
    return tuple(dict.fromkeys(chains))


def _chain_changed(change: Change) -> tuple[bytes, ...]:
    """Return the chain of the member that a change is about; who has yet to join has none."""
    return () if isinstance(change, Join) else (institution_chain(subject_of(change)),)


def _enrol_person(operation: EnrolPerson, now: Situation, state: Overlay) -> ReceiptCode:
    """Section 6: an institution attests that a person of a kind holds a key."""
    if not isinstance(now.author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    if operation.kind not in PERSON_KINDS:
        return ReceiptCode.UNKNOWN_KIND
    person = person_id(operation.key)
    # One key is one author: no key that a member has, had or shall have can become a person's.
    if owner_of(state, operation.key) is not None or chain_head(state, person) is not None:
        return ReceiptCode.ALREADY_ENROLLED
    entity = Person(operation.key, operation.kind, now.author.id)
    state.write(chain_key(person), new_chain(entity))
    return OK


def _register_record(operation: RegisterRecord, now: Situation, state: Overlay) -> ReceiptCode:
    """Section 6: the author becomes custodian of a record that the commitment stands for."""
    author = now.author
    if not isinstance(author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    subject = operation.subject
    if subject is not None:
        head = state.read(chain_key(subject), ChainHead)
        if head is None or not isinstance(head.entity, Person):
            return ReceiptCode.UNKNOWN_PERSON
    key = chain_key(record_id(author.id, operation.commitment))
    if state.read(key, ChainHead) is not None:
        return ReceiptCode.ALREADY_REGISTERED
    entity = Record(operation.commitment, operation.labels, author.id, subject)
    state.write(key, new_chain(entity))
    return OK


def _grant(operation: Grant, index: int, now: Situation, state: Overlay) -> ReceiptCode:
    """Section 6: whoever decides about the records allows a party to receive them."""
    if operation.purpose not in PURPOSES:
        return ReceiptCode.UNKNOWN_PURPOSE
    if _is_over(operation.expires_ms, now.time_ms):
        return ReceiptCode.GRANT_EXPIRED
    if not _is_party(state, operation.grantee):
        return ReceiptCode.UNKNOWN_PARTY
    # "All records of the subject" means something only if the author is a person.
    if not operation.records and not isinstance(now.author, PersonParty):
        return ReceiptCode.NOT_ENTITLED
    for name in operation.records:
        record = _find_record(state, name)
        if record is None:
            return ReceiptCode.UNKNOWN_RECORD
        if not _decides(now.author, record):
            return ReceiptCode.NOT_ENTITLED
    value = GrantState(
        grantor=now.author,
        grantee=operation.grantee,
        records=operation.records,
        purpose=operation.purpose,
        expires_ms=operation.expires_ms,
        revoked_height=0,
    )
    state.write(grant_key(grant_id(now.transaction, index)), value)
    return OK


def _revoke(operation: Revoke, now: Situation, state: Overlay) -> ReceiptCode:
    """Section 6: the grantor, and nobody else, ends a grant, once."""
    grant = grant_state(state, operation.grant)
    if grant is None:
        return ReceiptCode.UNKNOWN_GRANT
    if grant.grantor != now.author:
        return ReceiptCode.NOT_ENTITLED
    if grant.revoked_height:
        return ReceiptCode.ALREADY_REVOKED
    value = GrantState(
        grantor=grant.grantor,
        grantee=grant.grantee,
        records=grant.records,
        purpose=grant.purpose,
        expires_ms=grant.expires_ms,
        revoked_height=now.height,
    )
    state.write(grant_key(operation.grant), value)
    return OK


def _record_share(operation: RecordShare, now: Situation, state: Overlay) -> ReceiptCode:
    """Section 6: the custodian notes that a record went to a party under a grant that holds now."""
    if not isinstance(now.author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    if operation.purpose not in PURPOSES:
        return ReceiptCode.UNKNOWN_PURPOSE
    record = _find_record(state, operation.record)
    if record is None:
        return ReceiptCode.UNKNOWN_RECORD
    if record.custodian != now.author.id:
        return ReceiptCode.NOT_CUSTODIAN
    if record.commitment != operation.commitment:
        return ReceiptCode.COMMITMENT_DIFFERS
    if not _is_party(state, operation.requester):
        return ReceiptCode.UNKNOWN_PARTY
    grant = grant_state(state, operation.grant)
    if grant is None:
        return ReceiptCode.UNKNOWN_GRANT
    if grant.revoked_height:
        return ReceiptCode.GRANT_REVOKED
    if _is_over(grant.expires_ms, now.time_ms):
        return ReceiptCode.GRANT_EXPIRED
    if (
        grant.grantee != operation.requester
        or grant.purpose != operation.purpose
        or (grant.records and operation.record not in grant.records)
    ):
        return ReceiptCode.GRANT_NOT_COVERING
    # A grant for all records covers those of the grantor, whoever registered them and when.
    if not _decides(grant.grantor, record):
        return ReceiptCode.NOT_ENTITLED
    return OK


def _decides(party: Party, record: Record) -> bool:
    """Tell whether `party` decides who may receive `record`: its subject, else its custodian."""
    if record.subject is not None:
        return isinstance(party, PersonParty) and party.id == record.subject
    return isinstance(party, InstitutionParty) and party.id == record.custodian


def _is_over(expires_ms: int, time_ms: int) -> bool:
    return 0 < expires_ms <= time_ms


def _find_record(state: StateReader, record: bytes) -> Record | None:
    head = chain_head(state, record)
    return head.entity if head is not None and isinstance(head.entity, Record) else None


def _known_record(state: StateReader, record: bytes) -> Record:
    found = _find_record(state, record)
    if found is None:
        raise StateError(f"The state has lost record {record.hex()}.")
    return found


def _is_person(state: StateReader, person: bytes) -> bool:
    head = chain_head(state, person)
    return head is not None and isinstance(head.entity, Person)


def _is_party(state: StateReader, party: Party) -> bool:
    if isinstance(party, PersonParty):
        return _is_person(state, party.id)
    return chain_head(state, institution_chain(party.id)) is not None
