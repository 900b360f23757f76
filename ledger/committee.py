"""Who votes at a height, from the members that the state holds (docs/ARCHITECTURE.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from consensus.committee import POOL, Committee, QuorumRule, Voter
from ledger.state import members
from primitives.institution import ConsensusClass, Institution

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.store import StateReader


def committee_of(
    institutions: Sequence[Institution],
    classes: Mapping[str, ConsensusClass],
    quorum: QuorumRule,
) -> Committee:
    """Return the committee of these members, in which all recorders take turns.

    Observers vote under `flat` only. A class without members is not in the committee: that is legal
    in a genesis file alone. Raises ValueError if there is no recorder.
    """
    voters = []
    for institution in sorted(institutions, key=lambda institution: institution.id):
        duty = classes[institution.type]
        if quorum != "flat" and duty is ConsensusClass.OBSERVER:
            continue
        voters.append(
            Voter(
                id=institution.id,
                key=institution.key,
                group=duty.value if quorum == "per_class" else POOL,
                proposes=duty is ConsensusClass.RECORDER,
            )
        )
    roster = tuple(voter.id for voter in voters if voter.proposes)
    return Committee(voters=tuple(voters), roster=roster)


def members_at(state: StateReader, genesis: Genesis) -> tuple[Institution, ...]:  # noqa: ARG001
    """Return the member institutions in this state, sorted by id."""
    return members(state)


def committee_at(state: StateReader, genesis: Genesis) -> Committee:
    """Return the committee that decides the block above the one that led to this state."""
    return committee_of(members(state), genesis.classes, genesis.quorum)
