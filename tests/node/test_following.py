"""A member without a vote: batches are carried to it and decided blocks told, so that it fetches
nothing; what is lost or false costs it a question, and what was only read never counts as checked.
"""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from consensus.certificates import assemble
from consensus.messages import Decision, Phase, vote_digest
from ledger.transactions import BatchBody as BatchContent
from ledger.transactions import CheckedBatch, Envelope, batch_id
from node.events import (
    BatchArrived,
    BlocksArrived,
    DecisionArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    RequestEnded,
    SendMessage,
    SendRequest,
    Submitted,
)
from node.following import GATHER_MS_MAX
from node.intake import check_raw_batch, verified_commits
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.wire import (
    BatchBody,
    BatchesFound,
    BatchesWanted,
    BlocksWanted,
    Decided,
    Head,
    Message,
    Request,
    decode_message,
)
from primitives.block import Block
from primitives.codec import decode, encode
from tests.node.support import (
    Bench,
    Net,
    Parcel,
    executed,
    executed_on,
    key_of,
    make_batch,
    make_chain,
    make_genesis,
    make_transaction,
    rules_of,
    synced,
)

OBSERVER = "observer-1"
VOTERS = [f"recorder-{number}" for number in range(1, 5)]
GENESIS = make_genesis(1, observers=2)
CHAIN = synced(GENESIS, make_chain(GENESIS, 12), 1, 12)
"""Decided by recorder-1 alone, a batch each."""


def carries(kind: type[Message], to: str = OBSERVER) -> Callable[[Parcel], bool]:
    """Whether a parcel brings an observer such a message."""

    def is_it(parcel: Parcel) -> bool:
        direct = isinstance(parcel.content, bytes) and not parcel.gossip and parcel.to == to
        return direct and isinstance(decode_message(bytes(parcel.content)), kind)  # type: ignore[arg-type]

    return is_it


def asked_by(net: Net, id: str = OBSERVER) -> list[type]:
    """The kinds of a node's requests."""
    return [type(request) for asker, _, request in net.requests if asker == id]


def make(**settings: Any) -> Bench:
    """An observer that is connected to the only voter and to another observer."""
    bench = Bench(GENESIS, OBSERVER, settings=CoreSettings(**settings))
    bench.start()
    for peer in ("recorder-1", "observer-2"):
        bench.step(PeerConnected(peer))
    return bench


def tell(bench: Bench, number: int, peer: str = "recorder-1") -> None:
    """A voter tells of block `number`."""
    decision = CHAIN[number - 1].decision
    rules = rules_of(GENESIS)
    bench.step(DecisionArrived(peer, decision, verified_commits(decision, rules)))


def carry(bench: Bench, number: int, peer: str = "recorder-1") -> None:
    """The batch of block `number` comes, read only."""
    (batch,) = CHAIN[number - 1].batches
    bench.step(BatchArrived(peer, batch, False))


# ---- nothing is fetched --------------------------------------------------------------------------


def test_an_observer_that_is_told_everything_asks_for_nothing() -> None:
    net = Net(make_genesis(4, observers=2))
    net.run(100)
    for number, member in enumerate([*VOTERS, "observer-1", "observer-2"] * 2):
        taken = net.submit(member, number)
        net.run(50, lambda t=taken: executed(net, t))  # type: ignore[misc]
        assert executed(net, taken), "in the time of the network, without a wait of anybody's"
    assert net.requests == []
    assert len(net[OBSERVER].core.following.batches) == 0


def test_every_follower_is_told_once_of_each_block_by_different_voters() -> None:
    net = Net(make_genesis(4, observers=8))
    told: Counter[tuple[int, str]] = Counter()
    tellers: dict[str, set[str]] = {}

    def note(parcel: Parcel) -> bool:
        if isinstance(parcel.content, bytes) and not parcel.gossip:
            message = decode_message(parcel.content)
            if isinstance(message, Decided):
                told[message.head.height, parcel.to] += 1
                tellers.setdefault(parcel.to, set()).add(parcel.sender)
        return False

    net.lose = note
    for number in range(4):
        taken = net.submit("recorder-1", number)
        net.run(1_000, lambda t=taken: executed(net, t))  # type: ignore[misc]
    net.run(100)
    observers = [f"observer-{number}" for number in range(1, 9)]
    heights = range(1, max(net.heights()) + 1)
    assert told == {(height, observer): 1 for height in heights for observer in observers}
    assert all(tellers[observer] == set(VOTERS) for observer in observers)


