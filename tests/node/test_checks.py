"""Checks on threads: nobody occupies them, what waits is bounded, and who is at fault waits."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from node import checks as module
from node.checks import (
    CHECK_THREADS,
    PEER_CHECK_BYTES_MAX,
    PEER_CHECKS_MAX,
    VERIFIER_RETRY_SECONDS,
    VERIFIER_SIGNATURES_MIN,
    Checks,
)
from primitives.keys import PrivateKey, Signed


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    yield made
    made.close()


async def test_one_peer_does_not_occupy_the_threads(checks: Checks) -> None:
    release, started = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    order: list[str] = []

    def slow() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait()
        order.append("flood")

    flood = [asyncio.create_task(checks.run_for("hostile", slow)) for _ in range(9)]
    await started.wait()
    await checks.run_for("honest", lambda: order.append("other"))
    assert order == ["other"]
    release.set()
    await asyncio.gather(*flood)
    assert len(order) == 10


async def test_what_one_peer_lets_wait_is_bounded(checks: Checks) -> None:
    assert all(checks.admit("a", 1) for _ in range(PEER_CHECKS_MAX))
    assert not checks.admit("a", 1)
    assert checks.admit("b", PEER_CHECK_BYTES_MAX)
    assert not checks.admit("b", 1)
    checks.leave("a", 1)
    checks.leave("b", PEER_CHECK_BYTES_MAX)
    assert checks.admit("a", 1)
    # One is admitted whatever its size: the ledger bounds it.
    assert checks.admit("b", PEER_CHECK_BYTES_MAX + 1)


async def test_who_sent_something_bad_waits_for_its_next_check(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, *call: object) -> asyncio.TimerHandle:
        rests.append(delay)
        return call_later(0, *call)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", note)
    times = iter([10.0, 10.3, 20.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))

    def bad() -> None:
        raise ValueError("a signature is wrong")

    with pytest.raises(ValueError, match="wrong"):
        await checks.run_for("a", bad)
    await checks.run_for("a", lambda: None)

    assert rests == [pytest.approx(3.0), 0.0]


# ---- signatures in processes ---------------------------------------------------------------------

KEY = PrivateKey(bytes(32))
GOOD, BAD = (KEY.public, bytes(32), KEY.sign(bytes(32))), (KEY.public, bytes(32), bytes(64))
MANY = [GOOD, BAD] * VERIFIER_SIGNATURES_MIN


async def check_many(checks: Checks) -> None:
    assert list(await checks.run(lambda: checks.verify_each(MANY))) == [True, False] * 8


async def test_few_signatures_take_no_process(checks: Checks) -> None:
    few = MANY[: VERIFIER_SIGNATURES_MIN - 1]
    assert list(await checks.run(lambda: checks.verify_each(few))) == [True, False] * 3 + [True]
    assert not checks.process_ids


async def test_processes_are_begun_when_they_are_needed_and_end_with_the_checks() -> None:
    checks = Checks()
    for _ in range(5):
        await check_many(checks)
    assert len(checks.process_ids) == 1
    meeting = threading.Barrier(CHECK_THREADS, timeout=20)

    class Meeting(list[Signed]):
        def __iter__(self) -> Iterator[Signed]:
            meeting.wait()
            return super().__iter__()

    await asyncio.gather(
        *(checks.run(lambda: checks.verify_each(Meeting(MANY))) for _ in range(CHECK_THREADS))
    )
    ids = set(checks.process_ids)
    assert len(ids) == CHECK_THREADS
    checks.close()
    assert not checks.process_ids
    assert not any(Path(f"/proc/{process}").exists() for process in ids)


async def test_a_process_that_ends_is_done_without_and_replaced_later(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    await check_many(checks)
    (first,) = checks.process_ids
    os.kill(first, signal.SIGKILL)
    with structlog.testing.capture_logs() as logs:
        await check_many(checks)
        await check_many(checks)
        assert not checks.process_ids
        now += VERIFIER_RETRY_SECONDS
        await check_many(checks)
    assert [entry["event"] for entry in logs] == ["verifier_lost"]
    assert f"process {first} has ended" in logs[0]["reason"]
    (second,) = checks.process_ids
    assert second != first
