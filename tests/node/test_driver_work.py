"""What a transaction costs drivers in messages, tasks, statements, commits, hops and checks."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest

from consensus.messages import Decision
from ledger.execution import payload_batches
from ledger.store import Write
from node.checks import VERIFIER_SIGNATURES_MIN, Checks
from node.driver import Driver
from node.verifier import Verifier
from node.wire import BatchBody, Decided
from primitives.block import Block
from primitives.codec import encode
from primitives.keys import Signed
from tests.node.support import make_genesis, make_transaction
from tests.node.test_driver import RECORDERS, World

FORGED = [(bytes(32), bytes(32), bytes(64))] * VERIFIER_SIGNATURES_MIN


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Four recorders."""
    made = World(make_genesis(4, observers=1), tmp_path)
    yield made
    await made.stop()


async def start(world: World, *ids: str) -> None:
    """Run nodes, each with a process of its checks: it takes a while to start, in which others
    would send a batch again that waits for it.
    """
    await world.start(*ids)
    for id in ids:
        checks = world.nodes[id].driver._checks
        await checks.run(partial(checks.verify_each, FORGED))
        assert checks.process_ids


def note_checked(monkeypatch: pytest.MonkeyPatch, checked: list[bytes]) -> None:
    """Have `checked` grow by the id of each transaction whose signature is checked."""
    verify_all = Checks.verify_each

    def verified(checks: Checks, signed: Sequence[Signed]) -> Sequence[int]:
        checked.extend(message for _, message, _ in signed)
        return verify_all(checks, signed)

    monkeypatch.setattr(Checks, "verify_each", verified)


@pytest.mark.parametrize("count", [1, 300])
async def test_work_is_done_per_block_and_not_per_transaction(
    world: World, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages, tasks, statements, reads, commits and hops to a thread, of all nodes together; and
    of a transaction one check of its signature at each node, and its bytes once to each peer.
    """
    work: Counter[str] = Counter()
    checked: list[bytes] = []
    statements: list[str] = []
    read: list[str] = []
    spawn, run, ask = Driver._spawn, Checks.run, Verifier.verify_each

    def spawned(driver: Driver, coroutine: Coroutine[None, None, None]) -> None:
        work["tasks"] += 1
        spawn(driver, coroutine)

    async def ran(checks: Checks, function: Callable[[], object]) -> object:
        work["hops"] += 1
        return await run(checks, function)

    def wrote(writes: Sequence[Write]) -> None:
        work["commits"] += 1

    def asked(verifier: Verifier, signed: Sequence[Signed]) -> bytes:
        work["processes"] += 1
        return ask(verifier, signed)

    note_checked(monkeypatch, checked)
    monkeypatch.setattr(Verifier, "verify_each", asked)
    monkeypatch.setattr(Driver, "_spawn", spawned)
    monkeypatch.setattr(Checks, "run", ran)
    await start(world, *RECORDERS)
    work.clear()
    for node in world.nodes.values():
        node.disk.after = wrote
        node.disk.database._writer.set_trace_callback(statements.append)
        node.reader._connection.set_trace_callback(read.append)
        node.transport.sent.clear()
    made = [make_transaction(world.genesis, "recorder-1", number) for number in range(count)]
    raws = [transaction.raw for transaction in made]
    checked.clear()

    await world.nodes["recorder-1"].driver.submit(raws)
    await world.height(1)

    assert all(len(node.reader.receipts(1) or ()) == count for node in world.nodes.values())
    messages = sum(len(node.transport.sent) for node in world.nodes.values())
    # A batch, a proposal, PREPARE, COMMIT, each to three; what is sent again comes on top.
    assert messages <= 60
    assert max(work["tasks"], work["hops"]) <= 10
    assert work["processes"] == (len(RECORDERS) if count > 1 else 0)
    assert work["commits"] <= 20
    assert len(statements) <= 200
    # Every enrolment asks for two keys that are absent.
    assert len([each for each in read if "state_value" in each]) <= 20
    once_a_node = {transaction.id: len(RECORDERS) for transaction in made}
    assert Counter(message for message in checked if message in once_a_node) == once_a_node
    sent = sum(len(message) for node in world.nodes.values() for _, message in node.transport.sent)
    assert sent <= sum(map(len, raws)) * (len(RECORDERS) - 1) * 1.05 + 40_000


async def test_a_member_without_a_vote_asks_for_nothing_and_checks_no_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []

    note_checked(monkeypatch, checked)
    await start(world, *RECORDERS, "observer-1")
    checked.clear()
    observer = world.nodes["observer-1"]
    made = [make_transaction(world.genesis, "recorder-1", number) for number in range(50)]

    await world.nodes["recorder-1"].driver.submit([transaction.raw for transaction in made])
    await world.height(1)

    assert len(observer.reader.receipts(1) or ()) == 50
    assert observer.transport.asked == []
    once_a_voter = {transaction.id: len(RECORDERS) for transaction in made}
    assert Counter(message for message in checked if message in once_a_voter) == once_a_voter


async def test_false_decisions_are_counted_and_bounded_and_true_ones_taken(world: World) -> None:
    await world.start(*RECORDERS)
    await world.nodes["recorder-1"].driver.submit(
        [make_transaction(world.genesis, "recorder-1", 1).raw]
    )
    await world.height(1)
    decision = world.nodes["recorder-1"].reader.decision(1)
    assert decision is not None
    (batch,) = [
        world.nodes["recorder-1"].reader.batch(id) for id in payload_batches(decision.block.payload)
    ]
    assert batch is not None
    empty = msgspec.structs.replace(decision.certificate, signatures=())
    later = msgspec.structs.replace(decision.block.header, height=9)
    lies = [
        Decision(decision.block, empty),
        Decision(Block(later, decision.block.payload), decision.certificate),
    ]
    driver = (await world.make("observer-1")).driver
    await world.nodes["observer-1"].run()
    for lie in lies * 100:
        driver.message("recorder-4", encode(Decided(lie)))
    driver.message("recorder-2", encode(BatchBody(batch)))
    driver.message("recorder-2", encode(Decided(decision)))
    await world.height(1, "observer-1")
    counts = driver.core.conduct.counts()
    assert set(counts) == {"recorder-4"}
    assert set(counts["recorder-4"]) <= {"sync_block_false", "flood", "head_false"}
    assert driver.core.head.height == 1
