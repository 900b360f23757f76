"""Our seat in the committee: the replica, whether it may vote, and what its effects mean for the
node.

A node that finds its store restored from a backup may have signed what it no longer knows. It
abstains: no replica runs before a height at which it can have promised nothing
(docs/ARCHITECTURE.md section 4, promises). Which that is follows from the heads that a quorum of
others had since: if we promised something at height D + 1, then D was decided, by a quorum that
shares an honest voter with theirs; that one has voted at D, so its head is D - 1 at least. Hence we
wait until our head is two above the heads of some quorum. Of each voter the first word counts, and
any quorum will do, so that a few that lie about huge heights do not silence us for ever.
"""

from collections import deque
from collections.abc import Sequence
from typing import assert_never

from consensus import events as consensus_events
from consensus.certificates import SignatureCache
from consensus.events import Persist
from consensus.evidence import Evidence
from consensus.messages import Certificate, ViewChange
from consensus.replica import Replica
from consensus.settings import ConsensusSettings
from ledger.store import WriteBatch, WritePromise
from node.chain import Chain
from node.judging import Judging
from node.mempool import Held, Mempool
from node.outbox import Outbox
from node.reporting import report_of
from node.spreading import Spreading
from node.wire import Consensus, Testimony
from primitives.block import Block
from primitives.keys import PrivateKey

PASSED_OVER_CARRIED_MAX = 4
"""Batches carried to a primary after one block because that passed them over."""

IDLE_MS = 5_000
"""A voter with nothing to order for so long stops changing views: what there was has died."""


