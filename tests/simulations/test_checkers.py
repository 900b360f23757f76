"""Each checker can fail: a true history passes, and every way of breaking it is named."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest

from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Commit,
    Message,
    Phase,
    Prepare,
    PreparedClaim,
    Signed,
    ViewChange,
    sign,
)
from ledger.receipts import ReceiptCode
from ledger.standing import STANDING_KEY, Offence, standing_of
from ledger.store import Write, WriteBlock, WritePromise
from node.events import Report
from node.wire import Consensus
from primitives.block import Block
from primitives.codec import encode
from primitives.keys import PrivateKey
from simulations.checkers import (
    PromiseBook,
    Violation,
    Watch,
    check_acknowledged,
    check_meaning,
    check_stores,
)
from simulations.checkers.council import Council, council_at
from simulations.checkers.locks import Locks, Views
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.store import MemoryStore

SEED = 3
"""A run without faults, in which shares are accepted, refused, and refused for a revocation."""
KEY = PrivateKey(bytes(32))
CHAIN = bytes(32)
HASH_A, HASH_B = b"a" * 32, b"b" * 32
WHO = "recorder-1"


def prepared(view: int, block_hash: bytes) -> Certificate:
    return Certificate(int(Phase.PREPARE), 1, view, block_hash, ())


def signed(message: Message, who: str = WHO) -> Signed:
    return sign(CHAIN, who, KEY, message)


@pytest.fixture(scope="module")
def finished() -> Cluster:
    """A run that has passed; the tests must not change it."""
    cluster = Cluster(draw(SEED, kinds=(), byzantine=()))
    cluster.run()
    return cluster


def blocks_of(cluster: Cluster) -> list[WriteBlock]:
    return [cluster.watch.chain[height] for height in sorted(cluster.watch.chain)]


def fresh_watch(cluster: Cluster, liars: tuple[str, ...] = (), height: int = 0) -> Watch:
    """A watch that has seen the blocks up to a height."""
    disks = {host.id: host.store for host in cluster.correct}
    watch = Watch(cluster.genesis, liars, lambda: disks)
    watch.begin()
    for write in blocks_of(cluster)[:height]:
        watch.wrote(WHO, disks[WHO], [write], 0)
    return watch


# ---- promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "later", "reason"),
    [
        (Prepare(1, 0, HASH_A), Prepare(1, 0, HASH_B), "contradicts itself"),
        (Commit(1, 2, HASH_A), Commit(1, 2, HASH_B), "contradicts itself"),
        (ViewChange(1, 3, None), ViewChange(1, 3, prepared(1, HASH_A)), "contradicts itself"),
        (ViewChange(1, 3, None), Prepare(1, 2, HASH_A), "in a view that it has left"),
        (Commit(1, 2, HASH_A), ViewChange(1, 3, None), "hides a block"),
        (Commit(1, 2, HASH_A), ViewChange(1, 3, prepared(1, HASH_A)), "hides a block"),
    ],
)
def test_a_contradiction_is_seen(earlier: Message, later: Message, reason: str) -> None:
    book = PromiseBook(WHO)
    book.add(signed(earlier))
    with pytest.raises(Violation, match=reason):
        book.add(signed(later))


def test_what_may_be_promised_is_no_contradiction() -> None:
    book = PromiseBook(WHO)
    messages: list[Message] = [
        Prepare(1, 0, HASH_A),
        Commit(1, 0, HASH_A),
        ViewChange(1, 1, prepared(0, HASH_A)),
        Prepare(1, 1, HASH_A),
        ViewChange(1, 2, prepared(0, HASH_A)),
        Prepare(2, 0, HASH_B),
        Prepare(2, 0, HASH_B),
    ]
    for message in messages:
        book.add(signed(message))
    assert all(book.holds(signed(message)) for message in messages)
    assert not book.holds(signed(Prepare(2, 1, HASH_B)))


@pytest.mark.parametrize(
    ("message", "certificate", "who", "reason"),
    [
        (Prepare(9, 0, HASH_A), None, WHO, "records PREPARE"),
        (Prepare(99, 0, HASH_A), None, "recorder-2", "of recorder-2"),
        (Prepare(99, 0, HASH_A), None, WHO, "not durable"),
    ],
)
def test_a_vote_rests_on_what_is_durable(
    finished: Cluster, message: Message, certificate: Certificate | None, who: str, reason: str
) -> None:
    height = finished.correct[0].running.head.height
    above = msgspec.structs.replace(message, height=height + 1 if message.height == 99 else 9)
    promise = WritePromise(height + 1, Persist(signed(above, who), certificate, None))
    watch = fresh_watch(finished, height=height)
    with pytest.raises(Violation, match=reason):
        watch.wrote(WHO, finished.correct[0].store, [promise], 0)


def test_a_commit_rests_on_its_certificate(finished: Cluster) -> None:
    commit = signed(Commit(1, 0, HASH_A))
    for certificate, reason in (
        (None, "without a prepared certificate"),
        (prepared(1, HASH_A), "without a prepared certificate"),
        (prepared(0, HASH_B), "without a prepared certificate"),
        (prepared(0, HASH_A), "proves nothing"),
    ):
        promise = WritePromise(1, Persist(commit, certificate, None))
        with pytest.raises(Violation, match=reason):
            fresh_watch(finished).wrote(WHO, finished.correct[0].store, [promise], 0)


def test_nothing_leaves_before_it_is_durable(finished: Cluster) -> None:
    watch = fresh_watch(finished)
    vote = signed(ViewChange(1, 1, None))
    watch.sends("recorder-2", Consensus(vote))  # Of another member: passed on.
    with pytest.raises(Violation, match="before it is durable"):
        watch.sends(WHO, Consensus(vote))
    watch.wrote(WHO, finished.correct[0].store, [WritePromise(1, Persist(vote, None, None))], 0)
    watch.sends(WHO, Consensus(vote))


def test_no_correct_member_is_accused(finished: Cluster) -> None:
    accusation = Report("contradiction", (("institution", "recorder-2"),))
    fresh_watch(finished, liars=("recorder-2",)).reported(WHO, accusation)
    with pytest.raises(Violation, match="recorder-2, which is correct"):
        fresh_watch(finished).reported(WHO, accusation)
    clock = Report("peer_at_fault", (("peer", "recorder-2"), ("reason", "clock_differs")))
    fresh_watch(finished).reported(WHO, clock)
    detail = ("detail", "it is odd")
    refusal = Report("peer_at_fault", (("peer", "recorder-2"), ("reason", "block_invalid"), detail))
    fresh_watch(finished, liars=("recorder-2",)).reported(WHO, refusal)
    with pytest.raises(Violation, match="it is odd"):
        fresh_watch(finished).reported(WHO, refusal)


# ---- blocks --------------------------------------------------------------------------------------


def with_certificate(write: WriteBlock, **changes: object) -> WriteBlock:
    certificate = msgspec.structs.replace(write.decision.certificate, **changes)
    return replace(write, decision=msgspec.structs.replace(write.decision, certificate=certificate))


def too_few(write: WriteBlock) -> WriteBlock:
    return with_certificate(write, signatures=write.decision.certificate.signatures[:1])


def badly_signed(write: WriteBlock) -> WriteBlock:
    first, *others = write.decision.certificate.signatures
    bad = msgspec.structs.replace(first, signature=bytes(64))
    return with_certificate(write, signatures=(bad, *others))


def of_another_block(write: WriteBlock) -> WriteBlock:
    return with_certificate(write, block_hash=HASH_A)


def decided_too_early(write: WriteBlock) -> WriteBlock:
    old = write.decision.block
    block = Block(msgspec.structs.replace(old.header, view=9), old.payload)
    changed = with_certificate(write, block_hash=block.hash)
    return replace(changed, decision=msgspec.structs.replace(changed.decision, block=block))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (too_few, "proves nothing"),
        (badly_signed, "proves nothing"),
        (of_another_block, "with the certificate of another"),
        (decided_too_early, "before it was proposed"),
    ],
)
def test_a_block_needs_its_certificate(
    finished: Cluster, change: Callable[[WriteBlock], WriteBlock], reason: str
) -> None:
    write = finished.watch.chain[2]
    store = finished.correct[0].store
    fresh_watch(finished, height=1).wrote(WHO, store, [write], 0)
    with pytest.raises(Violation, match=reason):
        fresh_watch(finished, height=1).wrote(WHO, store, [change(write)], 0)


def test_nobody_speaks_of_a_height_whose_committee_is_not_known(finished: Cluster) -> None:
    store = finished.correct[0].store
    with pytest.raises(Violation, match="who votes at height 2"):
        fresh_watch(finished).wrote(WHO, store, [finished.watch.chain[2]], 0)


def test_receipts_are_the_same_everywhere(finished: Cluster) -> None:
    watch, write = fresh_watch(finished, height=2), finished.watch.chain[2]
    watch.wrote(WHO, finished.correct[0].store, [write], 0)
    other: list[Write] = [replace(write, receipts=write.receipts[:-1])]
    with pytest.raises(Violation, match="other receipts"):
        watch.wrote("recorder-2", finished.correct[1].store, other, 0)


# ---- the end -------------------------------------------------------------------------------------


def test_a_true_history_passes(finished: Cluster) -> None:
    finished.check()


def test_states_are_equal_and_those_of_the_state_root(finished: Cluster) -> None:
    stores = {host.id: host.store.copy() for host in finished.correct}
    check_stores(finished.watch, stores)
    key = min(stores[WHO].values)
    stores[WHO].values[key] += b"!"
    with pytest.raises(Violation, match="differ in their state"):
        check_stores(finished.watch, stores)
    with pytest.raises(Violation, match="not that of its head's state root"):
        check_stores(finished.watch, {WHO: stores[WHO]})


def test_what_was_decided_is_kept(finished: Cluster) -> None:
    chain = finished.watch.chain

    def spoil(attribute: str, height: int, value: object) -> None:
        store = finished.correct[0].store.copy()
        kept = getattr(store, attribute)
        kept[height] = value
        check_stores(finished.watch, {WHO: store})

    with pytest.raises(Violation, match="has lost block 2"):
        spoil("_decisions", 2, None)
    with pytest.raises(Violation, match="does not follow block 1"):
        spoil("_headers", 2, chain[3].decision.block.header)
    with pytest.raises(Violation, match="not the one that was decided"):
        spoil("_decisions", 2, chain[3].decision)
    with pytest.raises(Violation, match="the receipts of block 2"):
        spoil("_receipts", 2, ())
    store = finished.correct[0].store.copy()
    store._batches[chain[2].batches[0].id] = b""
    with pytest.raises(Violation, match="has lost a batch"):
        check_stores(finished.watch, {WHO: store})


def with_code(finished: Cluster, old: ReceiptCode, new: ReceiptCode) -> Iterator[WriteBlock]:
    """The chain, with the first receipt of one code changed to another."""
    changed = False
    for write in blocks_of(finished):
        receipts = list(write.receipts)
        for index, receipt in enumerate(receipts):
            if receipt.code == old and not changed:
                receipts[index] = msgspec.structs.replace(receipt, code=int(new), operation=0)
                changed = True
        yield replace(write, receipts=receipts)
    assert changed, f"the run has no {old.name} any more; choose another seed"


def test_receipts_say_what_the_model_says(finished: Cluster) -> None:
    refused = with_code(finished, ReceiptCode.OK, ReceiptCode.NOT_ENTITLED)
    with pytest.raises(Violation, match="says NOT_ENTITLED"):
        check_meaning(finished.genesis, refused)
    shared = with_code(finished, ReceiptCode.GRANT_REVOKED, ReceiptCode.OK)
    with pytest.raises(Violation, match="shares under a grant revoked at height"):
        check_meaning(finished.genesis, shared)
    first = blocks_of(finished)[0]
    with pytest.raises(Violation, match="one receipt per transaction"):
        check_meaning(finished.genesis, [replace(first, receipts=())])


def test_what_was_acknowledged_stands(finished: Cluster) -> None:
    told, blocks = finished.workload.acknowledged, blocks_of(finished)
    assert told
    check_acknowledged(told, blocks)
    with pytest.raises(Violation, match="is lost"):
        check_acknowledged(told, blocks[:-3])
    with pytest.raises(Violation, match="ran twice"):
        check_acknowledged(told, [*blocks, blocks[0]])
    identity, receipt = next(iter(told.items()))
    with pytest.raises(Violation, match="is lost"):
        check_acknowledged({identity: replace(receipt, code=receipt.code + 1)}, blocks)


# ---- committees, turns, dates, views -------------------------------------------------------------


def next_place(finished: Cluster) -> tuple[Watch, int]:
    """A watch that has seen the whole run, and the height above it."""
    height = finished.correct[0].running.head.height
    return fresh_watch(finished, height=height), height + 1


def voter_of(finished: Cluster) -> str:
    """A voter that is not the next primary."""
    watch, height = next_place(finished)
    council = watch.council(height)
    return next(who for who in council.keys if who != council.primary(0))


def prepared_block(
    finished: Cluster, proposer: str, time_ms: int
) -> tuple[MemoryStore, WritePromise]:
    """That voter PREPAREs a block above the head, in view 0."""
    store = finished.correct[0].store.copy()
    head = finished.correct[0].running.head
    old = finished.watch.chain[head.height].decision.block
    header = msgspec.structs.replace(
        old.header,
        height=head.height + 1,
        parent_hash=head.hash(),
        proposer=proposer,
        view=0,
        time_ms=time_ms,
    )
    block = Block(header, old.payload)
    vote = signed(Prepare(header.height, 0, block.hash), voter_of(finished))
    promise = WritePromise(header.height, Persist(vote, None, block))
    store.write([promise])
    return store, promise


def test_a_fresh_block_is_dated_within_the_drift_of_its_voter(finished: Cluster) -> None:
    drift = finished.genesis.clock_drift_ms_max
    watch, height = next_place(finished)
    proposer = watch.council(height).primary(0)
    voter = voter_of(finished)
    wall = finished.correct[0].running.head.time_ms + 10 * drift
    for time_ms in (wall - drift, wall + drift):
        store, promise = prepared_block(finished, proposer, time_ms)
        next_place(finished)[0].wrote(voter, store, [promise], wall)
    for time_ms in (wall - drift - 1, wall + drift + 1):
        store, promise = prepared_block(finished, proposer, time_ms)
        with pytest.raises(Violation, match=f"differs from its clock by {drift + 1} ms"):
            next_place(finished)[0].wrote(voter, store, [promise], wall)


def test_who_prepares_has_seen_whose_turn_it_is(finished: Cluster) -> None:
    watch, height = next_place(finished)
    council = watch.council(height)
    other = next(who for who in council.roster if who != council.primary(0))
    store, promise = prepared_block(finished, other, 1)
    with pytest.raises(Violation, match="whose turn height"):
        watch.wrote(voter_of(finished), store, [promise], 1)


def test_what_is_proposed_again_has_been_prepared(finished: Cluster) -> None:
    watch, height = next_place(finished)
    store, promise = prepared_block(finished, watch.council(height).primary(0), 1)
    block = promise.promise.block
    assert block is not None
    vote = signed(Prepare(height, 2, block.hash), voter_of(finished))
    with pytest.raises(Violation, match="of view 0 that no quorum can have prepared"):
        watch.wrote(vote.signer, store, [WritePromise(height, Persist(vote, None, block))], 1)


def test_who_gave_its_commit_holds_the_bodies_when_the_block_is_decided(
    finished: Cluster,
) -> None:
    write = finished.watch.chain[2]
    signer = write.decision.certificate.signatures[0].signer
    disks = {host.id: host.store for host in finished.correct}
    bare = disks[signer].copy()
    bare._batches.clear()
    empty = MemoryStore()
    for store, reason in ((bare, "the batches of a decided"), (empty, "the block that it gave")):
        for forgiven in (True, False):
            shown = dict(disks)
            watch = Watch(finished.genesis, (), lambda shown=shown: shown)  # type: ignore[misc]
            watch.begin()
            watch.wrote("auditor-1", disks[signer], [finished.watch.chain[1]], 0)
            shown[signer] = store
            if forgiven:
                watch.restored(signer)
                watch.wrote("auditor-1", disks[signer], [write], 0)
            else:
                with pytest.raises(Violation, match=f"{signer} has no longer {reason}"):
                    watch.wrote("auditor-1", disks[signer], [write], 0)


def test_only_voters_speak_and_only_liars_lose_their_vote(finished: Cluster) -> None:
    store = finished.correct[0].store
    vote = signed(ViewChange(1, 1, None), "observer-9")
    promise = WritePromise(1, Persist(vote, None, None))
    with pytest.raises(Violation, match="has no vote"):
        fresh_watch(finished).wrote("observer-9", store, [promise], 0)
    genesis, standing = finished.genesis, standing_of(store)
    offence = Offence(WHO, bytes(32), suspended=True, forgiven_height=0)
    roster = tuple(who for who in standing.roster if who != WHO)
    changed = msgspec.structs.replace(standing, offences=(offence,), roster=roster)
    state = store.copy()
    state.values[STANDING_KEY] = encode(changed)
    assert WHO not in council_at(5, state, genesis, (WHO,)).keys
    with pytest.raises(Violation, match=f"{WHO} is correct and has no vote"):
        council_at(5, state, genesis, ())
    alone = msgspec.structs.replace(standing, roster=(WHO,))
    state.values[STANDING_KEY] = encode(alone)
    with pytest.raises(Violation, match="the roster of height 5"):
        council_at(5, state, genesis, ())


COUNCIL = Council(
    height=7,
    groups=(("a", "b", "c", "d"), ("x",)),
    keys={},
    roster=("a", "b", "c", "d"),
    committee_hash=bytes(32),
)


def test_a_quorum_is_counted_in_every_group() -> None:
    assert COUNCIL.missing(("a", "b", "c", "x")) is None
    assert COUNCIL.missing(("a", "b", "c", "d")) == "0 of 1 voters"
    assert COUNCIL.missing(("a", "b", "x")) == "2 of 4 voters"
    assert COUNCIL.is_sound(("a",))
    assert COUNCIL.is_sound(("a", "b", "c", "d"))
    assert not COUNCIL.is_sound(("a", "b", "x"))
    assert COUNCIL.primary(2) == "b"


@pytest.mark.parametrize("late", [False, True])
def test_nobody_prepares_against_what_may_be_decided(late: bool) -> None:
    """In whichever order the messages come; with the liars counted as having said everything."""
    locks = Locks(COUNCIL, ("d",))
    for who in ("a", "b"):
        locks.prepare(who, 0, HASH_A)
    locks.commit("x", 0, HASH_A)
    if not late:
        locks.commit("a", 0, HASH_A)
        locks.commit("b", 0, HASH_A)
        with pytest.raises(Violation, match="fork at height 7 under way: c prepares"):
            locks.prepare("c", 1, HASH_B)
        return
    locks.prepare("c", 1, HASH_B)
    locks.commit("a", 0, HASH_A)
    with pytest.raises(Violation, match="fork at height 7 under way"):
        locks.commit("b", 0, HASH_A)


def test_where_no_group_is_within_its_bound_anything_may_be_prepared() -> None:
    locks = Locks(COUNCIL, ("c", "d", "x"))
    for who in ("a", "b"):
        locks.prepare(who, 0, HASH_A)
        locks.commit(who, 0, HASH_A)
        locks.prepare(who, 1, HASH_B)
    assert locks.may_be_prepared(1, HASH_B)
    assert not locks.may_be_prepared(2, HASH_B)


def test_a_view_begins_when_a_quorum_has_asked_for_it() -> None:
    views = Views(COUNCIL, ("d",))
    views.enter("a", 0)
    for who in ("a", "b"):
        views.ask(who, 1, None)
    with pytest.raises(Violation, match="a speaks in view 1 of height 7"):
        views.enter("a", 1)
    views.ask("x", 1, None)
    views.enter("a", 1)
    with pytest.raises(Violation, match="speaks in view 2"):
        views.enter("a", 2)


def test_a_view_obliges_to_the_highest_claim_of_a_quorum() -> None:
    first, second = PreparedClaim(0, HASH_A), PreparedClaim(1, HASH_B)
    views = Views(COUNCIL, ())
    for who in ("a", "b", "c", "d", "x"):
        views.ask(who, 1, None)
    for who, claim in (("a", first), ("b", second), ("c", None), ("x", None)):
        views.ask(who, 2, claim)
    views.vouch("a", 2, [second])
    with pytest.raises(Violation, match="another block than any quorum"):
        views.vouch("a", 2, [first])
    with pytest.raises(Violation, match="a prepares in view 2 of height 7"):
        views.vouch("a", 2, [None])
    # Without b the highest claim is the first, and three of four are a quorum.
    views.ask("d", 2, None)
    views.vouch("a", 2, [None, first])
    with pytest.raises(Violation, match="another block"):
        views.vouch("a", 2, [None])


def test_liars_may_have_claimed_anything() -> None:
    views = Views(COUNCIL, ("d",))
    for who, claim in (("a", None), ("b", None), ("c", PreparedClaim(0, HASH_A)), ("x", None)):
        views.ask(who, 1, claim)
    views.vouch("a", 1, [None])
    views.vouch("a", 1, [PreparedClaim(0, HASH_A)])
    with pytest.raises(Violation, match="another block"):
        Views(COUNCIL, ("d",)).vouch("a", 1, [None])


def test_what_a_certificate_could_show() -> None:
    locks = Locks(COUNCIL, ("d", "x"))
    for who in ("a", "b"):
        locks.prepare(who, 1, HASH_A)
    locks.prepare("c", 0, HASH_B)
    assert locks.claims(2, HASH_A) == [PreparedClaim(1, HASH_A)]
    assert locks.claims(1, HASH_A) == []
    assert locks.claims(2, HASH_B) == []
    # A quorum of liars can claim any view.
    assert Locks(COUNCIL, ("a", "b", "c", "x")).claims(5, HASH_B) == [PreparedClaim(4, HASH_B)]


def test_one_group_alone_drives_nobody() -> None:
    views = Views(COUNCIL, ("x",))
    views.ask("a", 1, None)
    with pytest.raises(Violation, match=r"a asks for view 2 of height 7, where 1 of 4"):
        views.ask("a", 2, None)
    views.ask("b", 1, None)
    views.ask("a", 2, None)
    other = Views(COUNCIL, ("a", "b", "c", "d"))
    with pytest.raises(Violation, match=r"0 of 1 voters can have asked for view 8"):
        other.ask("x", 9, None)


def test_turns_and_terms_are_counted_again(finished: Cluster) -> None:
    def changed(**changes: object) -> list[WriteBlock]:
        first, *others = blocks_of(finished)
        old = first.decision.block
        block = Block(msgspec.structs.replace(old.header, **changes), old.payload)
        decision = msgspec.structs.replace(first.decision, block=block)
        return [replace(first, decision=decision), *others]

    with pytest.raises(Violation, match="whose turn it was not"):
        check_meaning(finished.genesis, changed(proposer="auditor-1"))
    with pytest.raises(Violation, match="another committee"):
        check_meaning(finished.genesis, changed(next_committee_hash=HASH_A))
    with pytest.raises(Violation, match="runs a transaction that had expired"):
        check_meaning(finished.genesis, changed(time_ms=2**50))
