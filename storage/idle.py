"""Something to be done once nothing has happened for a while."""

import asyncio
from collections.abc import Callable, Coroutine


class Idle:
    """Runs `then` when `happened` was not called for some seconds, once for each such time."""

    def __init__(self, seconds: float, then: Callable[[], Coroutine[object, object, None]]) -> None:
        self._seconds = seconds
        self._then = then
        self._last = 0.0
        """When it was called last, by the clock of the loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    def happened(self) -> None:
        """Begin to wait, or wait for longer. It costs a look at the clock."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + self._seconds - loop.time()
        busy = self._running is not None and not self._running.done()
        if left > 0 or busy:
            self._timer = loop.call_later(max(left, self._seconds * busy), self._look)
        else:
            self._timer = None
            self._running = asyncio.create_task(self._then())

    async def stop(self) -> None:
        """Wait for what is running, and run nothing any more. Raises what it raised."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            await self._running