def test_the_share_of_a_voter_that_is_gone_is_told_by_the_others() -> None:
    net = Net(make_genesis(4, observers=4))
    net.run(100)
    net.stop("recorder-4")
    for number in range(4):
        taken = net.submit("recorder-1", number)
        net.run(5_000, lambda t=taken: executed(net, t))  # type: ignore[misc]
        assert executed(net, taken)
    assert [request for _, _, request in net.requests if isinstance(request, BlocksWanted)] == []


# ---- what is lost --------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "wanted"), [(BatchBody, BatchesWanted), (Decided, BlocksWanted)])
def test_only_the_batches_or_the_block_that_were_lost_are_asked_for(
    lost: type[Message], wanted: type[Request]
) -> None:
    net = Net(make_genesis(4, observers=1))
    net.run(100)
    net.lose = carries(lost)
    taken = net.submit("recorder-1", 1)
    net.run(2_000, lambda: executed(net, taken))
    assert executed(net, taken)
    assert asked_by(net) == [wanted]


def test_a_block_whose_batches_nobody_gives_is_left_to_catching_up() -> None:
    bench = make()
    tell(bench, 1)
    bench.expire(bench.now + GATHER_MS_MAX - 1)
    assert bench.core.counters["decisions_given_up"] == 0
    bench.expire(bench.now + 1_000)
    assert not bench.core.following.is_told
    assert bench.core.counters["decisions_given_up"] == 1
    assert ("recorder-1", BlocksWanted(1, 1)) in bench.asked()


def test_blocks_are_applied_in_order_however_they_come() -> None:
    bench = make()
    for number in (3, 1, 2):
        carry(bench, number)
    for number in (3, 2):
        tell(bench, number)
        assert bench.core.head.height == 0
    assert not bench.core.following.is_told
    tell(bench, 1)
    assert bench.core.head.height == 3
    tell(bench, 4)
    assert bench.core.head.height == 3
    carry(bench, 4)
    assert bench.core.head.height == 4
    assert bench.core.chain.head_hash == CHAIN[3].decision.block.hash


def test_what_is_far_ahead_is_a_head_and_its_batches_are_not_read() -> None:
    bench = make()
    following = bench.core.following
    assert [following.wants(height) for height in (0, 1, 8, 9)] == [False, True, True, False]
    tell(bench, 9)
    assert not following.is_told
    assert following.batches.get(CHAIN[8].batches[0].id) is None
    assert bench.asked() == [("recorder-1", BlocksWanted(1, 9))]
    assert not following.is_near


def test_who_is_told_asks_for_nothing_until_that_is_applied_or_given_up() -> None:
    """What comes after could not be applied before it, and would be asked for again and again."""
    bench = make()
    tell(bench, 1)
    tell(bench, 2)
    bench.step(MessageArrived("recorder-1", Head(8, b"h" * 32)))
    gathered = bench.expire(bench.now + GATHER_MS_MAX - 1)
    asked = [effect.request for effect in gathered if isinstance(effect, SendRequest)]
    assert {type(request) for request in asked} == {BatchesWanted}
    carry(bench, 1)
    carry(bench, 2)
    assert bench.core.head.height == 2
    bench.expire(bench.now + CoreSettings().follow_patience_ms)
    assert bench.asked() == [("recorder-1", BlocksWanted(3, 6))]


def test_who_is_far_behind_asks_for_whole_blocks_from_its_head_on_whatever_it_was_told() -> None:
    """Its batches were not read, and it would stay behind if it asked for those of each block."""
    bench = make()
    tell(bench, 1)
    tell(bench, 2)
    bench.step(MessageArrived("recorder-1", Head(11, b"h" * 32)))
    assert bench.asked() == [("recorder-1", BlocksWanted(1, 11))]
    bench.step(BlocksArrived("recorder-1", CHAIN[:11], 11))
    bench.step(RequestEnded("recorder-1", BlocksWanted(1, 11), True))
    assert bench.core.head.height == 11
    assert bench.asked() == []


