"""Checks on threads: nobody occupies them, what waits is bounded, and who is at fault waits."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from node import checks as module
from node.checks import PEER_CHECK_BYTES_MAX, PEER_CHECKS_MAX, Checks


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
