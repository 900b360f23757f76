"""Methods that read: node, blocks, transactions, records, persons, grants and their histories."""

from typing import Annotated, Final

import msgspec

from ledger.execution import payload_batches
from ledger.state import (
    GrantState,
    Person,
    Record,
    StateError,
    grant_state,
    institution_chain,
    members,
)
from ledger.state import chain_head as state_chain_head
from node.jsonrpc import ErrorCode, RpcError
from node.methods.backend import NodeStatus, Reader
from node.methods.blocks import BlockContent, receipts_of
from node.methods.service import Service
from node.methods.view import View
from node.methods.views import (
    HeaderView,
    Hex32,
    HistoryEntry,
    InstitutionView,
    LabelsView,
    Natural,
    Params,
    PartyView,
    TransactionView,
    code_name,
    header_view,
    institution_view,
    labels_view,
    party_view,
)
from primitives.block import BlockHeader

HISTORY_ENTRIES_MAX: Final = 1_000
HISTORY_BLOCKS_MAX: Final = 200
HISTORY_SCAN_MAX: Final = 20_000
"""Operations that one call looks through; the answer then says where to go on."""


class NoParams(Params, frozen=True):
    """No parameters."""


class BlockGet(Params, frozen=True):
    """A block by height or by hash: give one of the two."""

    height: Natural | None = None
    hash: Hex32 | None = None


class ById(Params, frozen=True):
    """An id of 32 bytes in hex."""

    id: Hex32


class HistoryGet(Params, frozen=True):
    """Entries in blocks above a height, oldest first; whole blocks until `limit` entries are
    reached.
    """

    id: Hex32
    above: Natural = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=HISTORY_ENTRIES_MAX)] = 100


