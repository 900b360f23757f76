"""Trio as the guest of an asyncio loop, and the two queues between them.

Both take turns on one thread, so plain data is shared without locks, but neither can await the
other. Each direction has one list of calls and one wake-up for all that is in it: a wake-up may
cost a system call and a switch of threads, and under load it then serves hundreds of calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import outcome
import trio

_Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]


class Guest:
    """The trio run of a loop's thread. There can be but one, so the transports there share it."""

    of_loop: ClassVar[dict[asyncio.AbstractEventLoop, Guest]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[BaseException | None] = loop.create_future()
        """Completes when the run is over, with the error that ended it."""
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self._call_soon,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            restrict_keyboard_interrupt_to_checkpoints=True,
        )

    @classmethod
    async def join(cls) -> Guest:
        """The guest of the running loop, begun if there is none. Call `leave` once."""
        loop = asyncio.get_running_loop()
        while (guest := cls.of_loop.get(loop)) is not None and not guest._users:
            await asyncio.wait([guest.ended])
        if guest is None:
            guest = cls.of_loop[loop] = cls(loop)
        guest._users += 1
        await asyncio.shield(guest._ready)
        return guest

    async def leave(self) -> None:
        """The last to leave ends it."""
        self._users -= 1
        if not self._users:
            self.wake(self.nursery.cancel_scope.cancel)
            await asyncio.wait([self.ended])

    def wake(self, function: Callable[[], None]) -> None:
        """Have trio call `function` soon, unless it has ended."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set_result(None)
            await trio.sleep_forever()

    def _call_soon(self, function: Callable[[], object]) -> None:
        self._loop.call_soon(function)

    def _call_soon_threadsafe(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def _done(self, result: outcome.Outcome[None]) -> None:
        self.of_loop.pop(self._loop)
        self.ended.set_result(result.error if isinstance(result, outcome.Error) else None)


class Crossing:
    """`command` queues a call for the guest, `post` one for the loop; either side may use both."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wake_guest: Callable[[Callable[[], None]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._wake_guest = wake_guest
        self._failed = failed
        self._commands: list[_Call] = []
        self._posts: list[_Call] = []

    def command(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the guest call `function` soon. Forgotten if the guest has ended."""
        self._commands.append((function, arguments))
        if len(self._commands) == 1:
            self._wake_guest(self._run_commands)

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the loop call `function` soon. An exception of it is a failure of our own."""
        self._posts.append((function, arguments))
        if len(self._posts) == 1:
            self._loop.call_soon(self.run_posts)

    def _run_commands(self) -> None:
        self._run(self._commands)

    def run_posts(self) -> None:
        """Call now what is still queued for the loop."""
        self._run(self._posts)

    def _run(self, calls: list[_Call]) -> None:
        batch = calls[:]
        calls.clear()
        for function, arguments in batch:
            try:
                function(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever it is, the node stops for it
                self._failed(error)
