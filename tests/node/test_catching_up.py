"""What catching up costs: signatures, requests and transactions of the disk, counted on drivers
with real databases.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from consensus import certificates
from ledger import transactions
from ledger.store import Write
from node.wire import WANTED_BLOCKS_MAX
from primitives import keys
from tests.node.support import make_genesis, make_transaction
from tests.node.test_driver import World


@pytest.mark.parametrize("count", [1, 200])
async def test_catching_up_checks_and_asks_by_the_block_and_not_by_the_transaction(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(make_genesis(1, observers=1), tmp_path)
    await world.start("recorder-1")
    writer = world.nodes["recorder-1"]
    blocks = WANTED_BLOCKS_MAX + 6
    for number in range(blocks):
        ones = range(number * count, (number + 1) * count)
        await writer.driver.submit(
            [make_transaction(world.genesis, "recorder-1", one).raw for one in ones]
        )
        await world.height(number + 1)

    work: Counter[str] = Counter()
    loop, verify = threading.get_ident(), keys.verify

    def verified(key: bytes, message: bytes, signature: bytes) -> bool:
        work["on the loop" if threading.get_ident() == loop else "beside it"] += 1
        return verify(key, message, signature)

    def wrote(writes: Sequence[Write]) -> None:
        work["commits"] += 1

    monkeypatch.setattr(transactions, "verify", verified)
    monkeypatch.setattr(certificates, "verify", verified)
    late = await world.make("observer-1")
    late.disk.after = wrote
    await late.run()
    await world.height(blocks)

    receipts = [late.reader.receipts(height) or () for height in range(1, blocks + 1)]
    assert [len(found) for found in receipts] == [count] * blocks
    # The batch of each block and its one COMMIT.
    assert work == {"beside it": 2 * blocks, "commits": blocks}
    assert len(late.transport.asked) == 2
    for node in world.nodes.values():
        await node.stop()
