"""How evidence and changes of the membership look to an app."""

from typing import assert_never

from consensus.evidence import Evidence, Statement, VoteStatement, evidence_id
from consensus.messages import Phase
from ledger.changes import (
    Change,
    ChangeType,
    Join,
    Leave,
    Reinstate,
    Relocate,
    RotateKey,
)
from ledger.operations import ApproveChange, ProposeChange, ReportMisbehaviour
from ledger.standing import proposal_id
from node.methods.view import View
from primitives.institution import Institution


class StatementView(View, frozen=True):
    """One of two contradictory statements; without `block_hash` a VIEW-CHANGE that claims none."""

    phase: str
    view: int
    signature: str
    block_hash: str | None = None
    """Of the block voted for, or of the block that a VIEW-CHANGE says was prepared."""
    prepared_view: int | None = None
    """In which view a VIEW-CHANGE says that it was prepared."""


class EvidenceView(View, frozen=True):
    """Two statements that no correct voter signs both."""

    evidence: str
    """The id, hex."""
    signer: str
    height: int
    first: StatementView
    second: StatementView


class ChangeView(View, frozen=True):
    """A change of the membership; what does not apply to its kind is left out."""

    kind: str
    institution: str
    name: str | None = None
    type: str | None = None
    region: str | None = None
    lei: str | None = None
    key: str | None = None
    address: str | None = None


class MisbehaviourReported(View, frozen=True, tag_field="operation", tag="report_misbehaviour"):
    """A member showed that a voter contradicted itself."""

    evidence: EvidenceView


class ChangeProposed(View, frozen=True, tag_field="operation", tag="propose_change"):
    """A member proposed a change of the membership."""

    proposal: str
    change: ChangeView
    effective_height: int


class ChangeApproved(View, frozen=True, tag_field="operation", tag="approve_change"):
    """A voter approved a proposed change."""

    proposal: str


GoverningView = MisbehaviourReported | ChangeProposed | ChangeApproved


def governing_view(
    operation: ReportMisbehaviour | ProposeChange | ApproveChange, transaction: bytes, index: int
) -> GoverningView:
    """Operation number `index` of a transaction."""
    match operation:
        case ReportMisbehaviour(evidence):
            return MisbehaviourReported(evidence_view(evidence))
        case ProposeChange(change, effective_height):
            proposal = proposal_id(transaction, index).hex()
            return ChangeProposed(proposal, change_view(change), effective_height)
        case ApproveChange(proposal):
            return ChangeApproved(proposal.hex())
        case _:
            assert_never(operation)


def evidence_view(evidence: Evidence) -> EvidenceView:
    """Evidence with its id."""
    return EvidenceView(
        evidence=evidence_id(evidence).hex(),
        signer=evidence.signer,
        height=evidence.height,
        first=_statement_view(evidence.first),
        second=_statement_view(evidence.second),
    )


def change_view(change: Change) -> ChangeView:
    """A change by the name that `medpact member propose` has for it."""
    match change:
        case Join(institution):
            return _joining(institution)
        case Leave(id):
            return ChangeView("leave", id)
        case ChangeType(id, kind):
            return ChangeView("change-type", id, type=kind)
        case RotateKey(id, key):
            return ChangeView("rotate-key", id, key=key.hex())
        case Relocate(id, address):
            return ChangeView("relocate", id, address=address)
        case Reinstate(id):
            return ChangeView("reinstate", id)
        case _:
            assert_never(change)


def _joining(institution: Institution) -> ChangeView:
    return ChangeView(
        "join",
        institution.id,
        name=institution.name,
        type=institution.type,
        region=institution.region,
        lei=institution.lei,
        key=institution.key.hex(),
        address=institution.address,
    )


def _statement_view(statement: Statement) -> StatementView:
    signature = statement.signature.hex()
    if isinstance(statement, VoteStatement):
        name = Phase(statement.phase).name.replace("_", "-")
        return StatementView(name, statement.view, signature, statement.block_hash.hex())
    claim = statement.prepared
    return StatementView(
        "VIEW-CHANGE",
        statement.view,
        signature,
        None if claim is None else claim.block_hash.hex(),
        None if claim is None else claim.view,
    )
