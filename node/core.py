"""The node's decisions, pure: replica, mempool and ledger joined; the daemon and the simulator run
this very code.

A transaction's way: a client's `Submitted` waits at most `batch_delay_ms`, then is sealed with
others into a batch of this member, made durable and carried to the voters. Whoever is primary is
told `Pending` and answers the replica's WantBlock by executing the pending batches on the head.
Every other voter executes the proposed block the same way before the replica may PREPARE it. A
decided block has thus been executed already: it is written as it is, and when the shell says
`BlockStored` the core moves to the next height. A block that comes by sync takes the same last
steps.

Between a WriteBlock and BlockStored no event is stepped, so the reader always shows exactly the
state of the head.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from consensus import events as consensus_events
from consensus.certificates import CertificateError, check_certificate
from consensus.messages import Phase
from ledger.execution import ExecutedBlock
from ledger.genesis import Genesis
from ledger.replay import ReplayWindow
from ledger.store import LedgerReader
from ledger.transactions import CheckedBatch
from node.chain import Chain
from node.conduct import Conduct
from node.events import (
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    BlockStored,
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
from node.judging import Judging, listed_batches
from node.mempool import Mempool, MempoolLimits, refusal
from node.outbox import Outbox
from node.seat import Seat
from node.serving import answer
from node.spreading import Spreading, SpreadSettings
from node.sync import Sync
from node.wire import (
    BatchesAnnounced,
    BatchesWanted,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Gossip,
    Head,
    HeadAnnounced,
    Request,
    Response,
)
from primitives.block import Block, BlockHeader
from primitives.institution import Institution
from primitives.keys import PrivateKey


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """The node's own patience and bounds; nothing here changes what is valid."""

    fetch_patience_ms: int = 100
    fetch_retry_ms: int = 500
    sync_patience_ms: int = 500
    sync_penalty_ms: int = 5_000
    spread: SpreadSettings = field(default_factory=SpreadSettings)
    mempool: MempoolLimits = field(default_factory=MempoolLimits)


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
        restored: bool,
        now: int,
    ) -> None:
        self.genesis = genesis
        self.id = id
        self._outbox = Outbox(id, now)
        self.chain = Chain(genesis, reader, replay, self._outbox)
        self.mempool = Mempool(settings.mempool, genesis.limits)
        self.sync = Sync(settings.sync_patience_ms, settings.sync_penalty_ms)
        self._settings = settings
        self._requested: dict[bytes, str] = {}
        self._announced: dict[str, int] = {}
        self._sweep_at = now
        candidates = Candidates(settings.fetch_patience_ms, settings.fetch_retry_ms)
        self._judging = Judging(id, self.chain, candidates, self.mempool, self._outbox)
        self._spreading = Spreading(
            id, key, settings.spread, self.chain, self.mempool, self._outbox
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
        )

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
    def abstaining(self) -> bool:
        """Whether this node does not vote because its store was restored from a backup."""
        return self._seat.abstaining

    @property
    def deadline(self) -> int:
        """When to step Expired, in monotonic ms."""
        times = (
            self._spreading.deadline,
            self._judging.deadline,
            self.sync.deadline(self.head.height, self.votes),
            self._seat.deadline,
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
                    self._seat.pend()
            case BatchArrived(peer, batch):
                self._take_batch(peer, batch)
            case MessageArrived(peer, message):
                self._take_message(peer, message)
            case GossipArrived(author, gossip):
                self._take_gossip(author, gossip)
            case PeerConnected(peer):
                self._outbox.connect(peer)
                self._spreading.greet(peer)
                self._seat.greet(peer)
            case PeerDisconnected(peer):
                self._outbox.disconnect(peer)
                self._spreading.forget(peer)
                self.sync.forget(peer)
            case BlocksArrived(peer, blocks, head_height):
                self.sync.answered(peer, blocks, head_height)
                self._apply_synced()
            case BlockArrived(_, found):
                if found.block is not None:
                    self._seat.fetched(self._judging.arrived(found.block))
            case RequestEnded(peer, request, answered):
                self._end_request(peer, request, answered)
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

    def _take_batch(self, peer: str, batch: CheckedBatch) -> None:
        height, wall = self.chain.next_height, self._earliest_ms
        window = self.genesis.limits.replay_window_blocks
        self._spreading.note(batch)
        reason = refusal(batch, height, wall, self.chain.replay, window)
        reason = reason or self.mempool.add(batch, self._outbox.now)
        if reason is not None:
            self.counters[f"batch_{reason}"] += 1
            if reason != "known" and self._requested.get(batch.id) == batch.author:
                # Else its author could have us fetch and check it again at every announcement.
                self._announced[batch.author] = self._outbox.now + self._settings.sync_penalty_ms
        self._seat.fetched(self._judging.offer(batch))
        if reason is None:
            self._seat.pend()

    def _take_message(self, peer: str, message: Consensus | Head) -> None:
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
            case _:
                assert_never(message)

    def _take_gossip(self, author: str, gossip: Gossip) -> None:
        match gossip:
            case HeadAnnounced(height):
                self._hear_head(author, height)
            case BatchesAnnounced(batches):
                if self.votes and self._outbox.is_connected(author):
                    self._ask_announced(author, batches)
            case _:
                assert_never(gossip)

    def _ask_announced(self, author: str, batches: tuple[bytes, ...]) -> None:
        """Ask for announced batches that we lack; who announces more often than is due is not
        listened to, since each announcement costs many reads of the store.
        """
        now = self._outbox.now
        if self._announced.get(author, now) > now:
            self.counters["announcements_dropped"] += 1
            return
        self._announced[author] = now + self._settings.spread.announce_ms // 2
        lacking = tuple(batch_id for batch_id in batches if self._lacks(batch_id))
        if lacking:
            self._requested.update(dict.fromkeys(lacking, author))
            self._outbox.add(SendRequest(author, BatchesWanted(lacking)))

    def _lacks(self, batch_id: bytes) -> bool:
        known = batch_id in self.mempool or batch_id in self._requested
        return not known and self.chain.reader.batch(batch_id) is None

    def _end_request(self, peer: str, request: Request, answered: bool) -> None:
        match request:
            case BatchesWanted(batches):
                for batch_id in batches:
                    self._requested.pop(batch_id, None)
            case BlocksWanted():
                self.sync.ended(peer, answered, self._outbox.now)
                self._catch_up()
            case BlockWanted():
                pass
            case _:
                assert_never(request)

    def _hear_head(self, peer: str, height: int) -> None:
        if not self._outbox.is_connected(peer):
            return
        self.sync.heard(peer, height)
        self._catch_up()

    # ---- applying blocks -------------------------------------------------------------------------

    def _catch_up(self) -> None:
        if self.chain.writing is None:
            wanted = self.sync.due(self.head.height, self.votes, self._outbox.now)
            if wanted is not None:
                self._outbox.add(SendRequest(*wanted))

    def _apply_synced(self) -> None:
        """Apply the next block that a peer sent, after the same checks as any other."""
        if self.chain.writing is not None:
            return
        synced = self.sync.take(self.head.height)
        if synced is None:
            return
        executed = self._check_synced(synced)
        if executed is None:
            self.counters["sync_refused"] += 1
            self.sync.penalise(self.sync.source, self._outbox.now)
        else:
            self.chain.write(synced.decision, executed)

    def _check_synced(self, synced: SyncedBlock) -> ExecutedBlock | None:
        """None if the peer that sent it is at fault. Raises RuntimeError if we are."""
        block, certificate = synced.decision.block, synced.decision.certificate
        if block.header.height != self.chain.next_height:
            return None
        if (certificate.height, certificate.block_hash) != (block.header.height, block.hash):
            return None
        try:
            check_certificate(
                certificate,
                Phase.COMMIT,
                self.genesis.chain_id,
                self.chain.committee,
                self._seat.signatures,
            )
        except CertificateError:
            return None
        if listed_batches(block) != tuple(batch.id for batch in synced.batches):
            return None
        executed = self._judging.execute(block, synced.batches)
        if executed is None:
            raise RuntimeError(
                f"A quorum has decided block {block.header.height}, and it is not valid on the "
                "ledger that this node holds. Check the node's files with `medpact verify`."
            )
        return executed

    def _advance(self) -> None:
        """The block is durable: it is the head, and the next height begins."""
        written = self.chain.advance()
        listed = [batch.id for batch in written.batches]
        overtaken = self.mempool.overtaken_by(listed)
        self.mempool.remove(listed)
        self._remove_dead()
        self._judging.clear()
        self.sync.advanced()
        self._spreading.head_moved(written.batches)
        self._seat.advance()
        self._seat.pend()
        self._seat.suspect_censor(overtaken)
        self._apply_synced()
        self._catch_up()

    # ---- time ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        if self._sweep_at <= self._outbox.now:
            self._sweep_at = self._outbox.now + self._settings.spread.announce_ms
            self._remove_dead()
        if self._spreading.expire():
            self._seat.pend()
        self._judging.ask()
        self._seat.expire()
        self._catch_up()

    @property
    def _earliest_ms(self) -> int:
        """No block that a quorum with good clocks accepts afresh is older, nor is any block."""
        earliest_ms = self._outbox.wall - self.genesis.clock_drift_ms_max
        return max(earliest_ms, self.head.time_ms + 1)

    def _remove_dead(self) -> None:
        height, replay = self.chain.next_height, self.chain.replay
        self.counters["batches_died"] += self.mempool.remove_dead(height, self._earliest_ms, replay)
