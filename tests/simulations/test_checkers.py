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
    Signed,
    ViewChange,
    sign,
)
from ledger.receipts import ReceiptCode
from ledger.store import Write, WriteBlock, WritePromise
from node.events import Report
from node.wire import Consensus
from primitives.block import Block
from primitives.keys import PrivateKey
from simulations.checkers import (
    PromiseBook,
    Violation,
    Watch,
    check_acknowledged,
    check_meaning,
    check_stores,
)
from simulations.cluster import Cluster
from simulations.drawing import draw

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