def test_what_was_asked_for_before_we_were_told_is_taken() -> None:
    bench = make()
    bench.step(MessageArrived("recorder-1", Head(3, b"h" * 32)))
    bench.expire(bench.now + CoreSettings().follow_patience_ms)
    assert bench.asked() == [("recorder-1", BlocksWanted(1, 3))]
    for number in (1, 2):
        tell(bench, number)
    carry(bench, 1)
    assert bench.core.head.height == 1
    bench.step(BlocksArrived("recorder-1", CHAIN[:3], 3))
    bench.step(RequestEnded("recorder-1", BlocksWanted(1, 3), True))
    assert bench.core.head.height == 3
    assert not bench.core.following.is_told


def test_near_is_who_is_near_half_of_the_voters_whatever_others_claim() -> None:
    bench = Bench(make_genesis(4, observers=2), OBSERVER)
    bench.start()
    for peer in (*VOTERS, "observer-2"):
        bench.step(PeerConnected(peer))
    for liar in ("observer-2", "recorder-1", "recorder-4"):
        bench.step(MessageArrived(liar, Head(10**9, b"h" * 32)))
        for voter in set(VOTERS) - {liar}:
            bench.core.sync.heard(voter, 8)
        assert bench.core.following.is_near
    for voter in VOTERS:
        bench.core.sync.heard(voter, 9)
    assert not bench.core.following.is_near


def test_a_voter_tells_what_it_has_decided_whatever_others_claim() -> None:
    bench = Bench(GENESIS, "recorder-1")
    bench.start()
    for peer in (OBSERVER, "observer-2"):
        bench.step(PeerConnected(peer))
    bench.step(MessageArrived("observer-2", Head(10**9, b"h" * 32)))
    bench.step(Submitted((make_transaction(GENESIS, "recorder-1", 1),)))
    gathered = bench.effects + bench.expire(bench.now + 10)
    told = [
        e.peer for e in gathered if isinstance(e, SendMessage) and isinstance(e.message, Decided)
    ]
    assert sorted(told) == [OBSERVER, "observer-2"]


# ---- what is false -------------------------------------------------------------------------------


def forged(decision: Decision, signer: str) -> Decision:
    """The same block with a COMMIT that is none."""
    block = decision.block
    digest = vote_digest(
        GENESIS.chain_id, "recorder-1", Phase.COMMIT, block.header.height, 0, block.hash
    )
    signature = key_of(signer).sign(digest)
    proof = assemble(Phase.COMMIT, block.header.height, 0, block.hash, {"recorder-1": signature})
    return Decision(block, proof)


def test_a_false_decision_is_not_kept_and_its_sender_counted() -> None:
    bench = make()
    lies = [
        forged(CHAIN[0].decision, "observer-2"),
        msgspec.structs.replace(CHAIN[0].decision, certificate=CHAIN[1].decision.certificate),
        Decision(
            Block(CHAIN[0].decision.block.header, CHAIN[1].decision.block.payload),
            CHAIN[0].decision.certificate,
        ),
    ]
    for count, lie in enumerate(lies, 1):
        verified = verified_commits(lie, rules_of(GENESIS))
        bench.step(DecisionArrived("observer-2", lie, verified))
        assert bench.core.conduct.counts() == {"observer-2": {"sync_block_false": count}}
        assert not bench.core.following.is_told
        assert bench.core.sync.target() == 0
    later = forged(CHAIN[4].decision, "observer-2")
    bench.step(DecisionArrived("observer-2", later, ()))
    assert bench.core.counters["decisions_unproven"] == 1
    assert bench.core.conduct.counts() == {"observer-2": {"sync_block_false": 3}}
    # The true ones have their place all the same.
    carry(bench, 1)
    tell(bench, 1)
    assert bench.core.head.height == 1


def spoilt(genesis: Any, author: str) -> CheckedBatch:
    """A batch that its author has signed, with a transaction that nobody has."""
    true = make_transaction(genesis, author, 1)
    envelope = decode(true.raw, Envelope, bytes_max=len(true.raw))
    raw = encode(Envelope(envelope.body, bytes(64)))
    body = encode(BatchContent(author, 1, 500, (raw,)))
    signature = key_of(author).sign(batch_id(genesis.chain_id, body))
    return check_raw_batch(encode(Envelope(body, signature)), rules_of(genesis), signatures=False)


