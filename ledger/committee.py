"""Who votes at a height and whose turn it is, from what the state holds (docs/ARCHITECTURE.md
section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from consensus.committee import POOL, Committee, QuorumRule, Voter, quorum_size
from ledger.standing import Bench, standing_of, suspended_in
from ledger.state import members
from primitives.institution import ConsensusClass, Institution

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.store import StateReader


def voters_of(
    institutions: Sequence[Institution],
    classes: Mapping[str, ConsensusClass],
    quorum: QuorumRule,
    suspended: Sequence[str] = (),
) -> tuple[Voter, ...]:
    """Return the voters among these members, sorted by id; observers vote under `flat` only."""
    voters = []
    for institution in sorted(institutions, key=lambda institution: institution.id):
        duty = classes[institution.type]
        observes = quorum != "flat" and duty is ConsensusClass.OBSERVER
        if observes or institution.id in suspended:
            continue
        voters.append(
            Voter(
                id=institution.id,
                key=institution.key,
                group=duty.value if quorum == "per_class" else POOL,
                proposes=duty is ConsensusClass.RECORDER,
            )
        )
    return tuple(voters)


def roster_of(voters: Sequence[Voter], benches: Sequence[Bench], height: int) -> tuple[str, ...]:
    """Return the recorders that take turns at `height`, sorted by id.

    Never fewer than a quorum of the recorders: where too many are benched, those with the fewest
    misses come back, then those with the smaller id.
    """
    recorders = [voter.id for voter in voters if voter.proposes]
    benched = {bench.id: bench.misses for bench in benches if bench.until_height >= height}
    order = sorted(recorders, key=lambda id: (benched.get(id, 0), id))
    free = sum(id not in benched for id in recorders)
    return tuple(sorted(order[: max(free, quorum_size(len(recorders)))]))


def committee_of(
    institutions: Sequence[Institution],
    classes: Mapping[str, ConsensusClass],
    quorum: QuorumRule,
) -> Committee:
    """Return the committee of these members, in which all recorders take turns.

    A class without members is not in the committee. Raises ValueError if there is no recorder.
    """
    voters = voters_of(institutions, classes, quorum)
    return Committee(voters, tuple(voter.id for voter in voters if voter.proposes))


def voters_at(state: StateReader, genesis: Genesis) -> tuple[Voter, ...]:
    """Return the members that have a vote in this state, sorted by id."""
    suspended = suspended_in(standing_of(state))
    return voters_of(members(state), genesis.classes, genesis.quorum, suspended)


def committee_at(state: StateReader, genesis: Genesis) -> Committee:
    """Return the committee that decides the block above the one that led to this state."""
    return Committee(voters_at(state, genesis), standing_of(state).roster)
