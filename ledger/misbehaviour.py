"""Evidence on the ledger: who contradicted itself is heard, and loses its vote.

docs/ARCHITECTURE.md section 4. The offender does not count from the next height on: its class has
one member less, and f(n - 1) >= f(n) - 1, so a class that was within its bound still is. It stays a
member: its clients may submit, it can catch up, and a vote of every class can reinstate it.
"""

from typing import TYPE_CHECKING

import msgspec

from consensus.evidence import EvidenceError, check_evidence, evidence_id
from ledger.committee import voters_of
from ledger.operations import InstitutionParty, ReportMisbehaviour
from ledger.receipts import ReceiptCode
from ledger.standing import (
    STANDING_KEY,
    EvidenceRecord,
    Offence,
    evidence_key,
    offence_of,
    standing_of,
    suspended_in,
    with_offence,
)
from ledger.state import Overlay, members

if TYPE_CHECKING:
    from ledger.rules import Situation


def report_misbehaviour(
    operation: ReportMisbehaviour, now: "Situation", state: Overlay
) -> ReceiptCode:
    """Section 4: a member shows that a voter contradicted itself; the voter is suspended."""
    if not isinstance(now.author, InstitutionParty):
        return ReceiptCode.NOT_AN_INSTITUTION
    evidence = operation.evidence
    offender = next((each for each in members(state) if each.id == evidence.signer), None)
    if offender is None:
        return ReceiptCode.UNKNOWN_MEMBER
    standing = standing_of(state)
    before = offence_of(standing, offender.id)
    oldest = max(now.height - now.genesis.evidence_heights_max, 1)
    if before is not None:
        oldest = max(oldest, before.forgiven_height + 1)
    # Nobody has signed anything for a height above the one that is being decided.
    if not oldest <= evidence.height <= now.height:
        return ReceiptCode.EVIDENCE_TOO_OLD
    if before is not None and before.evidence is not None:
        return ReceiptCode.ALREADY_REPORTED
    if offender.id not in now.committee.by_id:
        return ReceiptCode.NOT_A_VOTER
    try:
        check_evidence(evidence, now.genesis.chain_id, offender.key)
    except EvidenceError:
        return ReceiptCode.EVIDENCE_INVALID
    suspended = not _would_be_last(offender.id, now, state)
    id = evidence_id(evidence)
    forgiven = 0 if before is None else before.forgiven_height
    record = EvidenceRecord(
        evidence=evidence,
        reporter=now.author.id,
        height=now.height,
        transaction=now.transaction,
        suspended=suspended,
        previous=standing.latest_evidence,
    )
    state.write(evidence_key(id), record)
    heard = with_offence(standing, Offence(offender.id, id, suspended, forgiven))
    state.write(STANDING_KEY, msgspec.structs.replace(heard, latest_evidence=id))
    return ReceiptCode.OK


def _would_be_last(id: str, now: "Situation", state: Overlay) -> bool:
    """Whether a class that votes, or the turn-taking, would be left without anyone."""
    suspended = suspended_in(standing_of(state))
    genesis, institutions = now.genesis, members(state)
    before = voters_of(institutions, genesis.classes, genesis.quorum, suspended)
    after = voters_of(institutions, genesis.classes, genesis.quorum, (*suspended, id))
    kinds = {institution.id: genesis.classes[institution.type] for institution in institutions}
    return {kinds[voter.id] for voter in before} != {kinds[voter.id] for voter in after}
