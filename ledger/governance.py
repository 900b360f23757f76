"""The end of a block: turns that passed, changes that are due, and the next height's committee.

This order is a rule of the ledger: turns are those of the committee that decided this block; votes
on changes are counted by the committee without those suspended in it; the roster is drawn from the
members that remain.
"""

import msgspec

from consensus.committee import Committee
from ledger.committee import roster_of, voters_at
from ledger.genesis import Genesis
from ledger.membership import settle_changes
from ledger.standing import (
    STANDING_KEY,
    CommitteeRecord,
    committee_key,
    standing_of,
)
from ledger.state import Overlay
from ledger.turns import benches_after, missed_turns


def settle(
    height: int, view: int, proposer: str, deciding: Committee, state: Overlay, genesis: Genesis
) -> Committee:
    """Write what the block at `height`, first proposed in `view`, means for who decides the next.

    `deciding` is the committee of `height`. Returns that of the height above it.
    """
    settle_changes(height, state, genesis)
    standing = standing_of(state)
    missed = missed_turns(deciding, height, view, proposer)
    benches = benches_after(
        standing, missed, proposer, height, genesis.bench_heights_min, genesis.bench_heights_max
    )
    voters = voters_at(state, genesis)
    recorders = [voter.id for voter in voters if voter.proposes]
    later = msgspec.structs.replace(
        standing,
        benches=tuple(bench for bench in benches if bench.id in recorders),
        roster=roster_of(voters, benches, height + 1),
    )
    if voters == deciding.voters and later == standing:
        return deciding
    if voters != deciding.voters:
        record = CommitteeRecord(voters, previous=standing.committee_since)
        state.write(committee_key(height + 1), record)
        later = msgspec.structs.replace(later, committee_since=height + 1)
    state.write(STANDING_KEY, later)
    return Committee(voters, later.roster)
