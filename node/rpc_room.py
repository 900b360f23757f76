"""Room in memory for the requests under way: who finds none waits, first come, first served."""

import asyncio
from collections import deque


class Room:
    """`bytes_max` bytes; `enter` before they are used, and `leave` after."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def enter(self, size_bytes: int) -> None:
        """Wait until there is room for so many bytes, at most `bytes_max`."""
        if not self._waiting and self._held_bytes + size_bytes <= self._bytes_max:
            self._held_bytes += size_bytes
            return
        entry = asyncio.get_running_loop().create_future(), size_bytes
        self._waiting.append(entry)
        try:
            await entry[0]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._admit()
            else:
                self.leave(size_bytes)
            raise

    def leave(self, size_bytes: int) -> None:
        """Give back what was entered with."""
        self._held_bytes -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._held_bytes + self._waiting[0][1] <= self._bytes_max:
            future, size_bytes = self._waiting.popleft()
            if not future.done():
                self._held_bytes += size_bytes
                future.set_result(None)
