"""The node's decisions, pure: replica, mempool and ledger joined; the daemon and the simulator run
this very code.

A transaction's way: a client's `Submitted` is sealed into a batch of this member, at once or, while
another batch of ours is undecided, with others: a voter's with its next vote. The batch is made
durable and carried to the voters. Whoever is primary is told `Pending`, once all that waits for the
turn has been stepped, lest a block be made of the first batch alone; it answers the replica's
WantBlock by executing the pending batches on the head. Every other voter executes the proposed
block the same way before the replica may PREPARE it, a large one while the primary does
(drafts.py). A decided block has thus been executed already: it is written as it is, and when the
shell says `BlockStored` the core moves to the next height. A block that comes by sync takes the
same last steps.

Between a WriteBlock and BlockStored no event is stepped, so the reader always shows exactly the
state of the head.
"""

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from consensus import events as consensus_events
from ledger.genesis import Genesis
from ledger.replay import ReplayWindow
from ledger.store import LedgerReader
from ledger.transactions import CheckedBatch
from node.announced import Announced
from node.chain import Chain
from node.conduct import Conduct
from node.drafts import Drafts
from node.events import (
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    BlockStored,
    DecisionArrived,
    Effect,
    Event,
    Expired,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    RequestEnded,
    SendRequest,
    Submitted,
    SyncedBlock,
)
from node.fetching import Candidates
from node.following import Following
from node.judging import Judging
from node.mempool import Mempool, fault_of, refusal
from node.outbox import Outbox
from node.penalties import Penalties
from node.seat import Seat
from node.serving import answer
from node.settings import CoreSettings
from node.spreading import Spreading
from node.sync import Sync
from node.wire import (
    BatchesAnnounced,
    BatchesWanted,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Draft,
    Gossip,
    Head,
    HeadAnnounced,
    Request,
    Response,
    Testimony,
)
from primitives.block import Block, BlockHeader
from primitives.institution import Institution
from primitives.keys import PrivateKey


