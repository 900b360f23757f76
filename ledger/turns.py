"""Taking turns: recorders that let theirs pass are passed over for a while.

docs/ARCHITECTURE.md section 3. A block first proposed in view v > 0 shows that the turns of the
views below v passed without a block. One dead hospital must not cost a time-out in every n-th
block, so its turns are skipped for a number of heights that doubles with repetition; then it is
tried again. This is scheduling, not guilt: a slow network or one bad class can cause it, so it
takes away no vote and enters no judgement. It is ledger state, so that all agree on whose turn it
is and anyone can compute it again.
"""

from consensus.committee import Committee
from ledger.standing import Bench, Standing


def missed_turns(committee: Committee, height: int, view: int, proposer: str) -> tuple[str, ...]:
    """Return who let a turn pass at a height whose block was first proposed in `view`.

    Each once, and never the proposer itself, whose turn may have come again.
    """
    views = range(min(view, len(committee.roster)))
    missed = dict.fromkeys(committee.primary(height, earlier) for earlier in views)
    return tuple(sorted(id for id in missed if id != proposer))


def benches_after(
    standing: Standing,
    missed: tuple[str, ...],
    proposer: str,
    height: int,
    heights_min: int,
    heights_max: int,
) -> tuple[Bench, ...]:
    """Return the benches after the block at `height`, sorted by id.

    The first miss costs `heights_min` heights, each further one twice as many, up to `heights_max`.
    Whoever proposed the block has one miss less; without misses nobody is listed.
    """
    benches = {bench.id: bench for bench in standing.benches}
    mine = benches.pop(proposer, None)
    if mine is not None and mine.misses > 1:
        benches[proposer] = Bench(proposer, mine.misses - 1, mine.until_height)
    for id in missed:
        before = benches.get(id)
        misses = 1 if before is None else before.misses + 1
        # Doubling beyond any possible maximum would only make large numbers.
        served = min(heights_min << min(misses - 1, 32), heights_max)
        benches[id] = Bench(id, misses, height + served)
    return tuple(benches[id] for id in sorted(benches))
