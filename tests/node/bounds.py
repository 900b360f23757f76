"""One look at everything that peers can make a core grow: each structure within its named limit."""

from consensus.certificates import SIGNATURES_REMEMBERED_MAX
from consensus.events import MISDEEDS
from consensus.height import BLOCKS_KEPT_MAX
from consensus.intake import HELD_HEIGHTS
from consensus.messages import Phase
from consensus.replica import WITNESSES_MAX, Replica
from consensus.tally import VIEWS_KEPT_MAX
from consensus.witness import FORGED_MAX, HEARD_MAX, KEPT_MAX, STORIES_MAX, TOLD_MAX
from node.conduct import PEERS_MAX, REASONS
from node.core import Core
from node.drafts import HEARD_HEIGHTS
from node.fetching import CANDIDATES_MAX
from node.judging import REFUSED_MAX
from node.mempool import Mempool, MempoolLimits
from node.sync import READY_BLOCKS_MIN
from node.wire import WANTED_BATCHES_MAX, WANTED_BLOCKS_MAX

COUNTERS_MAX = 64
"""Kinds of events that are counted: all of them are constants in the code."""


def check_bounds(core: Core, limits: MempoolLimits) -> None:
    """Raise AssertionError for what has outgrown its limit."""
    members = len(core.members)
    for pool in (core.mempool, core.following.batches):
        _check_mempool(core, pool, limits)
    sync, announced = core.sync, core._announced
    for by_peer in (
        sync._heads,
        sync._paces,
        sync._doubted,
        sync._penalties._penalties,
        announced._announcers,
        announced._penalties._penalties,
        core._spreading._laggards,
        core._outbox._connected,
        core._seat._claims,
    ):
        assert len(by_peer) <= members
    assert sync.ready < READY_BLOCKS_MIN + WANTED_BLOCKS_MAX
    for announcer in announced._announcers.values():
        assert len(announcer.asked) <= WANTED_BATCHES_MAX
    judging, block_limits = core._judging, core.genesis.limits
    assert len(core._drafts._heard) <= HEARD_HEIGHTS
    assert len(judging._refused) <= REFUSED_MAX
    assert len(judging._candidates._by_hash) <= CANDIDATES_MAX
    for candidate in judging._candidates._by_hash.values():
        assert len(candidate.holders) <= members
        assert not candidate.exceeds(block_limits)
    following = core.following
    assert len(following._decisions) <= HELD_HEIGHTS
    assert len(following._candidates._by_hash) <= 1
    for candidate in following._candidates._by_hash.values():
        assert len(candidate.batches) <= WANTED_BATCHES_MAX
    if core.votes:
        assert not following._decisions
        assert not len(following.batches)
    assert len(core.counters) <= COUNTERS_MAX
    counts = core.conduct.counts()
    assert len(counts) <= min(PEERS_MAX, members)
    assert all(len(reasons) <= len(REASONS) for reasons in counts.values())
    assert core.conduct.take_reports() == [], "they leave with the step"
    if core._seat.replica is not None:
        _check_replica(core._seat.replica, members)


def _check_mempool(core: Core, mempool: Mempool, limits: MempoolLimits) -> None:
    members = len(core.members)
    largest = core.genesis.limits.batch_bytes_max
    assert len(mempool._accounts) <= members
    assert len(mempool._served) <= members
    held = [held for held in mempool.held() if not held.own]
    size_bytes = sum(len(one.batch.raw) for one in held)
    assert size_bytes <= limits.total_bytes_max + members * largest
    for author, account in mempool._accounts.items():
        theirs = [one.batch for one in mempool.by_author(author)]
        assert account.batches == len(theirs) == len(account.sequences)
        assert account.size_bytes == sum(len(batch.raw) for batch in theirs)
        if author != core.id:
            assert len(theirs) <= limits.author_batches_max
            assert len(theirs) == 1 or account.size_bytes <= limits.author_bytes_max
    assert mempool.waiting_count <= limits.waiting_transactions_max


def _check_replica(replica: Replica, members: int) -> None:
    intake, state = replica._intake, replica._state
    voters = len(state.committee.voters)
    assert len(intake._held) <= voters * len(Phase)
    assert len(intake._served_at) <= voters
    assert len(intake._allowances) <= voters
    assert len(intake.counters) <= len(MISDEEDS) + 16
    assert len(intake.signatures._valid) <= SIGNATURES_REMEMBERED_MAX
    tally = state._tally
    votes = 2 * voters * VIEWS_KEPT_MAX
    assert len(tally._votes) <= 2 * voters
    assert sum(len(by_view) for by_view in tally._votes.values()) <= votes
    assert sum(len(count.signatures) for count in tally._counts.values()) <= votes
    assert len(tally._counts) <= votes
    assert len(tally._view_changes) <= voters
    assert len(tally._accused) <= voters * len(Phase)
    assert len(replica._witnesses) <= WITNESSES_MAX
    for witness in replica._witnesses:
        assert len(witness._said) <= voters
        assert all(len(said) <= KEPT_MAX for said in witness._said.values())
        assert len(witness._heard) <= members
        assert all(len(heard) <= HEARD_MAX for heard in witness._heard.values())
        assert all(count <= FORGED_MAX for count in witness._forged.values())
        assert len(witness._told) <= TOLD_MAX
        assert len(witness._stories) <= STORIES_MAX
        assert not witness._evidence
        assert not witness._testimony
        assert not witness._forgers
    assert len(state._checked) <= BLOCKS_KEPT_MAX
    # Per view: the proposal, fresh or not, and what a certificate of either phase names.
    assert len(state._fetching) <= 4
    assert replica._effects == []
