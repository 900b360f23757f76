"""Processes killed at any moment: what was acknowledged is there, and nothing half."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from ledger.genesis import Genesis
from storage.verify import verify_chain
from tests.storage.support import Ledger, Model
from tests.storage.test_reader import check_equal, opened, reading
from tests.storage.writer import position, script

KILLS = 6


async def _run_and_kill(directory: Path, lines: int, spins: int) -> tuple[str, int]:
    """Kill the writer after so many writes; what it said of its store, and the last it did."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storage.writer",
        str(directory),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    verdict = (await process.stdout.readline()).decode().strip()
    acknowledged = 0
    for _ in range(lines):
        acknowledged = int((await process.stdout.readline()).split()[1])
    # The writer is somewhere in its next write.
    for _ in range(spins):
        pass
    process.kill()
    for line in (await process.stdout.read()).splitlines(keepends=True):
        if line.endswith(b"\n"):
            acknowledged = int(line.split()[1])
    assert await process.wait() < 0
    return verdict, acknowledged


@pytest.mark.processes
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random()
    seed = chance.randrange(10**9)
    chance.seed(seed)
    print(f"seed {seed}")
    path = tmp_path / "ledger.db"
    before = 0
    for _ in range(KILLS):
        verdict, acknowledged = await _run_and_kill(
            tmp_path, chance.randrange(12), chance.randrange(100_000)
        )
        assert verdict == "sound"
        ledger = Ledger()
        if acknowledged:
            # The WAL is as the kill left it.
            assert _verify(path, ledger.genesis)
        async with opened(path, ledger.chain_id, ledger.genesis):
            with reading(path) as reader:
                count = position(reader)
                assert max(acknowledged, before) <= count <= max(acknowledged, before) + 1
                check_equal(reader, _model_after(count))
        before = count
    assert before > KILLS
    assert list(_verify(path, Ledger().genesis))[-1] == _model_after(before).blocks[-1].height


def _model_after(count: int) -> Model:
    ledger, model = Ledger(), Model()
    for number, writes in enumerate(script(ledger), 1):
        if number > count:
            break
        model.apply(writes)
    return model


def _verify(path: Path, genesis: Genesis) -> list[int]:
    return [progress.height for progress in verify_chain(path, genesis)]
