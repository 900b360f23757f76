"""What the databases of a chaos run are judged by: a true history passes, each other is named."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.evidence import Evidence, VoteStatement
from consensus.messages import Decision
from ledger.operations import ReportMisbehaviour
from ledger.receipts import DID_NOT_RUN
from primitives.block import Block
from primitives.codec import encode
from simulations.chaos_checks import (
    Chain,
    Reader,
    check_chains,
    check_innocence,
    check_logs,
    check_places,
    check_statuses,
)
from simulations.checkers import NoProgress, Violation
from simulations.cluster import Cluster
from simulations.drawing import draw

SEED = 3
"""A run without faults, in which transactions ran."""
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def finished() -> Cluster:
    """A run that has passed; the tests must not change it."""
    cluster = Cluster(draw(SEED, kinds=(), byzantine=()))
    cluster.run()
    return cluster


def answer(cluster: Cluster) -> Answer:
    """What storage/dump.py would say of a database with these blocks."""
    chain = cluster.watch.chain
    blocks = [
        {
            "decision": encode(chain[height].decision).hex(),
            "receipts": encode(tuple(chain[height].receipts)).hex(),
            "batches": [batch.raw.hex() for batch in chain[height].batches],
        }
        for height in sorted(chain)
    ]
    return {"head": len(blocks), "promises": [], "blocks": blocks}


def acknowledged(cluster: Cluster) -> dict[str, int]:
    """Where every transaction ran."""
    return {
        write.transaction_ids[index].hex(): height
        for height, write in cluster.watch.chain.items()
        for index, receipt in enumerate(write.receipts)
        if receipt.code not in DID_NOT_RUN
    }


def check(cluster: Cluster, other: Answer, told: dict[str, int]) -> None:
    chains = [
        Chain(name, found, cluster.genesis)
        for name, found in (("recorder-1", answer(cluster)), ("auditor-1", other))
    ]
    check_chains(chains, cluster.genesis, told)


def test_a_true_history_passes(finished: Cluster) -> None:
    told = acknowledged(finished)
    assert told
    check(finished, answer(finished), told)


def lose_a_batch(found: Answer) -> None:
    block = next(block for block in found["blocks"] if block["batches"])
    block["batches"] = block["batches"][1:]


def lose_a_block(found: Answer) -> None:
    del found["blocks"][0]


def end_earlier(found: Answer) -> None:
    del found["blocks"][-1]
    found["head"] -= 1


@pytest.mark.parametrize(
    ("break_it", "kind", "reason"),
    [
        (lose_a_batch, Violation, "differ in receipts or batches"),
        (lose_a_block, Violation, "blocks at height"),
        (end_earlier, NoProgress, "ended at different heights"),
    ],
)
def test_a_database_that_differs_is_named(
    finished: Cluster,
    break_it: Callable[[Answer], None],
    kind: type[Exception],
    reason: str,
) -> None:
    found = answer(finished)
    break_it(found)
    with pytest.raises(kind, match=reason):
        check(finished, found, {})


def test_a_fork_is_named(finished: Cluster) -> None:
    found = answer(finished)
    write = finished.watch.chain[1]
    header = write.decision.block.header
    later = msgspec.structs.replace(header, time_ms=header.time_ms + 1)
    decision = Decision(Block(later, write.decision.block.payload), write.decision.certificate)
    found["blocks"][0]["decision"] = encode(decision).hex()
    with pytest.raises(Violation, match="fork at height 1: recorder-1 and auditor-1"):
        check(finished, found, {})


def test_what_was_acknowledged_and_is_lost_moved_or_doubled_is_named(finished: Cluster) -> None:
    writes = [finished.watch.chain[height] for height in sorted(finished.watch.chain)]
    told = acknowledged(finished)
    identity, height = next(iter(told.items()))
    with pytest.raises(Violation, match="is lost"):
        check_places({"00" * 32: 1}, writes)
    with pytest.raises(Violation, match=f"at height {height + 1} and ran at {height}"):
        check_places({identity: height + 1}, writes)
    twice = next(write for write in writes if write.executed)
    with pytest.raises(Violation, match=r"ran at height .* and again"):
        check_places({}, [*writes, replace(twice)])


def test_evidence_against_an_honest_member_is_named(finished: Cluster) -> None:
    writes = [finished.watch.chain[height] for height in sorted(finished.watch.chain)]
    check_innocence(writes)
    accused = next(w for w in writes if w.batches and w.batches[0].transactions)
    batch = accused.batches[0]
    first = batch.transactions[0]
    votes = [VoteStatement(2, 0, bytes([n]) * 32, bytes(64)) for n in range(2)]
    evidence = Evidence("recorder-1", 1, votes[0], votes[1])
    body = msgspec.structs.replace(first.body, operations=(ReportMisbehaviour(evidence),))
    changed = replace(batch, transactions=(msgspec.structs.replace(first, body=body),))
    with pytest.raises(Violation, match="evidence against an honest member"):
        check_innocence([replace(accused, batches=(changed,))])


# ---- what daemons say ----------------------------------------------------------------------------


def status(**counters: int) -> dict[str, Any]:
    return {"abstaining": False, "counters": counters}


def test_daemons_that_accuse_nobody_pass() -> None:
    check_statuses({"recorder-1": status(contradiction=0, dials=7), "auditor-1": status()})


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (None, NoProgress),
        (status(contradiction=1), Violation),
        (status() | {"abstaining": True}, NoProgress),
    ],
)
def test_a_status_that_must_not_be(found: dict[str, Any] | None, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="auditor-1"):
        check_statuses({"recorder-1": status(), "auditor-1": found})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A daemon's log with nothing wrong in it."""
    path = tmp_path / "recorder-1.log"
    path.write_text(
        'Warning: no event.\n"nor this"\n{"event": "started", "level": "info"}\n'
        '{"event": "peer_at_fault", "peer": "auditor-1", "reason": "clock_differs", "count": 2}\n'
        '{"event": "peer_at_fault", "peer": "auditor-1", "reason": "future_height", "count": 9}\n'
        '{"event": "peer_at_fault", "peer": "recorder-2", "reason": "clock_differs", "count": 1}\n'
    )
    return path


def test_complaints_that_correct_members_give_cause_to_are_counted(log: Path) -> None:
    assert check_logs({"recorder-1": log}) == {"clock_differs": 2, "future_height": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"institution": "auditor-1", "event": "contradiction"}', "saw a contradiction"),
        ('{"event": "peer_at_fault", "reason": "block_invalid"}', "blames an honest member"),
        ('{"event": "peer_at_fault", "reason": "malformed"}', "blames an honest member"),
    ],
)
def test_an_accusation_that_no_correct_member_deserves_is_named(
    log: Path, line: str, reason: str
) -> None:
    with log.open("a") as f:
        f.write(line + "\n")
    with pytest.raises(Violation, match=f"recorder-1 {reason}"):
        check_logs({"recorder-1": log})


# ---- the process that reads ----------------------------------------------------------------------


@pytest.mark.processes
async def test_an_answer_that_nobody_waits_for_any_more_is_no_answer_to_the_next(
    tmp_path: Path,
) -> None:
    async with Reader() as reader:
        given_up = asyncio.create_task(reader.read(tmp_path / "first"))
        asked = asyncio.Event()
        asyncio.get_running_loop().call_soon(asked.set)
        await asked.wait()
        given_up.cancel()
        found = await reader.read(tmp_path / "second")
    assert "second" in found["error"]