class InstitutionHistoryGet(Params, frozen=True):
    """As for a record, by institution id."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    above: Natural = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=HISTORY_ENTRIES_MAX)] = 100


class ListedTransaction(View, frozen=True):
    """A transaction in the list of a block."""

    id: str
    code: int
    name: str


class BlockView(View, frozen=True):
    """A block: its header, who committed it, and what it lists."""

    header: HeaderView
    committed_view: int | None
    """The view of its commit certificate; null for genesis."""
    signers: tuple[str, ...]
    batches: tuple[str, ...]
    transactions: tuple[ListedTransaction, ...]


class RecordView(View, frozen=True):
    """A registered record. `entries` counts the operations that concern it."""

    id: str
    commitment: str
    labels: LabelsView
    custodian: str
    subject: str | None
    entries: int


class PersonView(View, frozen=True):
    """An enrolled person. `entries` counts the operations that concern them."""

    id: str
    key: str
    kind: str
    attested_by: str
    entries: int


class GrantView(View, frozen=True):
    """A grant; `state` is valid, revoked or expired at the time of the head."""

    id: str
    state: str
    grantor: PartyView
    grantee: PartyView
    purpose: str
    records: tuple[str, ...]
    """Empty: all records that the grantor decides about."""
    expires_ms: int
    """0: never."""
    revoked_height: int | None


class HistoryView(View, frozen=True):
    """Entries, oldest first. Unless `next_above` is null there are more: ask again with it as
    `above`.
    """

    entries: tuple[HistoryEntry, ...]
    next_above: int | None
    head_height: int


class InstitutionsView(View, frozen=True):
    """The members of the ledger, sorted by id."""

    institutions: tuple[InstitutionView, ...]


class GenesisView(View, frozen=True):
    """The genesis file as it is, and its digest."""

    chain_id: str
    toml: str


async def node_status(service: Service, _: NoParams) -> NodeStatus:
    """How the node is doing: head, peers, pending work, whether it is syncing."""
    return service.backend.status()


async def chain_head(service: Service, _: NoParams) -> HeaderView:
    """The header of the newest block."""
    return header_view(await service.read(_head))


async def block_get(service: Service, params: BlockGet) -> BlockView:
    """A block by height or hash, with the ids and codes of its transactions."""
    if (params.height is None) == (params.hash is None):
        raise RpcError(ErrorCode.INVALID_PARAMS, "Give either the block's height or its hash.")
    return await service.read(_block, params)


async def transaction_get(service: Service, params: ById) -> TransactionView:
    """A transaction that has run: where, with which outcome, and what it says."""
    return await service.read(_transaction, bytes.fromhex(params.id))


async def record_get(service: Service, params: ById) -> RecordView:
    """A registered record as it is now."""
    return await service.read(_record, bytes.fromhex(params.id))


async def person_get(service: Service, params: ById) -> PersonView:
    """An enrolled person as they are now."""
    return await service.read(_person, bytes.fromhex(params.id))


async def grant_get(service: Service, params: ById) -> GrantView:
    """A grant as it is now."""
    return await service.read(_grant, bytes.fromhex(params.id))


async def record_history(service: Service, params: HistoryGet) -> HistoryView:
    """All that happened to a record: its registration, grants that name it, revocations, shares."""
    record = bytes.fromhex(params.id)
    await service.read(_record, record)
    return await service.read(_history, record, params.above, params.limit)


async def person_history(service: Service, params: HistoryGet) -> HistoryView:
    """All that concerns a person: enrolment, their records, what they granted and were granted,
    shares.
    """
    person = bytes.fromhex(params.id)
    await service.read(_person, person)
    return await service.read(_history, person, params.above, params.limit)


async def institution_history(service: Service, params: InstitutionHistoryGet) -> HistoryView:
    """All that an institution did and that was granted to or shared with it."""
    if params.id not in [i.id for i in await service.read(members)]:
        raise RpcError(ErrorCode.NOT_FOUND, f"No member has the id {params.id!a}.")
    return await service.read(_history, institution_chain(params.id), params.above, params.limit)


async def institution_list(service: Service, _: NoParams) -> InstitutionsView:
    """The members of the ledger now, with their classes and keys."""
    classes = service.backend.genesis.classes
    found = await service.read(members)
    return InstitutionsView(tuple(institution_view(i, classes[i.type].value) for i in found))


async def genesis_get(service: Service, _: NoParams) -> GenesisView:
    """The genesis file, whose digest is the chain id."""
    genesis = service.backend.genesis
    return GenesisView(genesis.chain_id.hex(), genesis.raw.decode())


def head_height(reader: Reader) -> int:
    """The height of the newest block."""
    height = reader.head_height()
    if height is None:
        raise StateError("The store is empty.")
    return height


def _head(reader: Reader) -> BlockHeader:
    header = reader.header(head_height(reader))
    if header is None:
        raise StateError("The store has lost its newest block.")
    return header


def _block(reader: Reader, params: BlockGet) -> BlockView:
    height = params.height
    if params.hash is not None:
        height = reader.height_of(bytes.fromhex(params.hash))
    header = None if height is None else reader.header(height)
    if height is None or header is None:
        raise RpcError(
            ErrorCode.NOT_FOUND,
            f"This node has no such block; its head is at height {head_height(reader)}.",
        )
    decision = reader.decision(height)
    receipts = receipts_of(reader, height)
    signatures = () if decision is None else decision.certificate.signatures
    batches = () if decision is None else payload_batches(decision.block.payload)
    return BlockView(
        header=header_view(header),
        committed_view=None if decision is None else decision.certificate.view,
        signers=tuple(signature.signer for signature in signatures),
        batches=tuple(batch_id.hex() for batch_id in batches),
        transactions=tuple(
            ListedTransaction(r.transaction.hex(), r.code, code_name(r.code)) for r in receipts
        ),
    )


def _transaction(reader: Reader, identity: bytes) -> TransactionView:
    position = reader.transaction_position(identity)
    if position is None:
        raise RpcError(
            ErrorCode.NOT_FOUND,
            "No block of this node has executed this transaction. If it was submitted, it waits or "
            "has expired: call transaction_wait, or submit it again.",
        )
    height, index = position
    content = BlockContent(reader, height)
    transaction = content.transaction(index)
    if transaction.id != identity:
        raise StateError(f"The index says that {identity.hex()} is where another ran.")
    return content.view(index, transaction)


def _record(reader: Reader, record: bytes) -> RecordView:
    head = state_chain_head(reader, record)
    if head is None or not isinstance(head.entity, Record):
        raise RpcError(ErrorCode.NOT_FOUND, "No record with this id is registered.")
    entity = head.entity
    return RecordView(
        id=record.hex(),
        commitment=entity.commitment.hex(),
        labels=labels_view(entity.labels),
        custodian=entity.custodian,
        subject=None if entity.subject is None else entity.subject.hex(),
        entries=head.count,
    )


def _person(reader: Reader, person: bytes) -> PersonView:
    head = state_chain_head(reader, person)
    if head is None or not isinstance(head.entity, Person):
        raise RpcError(ErrorCode.NOT_FOUND, "No person with this id is enrolled.")
    entity = head.entity
    return PersonView(person.hex(), entity.key.hex(), entity.kind, entity.attested_by, head.count)


def _grant(reader: Reader, grant: bytes) -> GrantView:
    found = grant_state(reader, grant)
    if found is None:
        raise RpcError(ErrorCode.NOT_FOUND, "There is no grant with this id.")
    return GrantView(
        id=grant.hex(),
        state=_state_of(found, _head(reader).time_ms),
        grantor=party_view(found.grantor),
        grantee=party_view(found.grantee),
        purpose=found.purpose,
        records=tuple(record.hex() for record in found.records),
        expires_ms=found.expires_ms,
        revoked_height=found.revoked_height or None,
    )


def _state_of(grant: GrantState, time_ms: int) -> str:
    if grant.revoked_height:
        return "revoked"
    return "expired" if 0 < grant.expires_ms <= time_ms else "valid"


def _history(reader: Reader, chain: bytes, above: int, limit: int) -> HistoryView:
    heights = reader.chain_heights(chain, above, HISTORY_BLOCKS_MAX + 1)
    entries: list[HistoryEntry] = []
    scanned = 0
    last = above
    for height in heights[:HISTORY_BLOCKS_MAX]:
        if len(entries) >= limit or scanned >= HISTORY_SCAN_MAX:
            break
        content = BlockContent(reader, height)
        entries += content.entries(chain)
        scanned += content.operations_read
        last = height
    more = bool(heights) and last != heights[-1]
    return HistoryView(tuple(entries), last if more else None, head_height(reader))