class Core:
    """One node. `deadline` (monotonic ms) is when to step it with Expired."""

    def __init__(
        self,
        genesis: Genesis,
        id: str,
        key: PrivateKey,
        reader: LedgerReader,
        settings: CoreSettings,
        replay: ReplayWindow,
        *,
        boots: int,
        restored: bool,
        now: int,
    ) -> None:
        self.genesis = genesis
        self.id = id
        self._outbox = Outbox(id, now)
        self.chain = Chain(genesis, reader, replay, self._outbox)
        self.mempool = Mempool(settings.mempool, genesis.limits)
        penalties = (settings.penalty_ms_min, settings.penalty_ms_max)
        place = list(self.members).index(id) if id in self.members else 0
        self.sync = Sync(Penalties(*penalties), place)
        self._announced = Announced(
            settings.spread.announce_ms // 2,
            settings.fetch_retry_ms,
            Penalties(*penalties),
            self.mempool,
            reader,
            self._outbox,
        )
        self._sweep_ms = settings.spread.announce_ms
        self._sweep_at = now
        self._met: dict[str, Institution] | None = None
        self._pend_due = False
        """There may be new work, of which the seat is told when the shell has gathered all."""
        patience = (settings.fetch_patience_ms, settings.fetch_retry_ms)
        self._drafts = Drafts(settings.draft_work_min, self.chain, self.mempool, self._outbox)
        self._judging = Judging(
            id, self.chain, Candidates(*patience), self.mempool, self._drafts, self._outbox
        )
        self._spreading = Spreading(
            id, key, settings.spread, self.chain, self.mempool, self._outbox, boots
        )
        self._seat = Seat(
            id,
            key,
            self.chain,
            self.mempool,
            self._judging,
            self._spreading,
            self._outbox,
            restored=restored,
            stubborn=settings.stubborn,
        )
        self.following = Following(
            id, settings, self.chain, self.mempool, self.sync, self._seat, self._outbox
        )
        self._meet_members()

    # ---- the boundary ----------------------------------------------------------------------------

    @property
    def head(self) -> BlockHeader:
        """The newest applied block."""
        return self.chain.head

    @property
    def members(self) -> dict[str, Institution]:
        """Institutions by id, as of the head."""
        return self.chain.members

    @property
    def counters(self) -> Counter[str]:
        """How often things happened that an operator may want to know."""
        return self._outbox.counters

    @property
    def conduct(self) -> Conduct:
        """What the members did wrong or too much; the shell may note what it sees as well."""
        return self._outbox.conduct

    @property
    def votes(self) -> bool:
        """Whether this node takes part in consensus now."""
        return self._seat.replica is not None

    @property
    def view(self) -> int:
        """The view of the replica at the next height; 0 without one."""
        return 0 if self._seat.replica is None else self._seat.replica.view

    @property
    def signature_checks(self) -> int:
        """Signatures of votes that our replica, since it took its seat, has checked by calculation;
        0 without one.
        """
        signatures = self._seat.signatures
        return 0 if signatures is None else signatures.checks

    @property
    def abstaining(self) -> bool:
        """Whether this node does not vote because its store was restored from a backup."""
        return self._seat.abstaining

    @property
    def deadline(self) -> int:
        """When to step Expired, in monotonic ms."""
        if self._pend_due:
            return self._outbox.now
        times = (
            self._spreading.deadline,
            self._judging.deadline,
            self.following.deadline,
            self.sync.deadline(self.head.height, self.following.patience),
            self._seat.deadline,
            self._drafts.deadline,
        )
        return min(time for time in times if time is not None)

    def start(self, pending: Sequence[CheckedBatch], now: int, wall: int) -> list[Effect]:
        """Take back the batches that the store kept; the first step after construction."""
        self._outbox.open(now, wall)
        self._spreading.restore(pending)
        self._remove_dead()
        self._seat.start()
        return self._outbox.close()

    def step(self, event: Event, now: int, wall: int) -> list[Effect]:
        """One event in; the effects out, in the order in which they must be performed."""
        if (self.chain.writing is not None) != isinstance(event, BlockStored):
            raise ValueError("BlockStored must follow a WriteBlock at once, and nothing else")
        self._outbox.open(now, wall)
        match event:
            case Submitted(transactions):
                if self._spreading.submit(transactions):
                    self._pend_due = True
            case BatchArrived(peer, batch, True):
                if self._take_batch(peer, batch, self.mempool):
                    self._pend_due = True
                self._seat.fetched(self._judging.offer(batch))
            case BatchArrived(peer, batch):
                # Whoever has got a vote since it came wants it checked.
                if not self.votes:
                    self._take_batch(peer, batch, self.following.batches)
            case DecisionArrived(peer, decision):
                if self.following.take(event):
                    self._hear_head(peer, decision.block.header.height)
            case MessageArrived(peer, message):
                self._take_message(peer, message)
            case GossipArrived(author, gossip):
                self._take_gossip(author, gossip)
            case PeerConnected(peer):
                self._outbox.connect(peer)
                self._spreading.greet(peer)
                self._seat.connected(peer)
            case PeerDisconnected(peer):
                self._outbox.disconnect(peer)
                self._spreading.forget(peer)
                self.sync.forget(peer)
                self._seat.disconnected(peer)
            case BlocksArrived(peer, blocks, head_height):
                self.sync.answered(peer, blocks, head_height)
            case BlockArrived(peer, found):
                if found.block is not None:
                    self._seat.fetched(self._judging.arrived(peer, found.block))
            case RequestEnded():
                self._end_request(event)
            case BlockStored():
                self._advance()
            case Expired():
                self._expire()
            case _:
                assert_never(event)
        return self._outbox.close()

    def answer(self, request: Request) -> Response:
        """What this node has of what a peer asks for."""
        return answer(request, self.mempool, self.undecided_block, self.chain.reader)

    def undecided_block(self, block_hash: bytes) -> Block | None:
        """A block of the current height that this node has checked."""
        executed = self._judging.executed(block_hash)
        return None if executed is None else executed.block

    # ---- what arrives ----------------------------------------------------------------------------

    def _take_batch(self, peer: str, batch: CheckedBatch, pool: Mempool) -> bool:
        chain, height = self.chain, self.chain.next_height
        window = self.genesis.limits.replay_window_blocks
        self._spreading.note(batch)
        # A block made now is dated now: what has expired by our clock nobody would order for us.
        time_ms = max(self._outbox.wall, self.head.time_ms + 1)
        reason = refusal(batch, height, time_ms, chain.replay, window)
        reason = reason or pool.add(batch, self._outbox.now, height=height)
        self._announced.arrived(peer, batch.id, useless=reason not in (None, "known"))
        if reason is not None:
            fault = fault_of(reason, by_author=peer == batch.author)
            if fault is None:
                self.counters[f"batch_{reason}"] += 1
            else:
                self._outbox.blame(peer, fault)
        self.following.offer(batch)
        return reason is None

    def _take_message(self, peer: str, message: Consensus | Head | Testimony | Draft) -> None:
        match message:
            case Head(height):
                self._seat.hear_head(peer, height)
                self._hear_head(peer, height)
            case Consensus(signed) if signed.signer != peer:
                # Nobody need relay: votes of others count inside certificates only.
                self._outbox.blame(peer, "relayed")
            case Consensus(signed):
                height = signed.message.height
                if height > self.chain.next_height:
                    self._seat.hear_head(peer, height - 1)
                    self._hear_head(peer, height - 1)
                if self.votes:
                    self._seat.drive(consensus_events.Received(signed))
                elif height <= self.head.height:
                    self._spreading.tell_laggard(peer)
            case Testimony(height, signer, statement):
                self._seat.drive(consensus_events.Heard(peer, height, signer, statement))
            case Draft():
                if self.votes:
                    self._drafts.hear(peer, message)
            case _:
                assert_never(message)

    def _take_gossip(self, author: str, gossip: Gossip) -> None:
        match gossip:
            case HeadAnnounced(height):
                self._hear_head(author, height)
            case BatchesAnnounced(batches):
                if self.votes and self._outbox.is_connected(author):
                    self._announced.heard(author, batches)
            case _:
                assert_never(gossip)

    def _end_request(self, ended: RequestEnded) -> None:
        peer, answered = ended.peer, ended.answered
        if not (answered or ended.invalid) and self._outbox.is_connected(peer):
            self._outbox.blame(peer, "request_failed")
        match ended.request:
            case BatchesWanted() as wanted:
                self._announced.ended(peer, wanted, answered=answered)
            case BlocksWanted():
                now = self._outbox.now
                if self.sync.ended(peer, now, answered=answered, invalid=ended.invalid):
                    self._outbox.blame(peer, "head_false")
                self._catch_up()
            case BlockWanted():
                pass
            case _:
                assert_never(ended.request)

    def _hear_head(self, peer: str, height: int) -> None:
        if not self._outbox.is_connected(peer):
            return
        self.sync.heard(peer, height)
        self._catch_up()

    # ---- applying blocks -------------------------------------------------------------------------

    def _catch_up(self) -> None:
        if self.chain.writing is None:
            patience = self.following.patience
            wanted = self.sync.due(self.head.height, patience, self._outbox.now)
            if wanted is not None:
                self._outbox.add(SendRequest(*wanted))

    def _apply_synced(self) -> None:
        """Apply the next block that a peer sent, after the same checks as any other. One at a time,
        so that what arrives meanwhile has its turn, above all the next blocks.
        """
        if self.chain.writing is not None:
            return
        synced = self.sync.take(self.head.height)
        if synced is not None:
            if self._apply(synced):
                self.sync.proved()
            else:
                self._outbox.blame(self.sync.source, "sync_block_false")
                self.sync.refuted(self._outbox.now)
            return
        followed = self.following.next_block()
        if followed is not None and not self._apply(followed):
            # The committee, or an author's key, is another since it was told or carried to us.
            self.following.forget()

    def _apply(self, synced: SyncedBlock) -> bool:
        executed = self._judging.check_synced(synced, self._seat.signatures)
        if executed is not None:
            self.chain.write(synced.decision, executed)
        return executed is not None

    def _advance(self) -> None:
        """The block is durable: it is the head, and the next height begins."""
        written = self.chain.advance()
        passed_over = self.mempool.count_passed_over(
            written.batches,
            self.head.height,
            self.head.time_ms,
            self.chain.replay,
            self.genesis.censorship_heights,
        )
        self.mempool.served(written.batches, self.head.height)
        for pool in (self.mempool, self.following.batches):
            pool.remove(batch.id for batch in written.batches)
        self._meet_members()
        self._remove_dead()
        self._judging.clear()
        self.sync.advanced()
        self._spreading.head_moved(written.batches)
        self._seat.advance(written.decision.certificate)
        self.following.advanced()
        if self.votes and self.following.is_near:
            # Of what we have only fetched ourselves others have heard long since.
            self._spreading.tell_followers(written.decision)
        self._pend_due = True
        self._seat.carry_passed_over(passed_over)
        self._catch_up()

    # ---- time ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        if self._sweep_at <= self._outbox.now:
            self._sweep_at = self._outbox.now + self._sweep_ms
            self._remove_dead()
        self._pend_due |= self._spreading.expire() | self._drafts.take_due()
        if self._pend_due and not self.sync.ready:
            # What we proposed before the blocks that wait would be of the past.
            self._pend_due = False
            self._seat.pend()
        if self.votes and self.view == 0 and not self.sync.ready and self.chain.writing is None:
            self._judging.execute_draft()
        self._judging.ask()
        self.following.expire()
        self._seat.expire()
        self._apply_synced()
        self._catch_up()

    @property
    def _earliest_ms(self) -> int:
        """No block that a quorum with good clocks accepts afresh is older, nor is any block."""
        earliest_ms = self._outbox.wall - self.genesis.clock_drift_ms_max
        return max(earliest_ms, self.head.time_ms + 1)

    def _meet_members(self) -> None:
        """Who is no member any more is forgotten, but for what it has done."""
        if self._met is not self.members:
            self._met = self.members
            self.mempool.meet(self.members)
            self.following.batches.meet(self.members)
            self.sync.keep(self.members)
            self._announced.keep(self.members)

    def _remove_dead(self) -> None:
        height, replay = self.chain.next_height, self.chain.replay
        for pool in (self.mempool, self.following.batches):
            died = pool.remove_dead(height, self._earliest_ms, replay)
            self.counters["batches_died"] += died
