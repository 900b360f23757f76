"""Methods about evidence: which voters contradicted themselves, and the proof of it."""

from typing import Annotated, Final

import msgspec

from ledger.standing import EvidenceRecord, evidence_record, standing_of
from ledger.state import StateError
from node.jsonrpc import ErrorCode, RpcError
from node.methods.backend import Reader
from node.methods.governance_views import EvidenceView, evidence_view
from node.methods.reads import ById
from node.methods.service import Service
from node.methods.view import View
from node.methods.views import Params

EVIDENCE_SHOWN_MAX: Final = 200


class EvidenceList(Params, frozen=True):
    """The newest evidence."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=EVIDENCE_SHOWN_MAX)] = 50


class HeardView(View, frozen=True):
    """Evidence that the ledger has heard."""

    evidence: EvidenceView
    reporter: str
    height: int
    """Of the block that heard it."""
    transaction: str
    """That reported it: its proof file is the evidence, for anyone to check offline."""
    suspended: bool
    """Whether the signer lost its vote by it; not where its class would have been left empty."""


class EvidenceListView(View, frozen=True):
    """Evidence, newest first."""

    evidence: tuple[HeardView, ...]


async def evidence_list(service: Service, params: EvidenceList) -> EvidenceListView:
    """Evidence against voters that the ledger has heard."""
    return await service.read(_list, params.limit)


async def evidence_get(service: Service, params: ById) -> HeardView:
    """One piece of evidence, with both statements."""
    return await service.read(_get, bytes.fromhex(params.id))


def _list(reader: Reader, limit: int) -> EvidenceListView:
    found: list[HeardView] = []
    with reader.snapshot():
        id = standing_of(reader).latest_evidence
        while id is not None and len(found) < limit:
            record = evidence_record(reader, id)
            if record is None:
                raise StateError(f"The state has lost evidence {id.hex()}.")
            found.append(_view(record))
            id = record.previous
    return EvidenceListView(tuple(found))


def _get(reader: Reader, id: bytes) -> HeardView:
    record = evidence_record(reader, id)
    if record is None:
        raise RpcError(ErrorCode.NOT_FOUND, f"The ledger has heard no evidence {id.hex()}.")
    return _view(record)


def _view(record: EvidenceRecord) -> HeardView:
    return HeardView(
        evidence=evidence_view(record.evidence),
        reporter=record.reporter,
        height=record.height,
        transaction=record.transaction.hex(),
        suspended=record.suspended,
    )
