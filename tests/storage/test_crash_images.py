"""Whole networks in virtual time on real databases, killed anywhere and started from what is left.

The simulator's checkers watch all lives of all nodes: what a node signs never contradicts what it
signed in any life before, nothing leaves before it is durable, no two nodes differ, and after the
faults every transaction gets its receipt. In the end every database is verified from genesis up.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

import storage.database
import storage.recent
from simulations import faults
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.faults import Fault
from simulations.profiles import PROFILES
from simulations.scenario import Scenario, member_ids
from tests.storage.sqlite_host import SqliteHost

SEEDS = 5
BEFORE = tuple(moment for moment in faults.MOMENTS if "before" in moment)
CRASHES_PER_MEMBER = 4


def torn(seed: int) -> Scenario:
    """A scenario in which all that goes wrong are crashes and backups, and these often."""
    backups = draw(seed, PROFILES["crash"], kinds=(faults.RestoredBackup,))
    chance = random.Random(f"{seed} crashes")
    crashes: list[Fault] = []
    for who in member_ids(backups.shape):
        for _ in range(chance.randint(0, 2 * CRASHES_PER_MEMBER)):
            at, down_ms = chance.randint(300, backups.heal_ms - 1_500), chance.randint(50, 1_500)
            moment = chance.choice((*faults.MOMENTS, *BEFORE, *BEFORE))
            crashes.append(faults.CrashPoint(at, who, moment, chance.randint(1, 2), down_ms))
    crashes += [faults.CrashAll(chance.randint(300, backups.heal_ms - 1_500), 500)]
    return replace(backups, faults=(*backups.faults, *crashes), transactions=40, disk_ms_max=20)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_crash_makes_a_node_contradict_itself(
    seed: int,
    tmp_path: Path,
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So short that checkpoints and reused logs are among what is interrupted.
    monkeypatch.setattr(storage.database, "WAL_BYTES", 128 * 1024)
    monkeypatch.setattr(storage.recent, "STEP_BLOCKS", 3)
    here, found = tmp_path, loop

    class Here(SqliteHost):
        disks = here
        loop = found
        crashes: ClassVar[dict[str, int]] = {}

    cluster = Cluster(torn(seed), host_class=Here)
    figures = cluster.run()
    assert Here.crashes["between two writes"] > 0
    heights = []
    for host in cluster.hosts:
        assert isinstance(host, SqliteHost)
        heights.append(host.verify())
        host.store.close()
    assert set(heights) == {figures.height}
