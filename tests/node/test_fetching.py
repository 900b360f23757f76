"""Candidates: what is asked for, when, and of whom."""

from node.fetching import CANDIDATES_MAX, Candidates
from node.wire import BatchesWanted, BlockWanted
from primitives.block import Block
from tests.node.support import make_batch, make_chain, make_genesis

GENESIS = make_genesis(1)
ONE, TWO = make_batch(GENESIS, "recorder-1", 1), make_batch(GENESIS, "recorder-1", 2)
IDS = (ONE.id, TWO.id)
DECISION = make_chain(GENESIS, 1).decision(1)
assert DECISION is not None
BLOCK: Block = DECISION.block
HASH = BLOCK.hash
PEERS = ("a", "b", "c")


def make() -> Candidates:
    """None yet; 100 ms of patience, then one question every 500 ms."""
    return Candidates(100, 500)


def test_a_block_known_by_hash_is_asked_for_at_once_and_then_of_one_after_another() -> None:
    candidates = make()
    candidates.want(HASH, True, ("b",), 1_000)
    assert candidates.deadline == 1_000
    wanted = BlockWanted(HASH)
    assert candidates.due(1_000, PEERS) == [("b", wanted)]
    assert candidates.deadline == 1_500
    assert candidates.due(1_499, PEERS) == []
    assert candidates.due(1_500, PEERS) == [("a", wanted)]
    assert candidates.due(2_000, PEERS) == [("c", wanted)]
    assert candidates.due(2_500, PEERS) == [("b", wanted)]


def test_batches_have_a_moment_to_arrive_and_only_what_is_missing_is_asked_for() -> None:
    candidates = make()
    candidate = candidates.want(HASH, True, ("a",), 0)
    candidates.set_block(candidate, BLOCK, IDS, 0)
    assert candidates.deadline == 100
    assert candidates.due(99, PEERS) == []
    assert candidates.offer(ONE) == [candidate]
    assert candidate.complete() is None
    assert candidates.due(100, PEERS) == [("a", BatchesWanted((TWO.id,)))]
    assert candidates.offer(TWO) == [candidate]
    assert candidate.complete() == (ONE, TWO)
    assert candidates.offer(TWO) == [], "it is here already"


def test_the_first_body_stays() -> None:
    candidates = make()
    candidate = candidates.want(HASH, True, ("a",), 0)
    candidates.set_block(candidate, BLOCK, IDS, 0)
    candidates.set_block(candidate, BLOCK, (), 50)
    assert candidate.batch_ids == IDS
    assert candidate.ask_at == 100


def test_a_candidate_without_holders_is_asked_of_whoever_is_there() -> None:
    candidates = make()
    candidates.want(HASH, False, (), 0)
    assert candidates.due(0, ()) == []
    assert candidates.deadline == 500
    assert candidates.due(500, ("c",)) == [("c", BlockWanted(HASH))]


def test_holders_that_are_away_are_passed_over() -> None:
    candidates = make()
    candidates.want(HASH, False, ("x", "b"), 0)
    assert candidates.due(0, PEERS) == [("b", BlockWanted(HASH))]


def test_wanting_again_adds_holders_and_lifts_the_clock_for_good() -> None:
    candidates = make()
    candidate = candidates.want(HASH, True, ("a",), 0)
    assert candidates.want(HASH, False, ("b", "a"), 5) is candidate
    assert candidate.holders == ("b", "a")
    assert not candidate.fresh
    candidates.want(HASH, True, (), 5)
    assert not candidate.fresh
    assert candidate.ask_at == 0


def test_the_oldest_gives_way_and_dropping_is_harmless() -> None:
    candidates = make()
    hashes = [number.to_bytes(32, "big") for number in range(CANDIDATES_MAX + 1)]
    for block_hash in hashes:
        candidates.want(block_hash, True, ("a",), 0)
    assert candidates.get(hashes[0]) is None
    assert candidates.get(hashes[1]) is not None
    candidates.drop(hashes[1])
    candidates.drop(hashes[1])
    assert len(candidates.due(0, PEERS)) == CANDIDATES_MAX - 1
    candidates.clear()
    assert candidates.deadline is None


def test_nothing_is_complete_without_its_block() -> None:
    candidate = make().want(HASH, True, (), 0)
    assert candidate.missing() == []
    assert candidate.complete() is None
