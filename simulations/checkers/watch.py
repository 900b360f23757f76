"""Everything that correct nodes make durable, send and report, as it happens."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from consensus.events import Persist
from consensus.messages import Commit, Phase, Prepare, PreparedClaim, ViewChange, claim_of
from ledger.execution import payload_batches
from ledger.genesis import Genesis, genesis_state
from ledger.store import Write, WriteBlock, WriteGenesis, WritePromise
from node.conduct import TOLERATED
from node.events import Report
from node.wire import Consensus, Message
from primitives.block import Block, BlockHeader
from simulations.checkers.council import Council, Signatures, council_at
from simulations.checkers.locks import Locks, Views
from simulations.checkers.promises import PromiseBook, text_of
from simulations.checkers.violation import Fork, Violation
from simulations.store import MemoryStore


class Watch:
    """Sees every write, message and receipt of the correct nodes, in the order in which they come.

    Raises Violation out of whatever the node was doing. `disks` gives those of all correct nodes.
    """

    def __init__(
        self,
        genesis: Genesis,
        liars: Sequence[str],
        disks: Callable[[], Mapping[str, MemoryStore]],
    ) -> None:
        self.chain: dict[int, WriteBlock] = {}
        """The decided blocks, as the first node that applied each wrote it."""
        self._genesis = genesis
        self._liars = tuple(liars)
        self._disks = disks
        self._forgotten: dict[str, int] = {}
        """Of whoever was restored from a backup, the highest height of a promise that it lacks."""
        self._books: dict[str, PromiseBook] = {}
        self._signatures = Signatures(genesis.chain_id)
        self._locks: dict[int, Locks] = {}
        self._views: dict[int, Views] = {}
        self._councils: dict[int, Council] = {}
        self._times = {0: genesis.time_ms}

    def begin(self) -> None:
        """Before anything happens: who decides the first block. Raises Violation."""
        empty = MemoryStore()
        empty.write([WriteGenesis(*genesis_state(self._genesis))])
        self._know_council(1, empty)

    def council(self, height: int) -> Council:
        """Who votes at a height whose parent is decided."""
        council = self._councils.get(height)
        if council is None:
            raise Violation(f"nobody can know yet who votes at height {height}")
        return council

    def restored(self, id: str) -> None:
        """An old copy has taken the place of a correct node's disk: it may lack what it signed, and
        must not vote where it does.
        """
        store = self._disks()[id]
        head_height = store.head_height() or 0
        lost = [
            signed.message.height
            for signed in self._books.setdefault(id, PromiseBook(id)).signed
            if signed.message.height > head_height
            and signed not in [kept.signed for kept in store.promises(signed.message.height)]
        ]
        self._forgotten[id] = max([*lost, self._forgotten.get(id, 0)])

    # ---- what becomes durable --------------------------------------------------------------------

    def wrote(self, id: str, store: MemoryStore, writes: Iterable[Write], wall: int) -> None:
        """Check what a correct node has just made durable; `wall` was its clock as it decided."""
        for write in writes:
            match write:
                case WritePromise(height, promise):
                    self._check_promise(id, store, height, promise, wall)
                case WriteBlock():
                    self._check_block(id, store, write)
                case _:
                    pass

    def _know_council(self, height: int, store: MemoryStore) -> None:
        council = council_at(height, store, self._genesis, self._liars)
        self._councils[height] = council
        self._locks[height] = Locks(council, self._liars)
        self._views[height] = Views(council, self._liars)

    def _check_promise(
        self, id: str, store: MemoryStore, height: int, promise: Persist, wall: int
    ) -> None:
        signed = promise.signed
        message = signed.message
        if (signed.signer, message.height) != (id, height):
            raise Violation(f"{id} records {text_of(signed)} of {signed.signer} at height {height}")
        if id not in self.council(height).keys:
            raise Violation(f"{id} signs {text_of(signed)} and has no vote")
        if height <= self._forgotten.get(id, 0):
            raise Violation(
                f"{id} signs {text_of(signed)}, and its disk has lost what it signed up to height "
                f"{self._forgotten[id]}"
            )
        self._books.setdefault(id, PromiseBook(id)).add(signed)
        # A block that was decided in the same turn has made the proposals of its height useless.
        undecided = (store.head_height() or 0) < height
        if undecided and isinstance(message, Prepare | Commit):
            block = self._check_bodies(id, store, message.block_hash)
            if isinstance(message, Prepare):
                self._check_prepare(id, block, message, wall)
        if not isinstance(message, ViewChange):
            self._views[height].enter(id, message.view)
        if isinstance(message, Prepare):
            self._locks[height].prepare(id, message.view, message.block_hash)
        elif isinstance(message, ViewChange):
            self._views[height].ask(id, message.view, claim_of(message.prepared))
        elif isinstance(message, Commit):
            self._check_commit(id, message, promise)

    def _check_bodies(self, id: str, store: MemoryStore, block_hash: bytes) -> Block:
        """A vote for a block promises that the block and all its batches will be here."""
        block = store.proposal(block_hash)
        if block is None:
            raise Violation(f"{id} votes for block {block_hash.hex()[:8]}, which is not durable")
        if not _holds_batches(store, block):
            raise Violation(f"{id} votes for a block whose batches are not durable")
        return block

    def _check_prepare(self, id: str, block: Block, prepare: Prepare, wall: int) -> None:
        """Who PREPAREs vouches that the view obliges to this block, or lets a fresh one pass."""
        header, locks = block.header, self._locks[prepare.height]
        claims: list[PreparedClaim | None] = [None]
        if header.view == prepare.view:
            self._check_fresh(id, header, prepare, wall)
        else:
            claims = [*locks.claims(prepare.view, prepare.block_hash)]
            if not claims:
                raise Violation(
                    f"{id} prepares in view {prepare.view} of height {prepare.height} a block of "
                    f"view {header.view} that no quorum can have prepared"
                )
        if prepare.view > 0:
            self._views[prepare.height].vouch(id, prepare.view, claims)

    def _check_fresh(self, id: str, header: BlockHeader, prepare: Prepare, wall: int) -> None:
        """A block that is proposed for the first time has its proposer's turn and a plausible time,
        unless a quorum has vouched for it before.
        """
        if header.proposer != self.council(prepare.height).primary(header.view):
            raise Violation(
                f"{id} prepares a block of {header.proposer}, whose turn height {header.height}, "
                f"view {header.view} is not"
            )
        differs_ms = abs(header.time_ms - wall)
        late = differs_ms > self._genesis.clock_drift_ms_max
        vouched = self._locks[prepare.height].may_be_prepared(prepare.view, prepare.block_hash)
        if late and header.proposer != id and not vouched:
            raise Violation(
                f"{id} prepares block {header.height}, whose time differs from its clock by "
                f"{differs_ms} ms"
            )

    def _check_commit(self, id: str, commit: Commit, promise: Persist) -> None:
        certificate = promise.prepared
        place = (commit.view, commit.block_hash)
        if certificate is None or (certificate.view, certificate.block_hash) != place:
            raise Violation(f"{id} signs {text_of(promise.signed)} without a prepared certificate")
        self._signatures.check(id, certificate, Phase.PREPARE, self.council(commit.height))
        self._locks[commit.height].commit(id, commit.view, commit.block_hash)

    def _check_block(self, id: str, store: MemoryStore, write: WriteBlock) -> None:
        block, certificate = write.decision.block, write.decision.certificate
        header = block.header
        if (certificate.height, certificate.block_hash) != (header.height, block.hash):
            raise Violation(f"{id} applies block {header.height} with the certificate of another")
        if certificate.view < header.view:
            raise Violation(f"{id} applies block {header.height}, decided before it was proposed")
        council = self.council(header.height)
        self._signatures.check(id, certificate, Phase.COMMIT, council)
        first = self.chain.setdefault(header.height, write)
        if first.decision.block.hash != block.hash:
            raise Fork(
                f"fork at height {header.height}: {id} applies {block.hash.hex()[:8]}, another "
                f"node {first.decision.block.hash.hex()[:8]}"
            )
        if tuple(first.receipts) != tuple(write.receipts):
            raise Violation(f"{id} has other receipts at height {header.height}")
        if first is write:
            self._check_first(id, store, write, council)

    def _check_first(
        self, id: str, store: MemoryStore, write: WriteBlock, council: Council
    ) -> None:
        """Check a block that nobody has applied before."""
        header = write.decision.block.header
        if header.proposer != council.primary(header.view):
            raise Violation(f"block {header.height} is of {header.proposer}, whose turn it was not")
        if header.time_ms <= self._times[header.height - 1]:
            raise Violation(f"block {header.height} is not dated after block {header.height - 1}")
        self._times[header.height] = header.time_ms
        self._know_council(header.height + 1, store)
        if self._councils[header.height + 1].committee_hash != header.next_committee_hash:
            raise Violation(f"block {header.height} promises another committee than its state has")
        self._check_available(write)

    def _check_available(self, write: WriteBlock) -> None:
        """Whoever gave its COMMIT can serve the block with its batches, now that it counts."""
        decision = write.decision
        disks = self._disks()
        for entry in decision.certificate.signatures:
            store = disks.get(entry.signer)
            if store is None or entry.signer in self._forgotten:
                continue
            applied = (store.head_height() or 0) >= decision.block.header.height
            if not applied and store.proposal(decision.block.hash) is None:
                raise Violation(f"{entry.signer} has no longer the block that it gave its COMMIT")
            if not _holds_batches(store, decision.block):
                raise Violation(f"{entry.signer} has no longer the batches of a decided block")

    # ---- what leaves -----------------------------------------------------------------------------

    def sends(self, id: str, message: Message) -> None:
        """Check what a correct node is about to send: what it signs must be durable."""
        if isinstance(message, Consensus) and message.signed.signer == id:
            signed = message.signed
            if not self._books.setdefault(id, PromiseBook(id)).holds(signed):
                raise Violation(f"{id} sends {text_of(signed)} before it is durable")

    def reported(self, id: str, report: Report) -> None:
        """Check what a correct node accuses others of."""
        facts = dict(report.facts)
        if report.event == "contradiction" and facts["institution"] not in self._liars:
            raise Violation(f"{id} has evidence against {facts['institution']}, which is correct")
        if report.event == "key_used_elsewhere":
            raise Violation(f"{id} takes its own votes for those of another process")
        blames = report.event == "peer_at_fault" and facts["reason"] not in TOLERATED
        # Whoever was restored from a backup no longer has the blocks that it spoke of.
        blames = blames and (facts["reason"], facts["peer"] in self._forgotten) != (
            "head_false",
            True,
        )
        # Where more lie than any class can bear, correct members follow forged claims.
        sound = self._councils[max(self._councils)].is_sound(self._liars)
        if blames and sound and facts["peer"] not in self._liars:
            why = f"{facts['reason']} {facts.get('detail', '')}".strip()
            raise Violation(f"{id} blames {facts['peer']}, which is correct: {why}")


def _holds_batches(store: MemoryStore, block: Block) -> bool:
    return all(store.batch(batch_id) is not None for batch_id in payload_batches(block.payload))