class Seat:
    """The replica of a voter; without one the node only follows."""

    def __init__(
        self,
        id: str,
        key: PrivateKey,
        chain: Chain,
        mempool: Mempool,
        judging: Judging,
        spreading: Spreading,
        outbox: Outbox,
        *,
        restored: bool,
        stubborn: bool,
    ) -> None:
        self._id = id
        self._stubborn = stubborn
        self._key = key
        self._chain = chain
        self._mempool = mempool
        self._judging = judging
        self._spreading = spreading
        self._outbox = outbox
        self._claims: dict[str, int] = {}
        self._busy_at = outbox.now
        self.abstaining = restored
        self.replica: Replica | None = None
        self._take()

    @property
    def signatures(self) -> SignatureCache | None:
        """What the replica has verified, so that a synced block's votes are not checked again."""
        return None if self.replica is None else self.replica.signatures

    @property
    def deadline(self) -> int | None:
        """When `expire` or `pend` has something to do."""
        if self.replica is None:
            return None
        times = (self.replica.deadline, self._heartbeat_at)
        return min((time for time in times if time is not None), default=None)

    def drive(self, event: consensus_events.Event) -> None:
        """Step the replica, and again with the answers to what it asks of us."""
        events = deque([event])
        promises = 0
        while events and self.replica is not None:
            effects = self.replica.step(events.popleft(), self._outbox.now)
            promises += sum(isinstance(effect, Persist) for effect in effects)
            self._perform(effects, events)
        if promises and self._chain.writing is None:
            self._spreading.seal_with_vote()

    def fetched(self, blocks: Sequence[Block]) -> None:
        """Blocks that the replica wanted are checked."""
        for block in blocks:
            self.drive(consensus_events.Fetched(block))
        if self._sees_censor:
            self.drive(consensus_events.Suspect())

    def connected(self, peer: str) -> None:
        """A member can be reached."""
        self.drive(consensus_events.Connected(peer))

    def disconnected(self, peer: str) -> None:
        """A member can no longer be reached."""
        self.drive(consensus_events.Disconnected(peer))

    def pend(self) -> None:
        """Tell the replica that there is work, whenever there may be new work."""
        if self._oldest is None and not self._heartbeat_is_due:
            return
        self._busy_at = self._outbox.now
        heeds = self.replica is not None and self.replica.heeds_work
        if heeds and self._chain.writing is None:
            self.drive(consensus_events.Pending())

    def expire(self) -> None:
        """Step the replica if its time has come."""
        replica = self.replica
        if replica is None:
            return
        if self._is_due and (self._has_rested or self._waits_in_vain):
            self.drive(consensus_events.Idle())
            self.pend()
        if self._is_due:
            self.drive(consensus_events.Expired())
        if self._heartbeat_is_due:
            self.pend()
        self._judging.forget_but(replica.checked)

    @property
    def _is_due(self) -> bool:
        deadline = None if self.replica is None else self.replica.deadline
        return deadline is not None and deadline <= self._outbox.now

    @property
    def _has_rested(self) -> bool:
        """Whether nothing has waited for so long that none of the others has anything either."""
        if self._oldest is not None or self._heartbeat_is_due:
            return False
        return self._outbox.now >= self._busy_at + IDLE_MS

    @property
    def _waits_in_vain(self) -> bool:
        """Whether the view's time is over, but nothing that could be ordered was here for all of
        it. Batches of short validity die on the way, which is no fault of the primary; and whoever
        makes such batches for just this could take their turns from all of them.
        """
        replica, oldest = self.replica, self._oldest
        since = None if replica is None else replica.view_over_since(self._outbox.now)
        if since is None or self._heartbeat_is_due:
            return False
        return oldest is None or oldest.arrived_ms > since

    @property
    def _oldest(self) -> Held | None:
        """The batch that has waited for the longest, of those that could be ordered now."""
        chain = self._chain
        time_ms = max(self._outbox.wall, chain.head.time_ms + 1)
        return self._mempool.oldest(chain.next_height, time_ms, chain.replay)

    @property
    def _sees_censor(self) -> bool:
        """Whether the proposal of the current view has passed over a batch that was due."""
        view = self._judging.take_censored_view()
        return self.replica is not None and view == self.replica.view

    def hear_head(self, peer: str, height: int) -> None:
        """A peer tells us its head itself, which matters while we abstain. Gossip does not count:
        anyone may repeat an old announcement to a node that has forgotten it.
        """
        if self.abstaining and peer in self._chain.committee.by_id:
            self._claims.setdefault(peer, height)

    def start(self) -> None:
        """The node starts: say what the operator must know, and begin with what is pending."""
        if self.abstaining:
            self._outbox.report("abstaining", height=self._chain.head.height)
        self.pend()

    def advance(self, certificate: Certificate) -> None:
        """Go on to the next height, or take or leave our seat where the committee or our standing
        changed. `certificate` decided the height that ends.
        """
        if self.replica is not None and self.replica.disowns(certificate):
            self._leave_to_twin(certificate.height)
        if self.abstaining:
            overtaken = self._chain.head.height - 2
            passed = [peer for peer, height in self._claims.items() if height <= overtaken]
            if self._chain.committee.is_quorum(passed):
                self.abstaining = False
                self._outbox.report("abstained", height=self._chain.head.height)
        if self.replica is not None and self._may_sit:
            self.drive(consensus_events.Advanced(self._chain.head, self._chain.committee))
        else:
            self._take()

    def carry_passed_over(self, passed_over: Sequence[Held]) -> None:
        """What a block passed over goes to the next primary, lest it lack it; what is passed over
        for long is a reason to leave the view of whoever does so again.
        """
        if self.replica is None or self._chain.writing is not None:
            return
        primary = self._chain.committee.primary(self._chain.next_height, self.replica.view)
        for held in passed_over[:PASSED_OVER_CARRIED_MAX]:
            self._spreading.carry_to(primary, held.batch)

    @property
    def _may_sit(self) -> bool:
        voter = self._chain.committee.by_id.get(self._id)
        return voter is not None and voter.key == self._key.public and not self.abstaining

    def _take(self) -> None:
        """Start a replica with what we have promised at this height, if we may vote."""
        self.replica = None
        if not self._may_sit:
            return
        genesis = self._chain.genesis
        self.replica = Replica(
            genesis.chain_id,
            self._id,
            self._key,
            ConsensusSettings(
                view_timeout_ms_min=genesis.view_timeout_ms_min,
                view_timeout_ms_max=genesis.view_timeout_ms_max,
                resend_ms=genesis.resend_ms,
            ),
            self._chain.head,
            self._chain.committee,
            self._chain.reader.promises(self._chain.next_height),
            self._outbox.connected,
            self._outbox.now,
        )

    def _perform(
        self,
        effects: Sequence[consensus_events.Effect],
        answers: deque[consensus_events.Event],
    ) -> None:
        for effect in effects:
            match effect:
                case consensus_events.Persist():
                    self._persist(effect)
                case consensus_events.Broadcast(signed):
                    self._outbox.send_all(self._chain.committee.by_id, Consensus(signed))
                case consensus_events.Send(to, signed):
                    self._outbox.send(to, Consensus(signed))
                case consensus_events.WantBlock(height, view):
                    wanted = height == self._chain.next_height
                    block = self._judging.build(view) if wanted else None
                    if block is not None:
                        answers.append(consensus_events.Proposed(block))
                case consensus_events.Fetch(block_hash, block, fresh, holders):
                    for checked in self._judging.want(block_hash, block, fresh, holders):
                        answers.append(consensus_events.Fetched(checked))
                    if self._sees_censor:
                        answers.append(consensus_events.Suspect())
                case consensus_events.Serve(to):
                    self._spreading.tell_laggard(to)
                case consensus_events.Decide(decision):
                    executed = self._judging.executed(decision.block.hash)
                    if executed is None:
                        raise RuntimeError("a block was decided here that was never executed here")
                    self._chain.write(decision, executed)
                case consensus_events.Blame(signer, reason):
                    self._outbox.blame(signer, reason)
                case consensus_events.PassOn(height, signer, statement):
                    testimony = Testimony(height, signer, statement)
                    self._outbox.send_all(self._chain.committee.by_id, testimony)
                case consensus_events.Accuse(evidence):
                    self._accuse(evidence)
                case _:
                    assert_never(effect)

    def _accuse(self, evidence: Evidence) -> None:
        """Tell the operator, and the ledger unless it has heard of it."""
        if evidence.signer == self._id:
            self._leave_to_twin(evidence.height)
            return
        self._outbox.report("contradiction", institution=evidence.signer)
        report = report_of(evidence, self._key, self._chain, self._outbox.wall)
        if report is not None and self._chain.lists(self._id, self._key.public):
            self._spreading.submit([report])

    def _leave_to_twin(self, height: int) -> None:
        """Our key has signed what we have not: another process has it, or our disk was set back.
        Whichever it is, we abstain until it cannot matter what was signed there.
        """
        self._outbox.report("key_used_elsewhere", height=height)
        if self._stubborn:
            return
        self.abstaining = True
        self.replica = None
        self._claims.clear()

    def _persist(self, promise: Persist) -> None:
        """A promise, and before it the batches of the block that it vouches for. Whoever leaves a
        view shares its reason: the oldest batch.
        """
        if promise.block is not None:
            executed = self._judging.executed(promise.block.hash)
            if executed is None:
                raise RuntimeError("a block was promised here that was never executed here")
            for batch in executed.batches:
                self._outbox.add(WriteBatch(batch))
        self._outbox.add(WritePromise(self._chain.next_height, promise))
        if isinstance(promise.signed.message, ViewChange):
            self._outbox.counters["view_changes"] += 1
            oldest = self._oldest
            if oldest is not None:
                self._spreading.carry(oldest.batch)

    @property
    def _heartbeat_is_due(self) -> bool:
        heartbeat_ms = self._chain.genesis.heartbeat_ms
        return heartbeat_ms > 0 and self._outbox.wall >= self._chain.head.time_ms + heartbeat_ms

    @property
    def _heartbeat_at(self) -> int | None:
        heartbeat_ms = self._chain.genesis.heartbeat_ms
        if heartbeat_ms == 0 or self.replica is None or self.replica.has_work:
            return None
        due_ms = self._chain.head.time_ms + heartbeat_ms - self._outbox.wall
        return self._outbox.now + max(due_ms, 0)
