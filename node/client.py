"""A client of a node's RPC, for the command, load generators and Python apps.

    async with RpcClient(home) as rpc:
        status = await rpc.call("node_status")
        async for event in rpc.events(after={"height": 0}):
            ...

One client may be used by many tasks at once; each call under way has a connection of its own.
"""

import asyncio
import io
import shlex
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp
import msgspec

from node.config import load_config
from node.home import Home, printable, reason
from node.jsonrpc import ErrorCode, RpcError
from node.rpc_socket import connectable

TIMEOUT_MS: Final = 150_000
"""How long an answer may take; longer than any transaction_wait."""
CONNECTIONS_MAX: Final = 100
"""Calls of one client under way at once; the others wait."""
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of one event."""
_ENCODER = msgspec.json.Encoder()
_UNIX_URL: Final = "http://localhost/"

__all__ = ["ErrorCode", "RpcClient", "RpcError", "RpcUnavailable", "SubscriptionEnded", "call_sync"]


class RpcUnavailable(Exception):
    """No node answers; the message says what to do."""


class SubscriptionEnded(Exception):
    """The node closed a subscription. `cursor` is where to go on, or None if it is not known."""

    def __init__(self, cursor: dict[str, int] | None) -> None:
        super().__init__("The node ended the subscription; subscribe again after the last cursor.")
        self.cursor = cursor


class RpcClient:
    """An async context manager; `call` asks a method, `events` follows the ledger."""

    def __init__(
        self,
        where: Path | tuple[str, str],
        *,
        timeout_ms: int = TIMEOUT_MS,
        connections: int = CONNECTIONS_MAX,
    ) -> None:
        """`where` is a node's home, its socket, or (URL, token) of the RPC over TCP."""
        self._where = where
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._connections = connections
        self._resources = ExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._url = _UNIX_URL
        self._last_id = 0

    async def __aenter__(self) -> "RpcClient":
        """Prepare to connect; raises StartError if the home has no usable settings."""
        headers = {}
        connector: aiohttp.BaseConnector
        if isinstance(self._where, tuple):
            self._url, token = self._where
            headers["Authorization"] = f"Bearer {token.strip()}"
            connector = aiohttp.TCPConnector(limit=self._connections)
        else:
            connector = aiohttp.UnixConnector(self._address(self._where), limit=self._connections)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, headers=headers, auto_decompress=False
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        self._resources.close()

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, /, **named: object
    ) -> Any:
        """The result of a method; params by name or as a mapping. Raises RpcError or
        RpcUnavailable.
        """
        self._last_id += 1
        request = {
            "jsonrpc": "2.0",
            "method": method,
            "params": {**(params or {}), **named},
            "id": self._last_id,
        }
        try:
            async with self._http().post(
                self._url,
                data=io.BytesIO(_ENCODER.encode(request)),
                headers={"Content-Type": "application/json"},
            ) as response:
                answer = await response.read()
        except TimeoutError as error:
            raise RpcUnavailable(
                f"The node did not answer {method} in time; look at its log, or try again."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise RpcUnavailable(self._unavailable()) from error
        return _result(answer)

    async def events(
        self, *, after: Mapping[str, int] | None = None, **params: object
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The params of every notification `event` after a cursor, without end (docs/rpc.md).

        Each holds the cursor to go on from. Raises SubscriptionEnded when the node closes.
        """
        asked: dict[str, object] = dict(params)
        last: dict[str, int] | None = None
        if after is not None:
            asked["after"] = dict(after)
        request = {"jsonrpc": "2.0", "method": "events_subscribe", "params": asked, "id": 0}
        try:
            async with self._http().ws_connect(
                self._url, max_msg_size=MESSAGE_BYTES_MAX, autoping=True
            ) as socket:
                await socket.send_str(_ENCODER.encode(request).decode())
                while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    document = msgspec.json.decode(message.data)
                    if "id" in document:
                        last = _result(message.data.encode())["cursor"]
                    else:
                        last = document["params"]["cursor"]
                        yield document["params"]
            raise SubscriptionEnded(_cursor(message) or last)
        except (aiohttp.ClientError, OSError) as error:
            raise RpcUnavailable(self._unavailable()) from error

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client as `async with RpcClient(...) as rpc`")
        return self._session

    def _address(self, path: Path) -> str:
        if path.is_dir():
            path = load_config(path).rpc_socket
        try:
            return self._resources.enter_context(connectable(path))
        except FileNotFoundError as error:
            raise RpcUnavailable(self._unavailable()) from error
        except OSError as error:
            raise RpcUnavailable(
                f"The socket {printable(path)} cannot be used: {reason(error)}."
            ) from error

    def _unavailable(self) -> str:
        if isinstance(self._where, tuple):
            return f"No node answers at {self._where[0]}: is it running, with rpc.tcp set?"
        home = self._where if self._where.is_dir() else self._where.parent
        if Home(home).running_pid() is not None:
            return f"The node of {printable(home)} runs but does not answer yet: try again."
        return (
            f"No node is running for this home: start it with `medpact start --home "
            f"{shlex.quote(printable(home))}`."
        )


def call_sync(
    where: Path | tuple[str, str], method: str, *, timeout_ms: int = TIMEOUT_MS, **params: object
) -> Any:
    """One call from code without an event loop; raises RpcError or RpcUnavailable."""

    async def run() -> Any:
        async with RpcClient(where, timeout_ms=timeout_ms) as rpc:
            return await rpc.call(method, params)

    return asyncio.run(run())


def _result(answer: bytes) -> Any:
    try:
        document = msgspec.json.decode(answer)
        error = document.get("error")
        if error is not None:
            raise RpcError(error["code"], error["message"])
        return document["result"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RpcUnavailable(
            "What answers is no medpact node; check the address of the RPC."
        ) from error


def _cursor(message: aiohttp.WSMessage) -> dict[str, int] | None:
    """The cursor in the reason of a close."""
    if message.type is not aiohttp.WSMsgType.CLOSE or not message.extra:
        return None
    try:
        return msgspec.json.decode(message.extra, type=dict[str, int])
    except ValueError:
        return None
