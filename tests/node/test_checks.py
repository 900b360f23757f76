"""Checks on threads: nobody occupies them, what waits is bounded, and who is at fault waits."""

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from node import checks as module
from node.checks import (
    CHECK_THREADS,
    PEER_CHECK_BYTES_MAX,
    PEER_CHECKS_MAX,
    VERDICTS_MAX,
    VERIFIER_RETRY_SECONDS,
    VERIFIER_SIGNATURES_MIN,
    Checks,
)
from node.verifier import Verifier
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
NUMBERS = itertools.count()


def claims(count: int = 2 * VERIFIER_SIGNATURES_MIN) -> list[Signed]:
    """Signatures that were never seen, of which every second is wrong."""
    messages = [next(NUMBERS).to_bytes(32, "big") for _ in range(count)]
    signatures = [KEY.sign(message) for message in messages]
    signatures[1::2] = [bytes(64)] * (count // 2)
    return [(KEY.public, *each) for each in zip(messages, signatures, strict=True)]


async def check(checks: Checks, signed: list[Signed]) -> None:
    good = await checks.run(lambda: checks.verify_each(signed))
    assert list(good) == [True, False] * (len(signed) // 2)


async def test_few_signatures_take_no_process(checks: Checks) -> None:
    await check(checks, claims(VERIFIER_SIGNATURES_MIN - 2))
    assert not checks.process_ids


async def test_processes_are_begun_when_they_are_needed_and_end_with_the_checks() -> None:
    checks = Checks()
    for _ in range(5):
        await check(checks, claims())
    assert len(checks.process_ids) == 1
    meeting = threading.Barrier(CHECK_THREADS, timeout=20)

    class Meeting(list[Signed]):
        def __iter__(self) -> Iterator[Signed]:
            meeting.wait()
            return super().__iter__()

    await asyncio.gather(
        *(checks.run(lambda: checks.verify_each(Meeting(claims()))) for _ in range(CHECK_THREADS))
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
    await check(checks, claims())
    (first,) = checks.process_ids
    os.kill(first, signal.SIGKILL)
    with structlog.testing.capture_logs() as logs:
        await check(checks, claims())
        await check(checks, claims())
        assert not checks.process_ids
        now += VERIFIER_RETRY_SECONDS
        await check(checks, claims())
    assert [entry["event"] for entry in logs] == ["verifier_lost"]
    assert f"process {first} has ended" in logs[0]["reason"]
    (second,) = checks.process_ids
    assert second != first


async def test_what_is_checked_now_or_was_lately_is_not_checked_again(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Signed]] = []
    begun, release = threading.Event(), threading.Event()
    ask = Verifier.verify_each

    def slow(verifier: Verifier, signed: Sequence[Signed]) -> bytes:
        asked.append(list(signed))
        begun.set()
        assert release.wait(20)
        return ask(verifier, signed)

    monkeypatch.setattr(Verifier, "verify_each", slow)
    batch, other = claims(), claims()
    first = asyncio.create_task(check(checks, batch))
    await asyncio.to_thread(begun.wait, 20)
    second = asyncio.create_task(check(checks, list(batch)))
    release.set()
    await asyncio.gather(first, second)
    await check(checks, batch)
    await check(checks, other)
    # The same signatures of another message are other signatures.
    await check(checks, [*other[:-2], *claims(2)])
    assert [each[0] for each in asked] == [batch[0], other[0], other[0]]
    await asyncio.gather(*(check(checks, claims()) for _ in range(VERDICTS_MAX)))
    asked.clear()
    await check(checks, batch)
    assert asked == [batch]


async def test_a_check_that_fails_fails_for_all_who_wait_for_it_and_for_nobody_later(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()

    class Awaited(Future[Sequence[int]]):
        def result(self, timeout: float | None = None) -> Sequence[int]:
            waits.set()
            return super().result(timeout)

    def fails(_: Verifier, signed: Sequence[Signed]) -> bytes:
        assert waits.wait(20)
        raise MemoryError

    batch = claims()
    with monkeypatch.context() as patch:
        patch.setattr(module, "Future", Awaited)
        patch.setattr(Verifier, "verify_each", fails)
        for failed in await asyncio.gather(
            check(checks, batch), check(checks, batch), return_exceptions=True
        ):
            assert isinstance(failed, MemoryError)
    await check(checks, batch)
