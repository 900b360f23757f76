"""A hostile member against a real daemon: what it can make the daemon hold, say and count.

`make floods` runs every flood and also looks at the clock; here bounds are looked at alone.
"""

from pathlib import Path

import pytest

from simulations.command import run
from simulations.floods import CALM, FLOODS, LINES_MAX, RSS_BYTES_MAX, Measured, Rig, as_json, table
from tests.hostile.__main__ import FLOODS as HOSTILE_FLOODS

SECONDS = 4.0
TOLD = {
    "gossip-invented": "announced_too_often",
    "requests-unread": "flood",
    "frames": "malformed",
    "bad-signatures": "relayed",
}
"""Telling floods, and the reason that each must be counted for. What waits for its turn when one is
over delays the next, so the one with the longest queue comes last.
"""


def test_every_flood_of_the_rig_can_be_done() -> None:
    assert list(FLOODS) == list(HOSTILE_FLOODS)


def test_bounds_that_were_missed_are_said() -> None:
    good = Measured("malformed", rss_before_bytes=10, rss_max_bytes=20, blocks=1)
    bad = Measured("flaps", rss_max_bytes=RSS_BYTES_MAX + 1, status_ms_max=1_001.0, refused=1)
    bad.lines = {"peer_at_fault recorder-4 flood": LINES_MAX + 1, "started": LINES_MAX}
    assert good.misses() == []
    assert len(bad.misses()) == 5
    assert '"misses": []' in as_json([good])
    assert table([good, bad]).row_count == 2


@pytest.mark.processes
@pytest.mark.timeout(600)
async def test_a_hostile_member_is_bounded_counted_and_named_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "network")
    try:
        rig.create()
        async with rig.loaded():
            await rig.measure(CALM, SECONDS)
            for flood, reason in TOLD.items():
                measured = await rig.measure(flood, SECONDS)
                assert measured.faults.get(reason, 0) > 0, measured
                assert measured.growth_bytes <= 2 * RSS_BYTES_MAX, measured
                assert max(measured.lines.values(), default=0) <= LINES_MAX, measured
        assert rig.acknowledged > 0
    finally:
        run("testnet", "down", rig.network)
