"""What a transaction costs drivers in messages, tasks, statements, commits, hops and checks."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from ledger.store import Write
from node.checks import Checks
from node.driver import Driver
from primitives.keys import verify
from tests.node.support import make_genesis, make_transaction
from tests.node.test_driver import RECORDERS, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Four recorders."""
    made = World(make_genesis(4, observers=1), tmp_path)
    yield made
    await made.stop()


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
    spawn, run = Driver._spawn, Checks.run

    def spawned(driver: Driver, coroutine: Coroutine[None, None, None]) -> None:
        work["tasks"] += 1
        spawn(driver, coroutine)

    async def ran(checks: Checks, function: Callable[[], object]) -> object:
        work["hops"] += 1
        return await run(checks, function)

    def wrote(writes: Sequence[Write]) -> None:
        work["commits"] += 1

    def verified(key: bytes, message: bytes, signature: bytes) -> bool:
        checked.append(message)
        return verify(key, message, signature)

    monkeypatch.setattr("ledger.transactions.verify", verified)
    monkeypatch.setattr(Driver, "_spawn", spawned)
    monkeypatch.setattr(Checks, "run", ran)
    await world.start(*RECORDERS)
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
    assert work["commits"] <= 20
    assert len(statements) <= 200
    # Every enrolment asks for two keys that are absent.
    assert len([each for each in read if "state_value" in each]) <= 20
    once_a_node = {transaction.id: len(RECORDERS) for transaction in made}
    assert Counter(message for message in checked if message in once_a_node) == once_a_node
    sent = sum(len(message) for node in world.nodes.values() for _, message in node.transport.sent)
    assert sent <= sum(map(len, raws)) * (len(RECORDERS) - 1) * 1.05 + 40_000
