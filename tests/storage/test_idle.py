"""What waits for a time without events."""

import asyncio

import pytest

from storage.idle import Idle


async def test_it_runs_once_for_each_time_of_rest() -> None:
    runs = asyncio.Queue[int]()
    count = 0

    async def then() -> None:
        nonlocal count
        count += 1
        await runs.put(count)

    idle = Idle(0.01, then)
    for number in (1, 2):
        for _ in range(5):
            idle.happened()
        assert await runs.get() == number
    await idle.stop()
    assert runs.empty()


async def test_it_does_not_run_beside_itself() -> None:
    began, go = asyncio.Queue[None](), asyncio.Event()
    running = 0

    async def then() -> None:
        nonlocal running
        running += 1
        assert running == 1
        await began.put(None)
        await go.wait()
        running -= 1

    idle = Idle(0.01, then)
    idle.happened()
    await began.get()
    idle.happened()
    done, _ = await asyncio.wait([asyncio.create_task(began.get())], timeout=0.1)
    assert not done
    go.set()
    await idle.stop()


async def test_it_waits_as_long_as_something_happens() -> None:
    async def then() -> None:
        raise AssertionError("it rested")

    idle = Idle(1e6, then)
    idle.happened()
    idle.happened()
    await idle.stop()


async def test_a_loop_that_is_kept_busy_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = asyncio.Event()

    async def then() -> None:
        ran.set()

    idle = Idle(1e6, then)
    loop, now = asyncio.get_running_loop(), 0.0
    monkeypatch.setattr(loop, "time", lambda: now)
    due: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, look: due.append(when))
    idle.happened()
    for late in (0.9e6, 0.3e6, 0.1e6):
        now = due[-1] + late
        idle._look()
    # Twice it was late by more than a fifth, and waited anew.
    assert due == [1e6, 2.9e6, 4.2e6]
    monkeypatch.undo()
    await ran.wait()
    await idle.stop()


async def test_what_it_raises_is_raised_at_the_end() -> None:
    began = asyncio.Event()

    async def then() -> None:
        began.set()
        raise RuntimeError("a defect")

    idle = Idle(0.01, then)
    idle.happened()
    await began.wait()
    with pytest.raises(RuntimeError, match="a defect"):
        await idle.stop()
