"""What the methods share: the backend, a thread that reads the disk, and the limits."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from node.jsonrpc import ErrorCode, RpcError
from node.limits import RpcLimits
from node.methods.backend import Backend, Reader
from node.methods.waits import Waits

P = ParamSpec("P")
T = TypeVar("T")


class Log(Protocol):
    """Where failures of our own are told: structlog's logger."""

    def error(self, event: str, **values: Any) -> Any:
        """Log an error."""
        ...


class Service:
    """One per node. Reads run in one thread of their own, so that a long history never holds up
    consensus.
    """

    def __init__(self, backend: Backend, limits: RpcLimits, log: Log) -> None:
        self.backend = backend
        self.limits = limits
        self.log = log
        self.waits = Waits(self)
        self.stopping = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rpc-reader")
        self._reader: Reader | None = None
        self._submits: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Open the reader and follow the chain."""
        self._reader = await asyncio.get_running_loop().run_in_executor(
            self._pool, self.backend.reader
        )
        self.waits.start()

    async def stop(self) -> None:
        """End waits with what they know, let submissions under way finish, close the reader."""
        self.stopping = True
        await self.waits.stop()
        if self._submits:
            await asyncio.wait(self._submits, timeout=self.limits.stop_timeout_ms / 1000)
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._reader.close)
            self._reader = None
        self._pool.shutdown()

    async def read(
        self, function: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(reader, ...)` in the reader's thread; raises RpcError if the node stops."""
        reader = self._reader
        if self.stopping or reader is None:
            raise RpcError(ErrorCode.STOPPING, "The node is stopping; call again when it is back.")
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: function(reader, *args, **kwargs)
        )

    @property
    def submits_under_way(self) -> int:
        """Submissions that the backend has not answered."""
        return len(self._submits)

    async def submit(self, raws: list[bytes]) -> list[tuple[str | None, str | None]]:
        """The hex id and the refusal of each transaction. Goes on to the end even if the client is
        gone.
        """
        task = asyncio.ensure_future(self.backend.submit(raws))
        self._submits.add(task)
        task.add_done_callback(self._submits.discard)
        outcomes = await asyncio.shield(task)
        return [(o.id.hex() if o.id is not None else None, o.refused) for o in outcomes]