def test_what_was_only_read_stays_apart_and_is_given_to_nobody() -> None:
    bench = make()
    batch = spoilt(GENESIS, "observer-2")
    bench.step(BatchArrived("observer-2", batch, False))
    assert bench.core.following.batches.get(batch.id) == batch
    assert bench.core.following.known(batch.id) == batch
    assert batch.id not in bench.core.mempool
    assert bench.core.answer(BatchesWanted((batch.id,))) == BatchesFound(())


def test_whoever_gets_a_vote_forgets_what_was_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    following = bench.core.following
    batch = spoilt(GENESIS, "observer-2")
    bench.step(BatchArrived("observer-2", batch, False))
    tell(bench, 2)
    tell(bench, 1)
    monkeypatch.setattr(following, "_seat", SimpleNamespace(replica=object()))
    assert following.known(batch.id) is None
    carry(bench, 1)
    assert bench.core.head.height == 1
    assert len(following.batches) == 0
    assert not following.is_told
    assert not following.wants(3)
    assert following.is_near


def test_what_was_only_read_is_never_taken_by_a_voter() -> None:
    bench = Bench(GENESIS, "recorder-1")
    bench.start()
    bench.step(BatchArrived("observer-2", spoilt(GENESIS, "observer-2"), False))
    assert bench.core.head.height == 0
    assert len(bench.core.mempool) == len(bench.core.following.batches) == 0


def test_a_member_fills_no_more_than_its_quota() -> None:
    limits = MempoolLimits(total_bytes_max=4_000, author_bytes_max=1_000, author_batches_max=3)
    bench = make(mempool=limits)
    for number in range(1, 9):
        bench.step(BatchArrived("observer-2", make_batch(GENESIS, "observer-2", number), False))
    held = bench.core.following.batches
    assert sum(len(one.batch.raw) for one in held.held()) <= 1_000
    assert bench.core.conduct.counts()["observer-2"]["batch_quota"] == 8 - len(held)
    carry(bench, 1)
    assert CHAIN[0].batches[0].id in held, "others have room"


def test_batches_that_nobody_orders_expire() -> None:
    bench = make()
    until_ms = bench.wall + 2_000
    fleeting = make_transaction(GENESIS, "observer-2", 1, until_ms=until_ms)
    bench.step(BatchArrived("observer-2", make_batch(GENESIS, "observer-2", 1, [fleeting]), False))
    assert len(bench.core.following.batches) == 1
    bench.expire(bench.now + 30_000)
    assert len(bench.core.following.batches) == 0


def test_a_batch_beyond_its_authors_quota_completes_a_block_all_the_same() -> None:
    bench = make(mempool=MempoolLimits(author_batches_max=1))
    carry(bench, 2)
    tell(bench, 1)
    carry(bench, 1)
    assert bench.core.head.height == 1
    assert CHAIN[0].batches[0].id not in bench.core.following.batches


def test_an_author_that_keeps_its_batches_from_observers_costs_them_a_question() -> None:
    net = Net(make_genesis(4, observers=1))
    net.run(100)

    def lose(parcel: Parcel) -> bool:
        return parcel.sender == "recorder-1" and carries(BatchBody)(parcel)

    net.lose = lose
    for number in range(6):
        taken = net.submit("recorder-1", number)
        net.run(2_000, lambda t=taken: executed(net, t))  # type: ignore[misc]
    assert asked_by(net) == [BatchesWanted] * 6


def test_a_voter_that_tells_nothing_delays_its_share_by_the_patience_of_a_follower() -> None:
    net = Net(make_genesis(4, observers=1))
    net.run(100)

    def lose(parcel: Parcel) -> bool:
        return parcel.sender == "recorder-1" and carries(Decided)(parcel)

    net.lose = lose
    waited = []
    for number in range(8):
        began = net.now
        taken = net.submit("recorder-2", number)
        net.run(2_000, lambda t=taken: executed_on(net, OBSERVER, t))  # type: ignore[misc]
        waited.append(net.now - began)
    patience_ms = CoreSettings().follow_patience_ms
    assert sorted(waited) == [*[min(waited)] * 6, *[min(waited) + patience_ms] * 2]


def test_peers_that_come_and_go_change_nothing() -> None:
    bench = make()
    carry(bench, 1)
    for peer in ("recorder-1", "observer-2"):
        bench.step(PeerDisconnected(peer))
        bench.step(PeerConnected(peer))
    tell(bench, 1)
    assert bench.core.head.height == 1
