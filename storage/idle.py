"""Something to be done once nothing has happened for a while."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

LATE_SHARE: Final = 0.2
"""Of the time, by which a loop that is not busy may be late."""


class Idle:
    """Runs `then` when `happened` was not called for some seconds, once for each such time.

    A loop that comes to look much later than it was to is busy, so that counts as if it had been.
    """

    def __init__(self, seconds: float, then: Callable[[], Coroutine[object, object, None]]) -> None:
        self._seconds = seconds
        self._then = then
        self._last = 0.0
        """When it was called last, by the clock of the loop."""
        self._due = 0.0
        """When the loop was to look."""
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    def happened(self) -> None:
        """Begin to wait, or wait for longer. It costs a look at the clock."""
        self._last = asyncio.get_running_loop().time()
        if self._timer is None:
            self._wait(self._last + self._seconds)

    def _wait(self, due: float) -> None:
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        running = self._running is not None and not self._running.done()
        if running or now > self._due + self._seconds * LATE_SHARE:
            self._last = now
        if self._last + self._seconds > now:
            self._wait(self._last + self._seconds)
        else:
            self._timer = None
            self._running = asyncio.create_task(self._then())

    async def stop(self) -> None:
        """Wait for what is running, and run nothing any more. Raises what it raised."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            await self._running
