"""Counting what members do wrong: bounded, attributed to whom it should be, and told once."""

import pytest

from consensus.messages import Prepare, sign
from node.conduct import PEERS_MAX, REASONS, REPORT_EVERY_MS, TOLERATED, Conduct
from node.events import BatchArrived, MessageArrived, PeerConnected, Report
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.wire import Consensus
from tests.node.support import Bench, key_of, make_batch, make_genesis, make_transaction

ANY_HASH = b"\x07" * 32


def facts(report: Report) -> dict[str, str | int]:
    return dict(report.facts)


def test_the_first_case_is_reported_and_then_one_an_hour_with_the_count() -> None:
    conduct = Conduct(0)
    conduct.note("a", "bad_signature", "of a PREPARE")
    (first,) = conduct.take_reports()
    assert first == Report(
        "peer_at_fault",
        (("peer", "a"), ("reason", "bad_signature"), ("count", 1), ("detail", "of a PREPARE")),
    )
    for conduct.now in range(1_000):
        conduct.note("a", "bad_signature")
    assert conduct.take_reports() == []
    conduct.now = REPORT_EVERY_MS
    conduct.note("a", "bad_signature")
    conduct.note("a", "bad_signature")
    (second,) = conduct.take_reports()
    assert facts(second) == {"peer": "a", "reason": "bad_signature", "count": 1_001}
    assert conduct.counts() == {"a": {"bad_signature": 1_003}}
    assert conduct.take_reports() == []


def test_each_peer_and_reason_is_told_apart() -> None:
    conduct = Conduct(0)
    for peer in ("b", "a"):
        conduct.note(peer, "malformed")
        conduct.note(peer, "relayed")
        conduct.note(peer, "malformed")
    assert len(conduct.take_reports()) == 4
    assert conduct.counts() == {
        "a": {"malformed": 2, "relayed": 1},
        "b": {"malformed": 2, "relayed": 1},
    }
    assert list(conduct.counts()) == ["a", "b"]


def test_what_correct_members_do_now_and_then_is_told_when_there_is_much_of_it() -> None:
    conduct = Conduct(0)
    for _ in range(TOLERATED["request_failed"]):
        conduct.note("a", "request_failed")
    assert conduct.take_reports() == []
    conduct.note("a", "request_failed")
    (report,) = conduct.take_reports()
    assert facts(report)["count"] == TOLERATED["request_failed"] + 1
    # And not again for the same number unless an hour has passed as well.
    for _ in range(100):
        conduct.note("a", "request_failed")
    assert conduct.take_reports() == []


def test_a_reason_that_is_none_is_our_own_mistake() -> None:
    conduct = Conduct(0)
    with pytest.raises(ValueError, match="no reason"):
        conduct.note("a", "ugly")  # type: ignore[arg-type]
    assert conduct.counts() == {}


def test_memory_is_bounded_by_members_and_reasons() -> None:
    conduct = Conduct(0)
    for number in range(PEERS_MAX + 10):
        for reason in REASONS:
            conduct.note(f"peer-{number}", reason)
        conduct.note("old", "malformed")
    counts = conduct.counts()
    assert len(counts) == PEERS_MAX
    assert sum(len(reasons) for reasons in counts.values()) <= PEERS_MAX * len(REASONS)
    assert counts["old"] == {"malformed": PEERS_MAX + 10}, "the one noted longest ago gives way"
    assert "peer-0" not in counts


# ---- whose fault it is ---------------------------------------------------------------------------


def make() -> Bench:
    bench = Bench(make_genesis(4), "recorder-1")
    bench.start()
    for name in ("recorder-2", "recorder-3", "recorder-4"):
        bench.step(PeerConnected(name))
    return bench


def test_who_relays_another_s_message_is_counted_not_its_signer() -> None:
    bench = make()
    vote = Prepare(1, 0, ANY_HASH)
    signed = sign(bench.genesis.chain_id, "recorder-3", key_of("recorder-3"), vote)
    bench.step(MessageArrived("recorder-4", Consensus(signed)))
    assert bench.core.conduct.counts() == {"recorder-4": {"relayed": 1}}
    assert bench.reported() == ["peer_at_fault"]
    # It was not even counted as a vote: the signer's own is not a duplicate.
    bench.step(MessageArrived("recorder-3", Consensus(signed)))
    assert bench.core.conduct.counts() == {"recorder-4": {"relayed": 1}}


def test_a_forged_message_is_counted_against_who_sent_it() -> None:
    bench = make()
    forged = sign(
        bench.genesis.chain_id, "recorder-3", key_of("recorder-4"), Prepare(1, 0, ANY_HASH)
    )
    bench.step(MessageArrived("recorder-4", Consensus(forged)))
    bench.step(MessageArrived("recorder-3", Consensus(forged)))
    assert bench.core.conduct.counts() == {
        "recorder-3": {"bad_signature": 1},
        "recorder-4": {"relayed": 1},
    }


def test_what_the_shell_notes_is_told_with_the_next_step() -> None:
    bench = make()
    bench.core.conduct.note("recorder-2", "malformed", "not MessagePack")
    bench.step(BatchArrived("recorder-3", make_batch(bench.genesis, "recorder-3", 1)))
    assert bench.reported() == ["peer_at_fault"]
    assert bench.core.conduct.counts() == {"recorder-2": {"malformed": 1}}


def test_only_its_author_answers_for_a_batch_without_room_or_with_a_taken_sequence() -> None:
    genesis = make_genesis(4)
    limits = MempoolLimits(author_batches_max=1)
    bench = Bench(genesis, "recorder-1", settings=CoreSettings(mempool=limits))
    bench.start()
    one, two = make_batch(genesis, "recorder-3", 1), make_batch(genesis, "recorder-3", 2)
    twin = make_batch(genesis, "recorder-3", 1, [make_transaction(genesis, "recorder-3", 9)])
    for peer in ("recorder-3", "recorder-4"):
        for batch in (one, two, twin):
            bench.step(BatchArrived(peer, batch))
    assert bench.core.conduct.counts() == {
        "recorder-3": {"batch_sequence_used_twice": 1, "batch_quota": 1}
    }
    assert bench.core.counters["batch_known"] == 1
