"""What is kept of the last blocks until the derived file holds it."""

import pytest

from ledger.store import WriteBlock
from storage.recent import Recent
from tests.storage.support import Ledger


def test_a_step_is_closed_once() -> None:
    recent = Recent(-1)
    recent.close_step()
    with pytest.raises(RuntimeError, match="while another is being written"):
        recent.close_step()


def test_what_a_block_changed_may_be_asked_by_chain() -> None:
    ledger = Ledger()
    recent = Recent(-1)
    recent.take(ledger.begin())
    write = ledger.decide([ledger.batch()])
    assert isinstance(write, WriteBlock)
    recent.take(write)
    block = recent.blocks()[-1]
    assert all(block.touches(chain) for chain in write.chains)
    assert not block.touches(bytes(32))
    assert not block.touches(b"\xff" * 32)
