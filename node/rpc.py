"""The local RPC's server: HTTP and WebSocket over a unix socket and, if turned on, loopback TCP
(docs/rpc.md).

This file admits requests (source, token, size, time) and sends answers; what a request means is
decided by `node/jsonrpc.py` and `node/methods`. Each refusal is an HTTP status and a JSON-RPC
error. aiohttp's low-level server is used without its router: one handler sees every request, so
nothing gets past the checks.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from node.jsonrpc import ErrorCode, RpcError, answer, error_answer
from node.limits import RpcLimits
from node.methods.backend import Backend
from node.methods.dispatch import Dispatcher
from node.methods.service import Log, Service
from node.metrics import CONTENT_TYPE as METRICS_TYPE
from node.metrics import render
from node.rpc_access import (
    SOCKET_CALLER,
    Caller,
    NamedToken,
    Refusal,
    TokenFile,
    Tokens,
    check_source,
)
from node.rpc_room import Room
from node.rpc_socket import UnixListener, loopback_socket
from node.rpc_websocket import WebSocketSession

LINGER_S: Final = 5
"""How long the rest of a refused body is read and thrown away, so that its sender can read why."""
_CONTENT_TYPE: Final = "application/json"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_STATUSES: Final[Mapping[int, HTTPStatus]] = {
    ErrorCode.PARSE_ERROR: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_PARAMS: HTTPStatus.BAD_REQUEST,
    ErrorCode.METHOD_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.STOPPING: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.UNSUPPORTED_REQUEST: HTTPStatus.METHOD_NOT_ALLOWED,
}


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """Where to listen and whom to let in. Without `tcp` there is only the socket, and no token
    file.
    """

    socket: Path
    tcp: tuple[str, int] | None
    token_file: Path
    tokens: tuple[NamedToken, ...] = ()
    limits: RpcLimits = field(default_factory=RpcLimits)


class RpcServer:
    """The RPC of one node: `start`, then `stop`."""

    def __init__(self, backend: Backend, settings: RpcSettings, log: Log | None = None) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._service = Service(
            backend, settings.limits, structlog.get_logger("rpc") if log is None else log
        )
        self._dispatcher = Dispatcher(self._service)
        self._sessions: dict[WebSocketSession, None] = {}
        self._unix: UnixListener | None = None
        self._token_file: TokenFile | None = None
        self._room = Room(settings.limits.bodies_bytes_max)
        self._listeners: list[asyncio.Server] = []
        self._servers: list[_HttpServer] = []
        self.tcp_address: tuple[str, int] | None = None
        """The host and port that TCP listens on, once started."""

    @property
    def connections(self) -> int:
        """Open connections."""
        return sum(len(server.connections) for server in self._servers)

    @property
    def websockets(self) -> int:
        """Open WebSockets."""
        return len(self._sessions)

    @property
    def closing_websockets(self) -> int:
        """WebSockets that the node has decided to close and whose client has not agreed yet."""
        return sum(session.is_closing for session in self._sessions)

    async def start(self) -> None:
        """Listen. Raises StartError, and leaves nothing behind then."""
        try:
            self._unix = UnixListener(self._settings.socket)
            await self._service.start()
            loop = asyncio.get_running_loop()
            self._listeners.append(
                await loop.create_unix_server(self._http(None), sock=self._unix.socket)
            )
            if self._settings.tcp is not None:
                await self._start_tcp(*self._settings.tcp)
        except BaseException:
            await self.stop()
            raise

    async def _start_tcp(self, host: str, port: int) -> None:
        listener = loopback_socket(host, port)
        token_file = TokenFile(self._settings.token_file)
        try:
            token_file.create()
        except BaseException:
            listener.close()
            raise
        self._token_file = token_file
        self.tcp_address = listener.getsockname()[:2]
        tokens = Tokens(token_file.sha256, self._settings.tokens)
        self._listeners.append(
            await asyncio.get_running_loop().create_server(self._http(tokens), sock=listener)
        )

    async def stop(self) -> None:
        """Take no more calls, let those under way end, tell subscribers their cursors, remove
        socket and token file.
        """
        for listener in self._listeners:
            listener.close()
        if self._unix is not None:
            self._unix.close()
        if self._token_file is not None:
            self._token_file.remove()
        timeout_ms = self._limits.stop_timeout_ms
        await asyncio.gather(*(session.stop(timeout_ms) for session in list(self._sessions)))
        for server in self._servers:
            server.pre_shutdown()
        await self._service.stop()
        for server in self._servers:
            await server.shutdown(timeout_ms / 1000)

    def _http(self, tokens: Tokens | None) -> "_HttpServer":
        server = _HttpServer(
            partial(self._handle, tokens),
            self._limits.connections_max,
            handler_cancellation=True,
            keepalive_timeout=self._limits.idle_timeout_ms / 1000,
            lingering_time=LINGER_S,
            auto_decompress=False,
            access_log=None,
            logger=_http_log(self._service.log),
        )
        self._servers.append(server)
        return server

    async def _handle(self, tokens: Tokens | None, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; `tokens` is None on the unix socket."""
        try:
            check_source(request.headers.get("Host"), request.headers.get("Origin"))
            caller = SOCKET_CALLER
            if tokens is not None:
                caller = tokens.caller(request.headers.get("Authorization"))
            if request.method == "POST":
                return await self._post(request, caller)
            if request.method != "GET":
                raise Refusal(
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    ErrorCode.UNSUPPORTED_REQUEST,
                    "Use POST with a JSON-RPC body, or GET /method?param=value.",
                )
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, caller)
            return await self._get(request, caller)
        except Refusal as refusal:
            return await self._send(
                request, refusal.status, error_answer(refusal.code, refusal.sentence)
            )

    async def _post(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        async def call(name: str, params: Any) -> bytes:
            return await self._dispatcher.call(caller, name, params, _now())

        async with self._room_for(request):
            found = await answer(await self._body(request), call)
        if found is None:
            return await self._send(request, HTTPStatus.NO_CONTENT, b"")
        return await self._send(request, HTTPStatus.OK, found)

    @contextlib.asynccontextmanager
    async def _room_for(self, request: web.BaseRequest) -> AsyncIterator[None]:
        """Have room for the body of a request; raises Refusal if there is none for too long."""
        limits = self._limits
        size = request.content_length
        if size is None:
            size = limits.body_bytes_max
        if size <= limits.body_bytes_small or size > limits.body_bytes_max:
            yield  # The latter are refused unread.
            return
        try:
            async with asyncio.timeout(limits.body_timeout_ms / 1000):
                await self._room.enter(size)
        except TimeoutError:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                ErrorCode.BUSY,
                "Too many long requests are under way; call again, or send fewer at a time.",
            ) from None
        try:
            yield
        finally:
            self._room.leave(size)

    async def _get(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        if request.path == "/metrics":
            return await self._metrics(request, caller)
        query = {name: request.query.getall(name) for name in request.query}
        try:
            result = await self._dispatcher.get(caller, request.path.lstrip("/"), query, _now())
        except RpcError as error:
            status = _STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return await self._send(request, status, error_answer(error.code, error.sentence))
        return await self._send(request, HTTPStatus.OK, result)

    async def _metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        try:
            self._dispatcher.admit(caller, "node_peers", _now())
        except RpcError as error:
            return await self._send(
                request, _STATUSES[error.code], error_answer(error.code, error.sentence)
            )
        backend = self._service.backend
        page = render(backend.status(), backend.peers(), backend.resources())
        return await self._send(request, HTTPStatus.OK, page, METRICS_TYPE)

    async def _websocket(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        if len(self._sessions) >= self._limits.websockets_max:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                ErrorCode.BUSY,
                "Too many WebSockets are open; close one, or subscribe to more over one.",
            )
        session = WebSocketSession(request, caller, self._service, self._dispatcher)
        self._sessions[session] = None
        try:
            return await session.run()
        finally:
            del self._sessions[session]

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body; raises Refusal without having read more than the limit."""
        if request.content_type != _CONTENT_TYPE or "Content-Encoding" in request.headers:
            raise Refusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                ErrorCode.UNSUPPORTED_REQUEST,
                "Send the header 'Content-Type: application/json' and an uncompressed body.",
            )
        size = request.content_length or 0
        if size <= self._limits.body_bytes_max:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            body = bytearray()
            try:
                async with asyncio.timeout(self._limits.body_timeout_ms / 1000):
                    async for chunk in request.content.iter_any():
                        body += chunk
                        if len(body) > self._limits.body_bytes_max:
                            break
                    else:
                        return bytes(body)
            except TimeoutError:
                raise Refusal(
                    HTTPStatus.REQUEST_TIMEOUT,
                    ErrorCode.TOO_SLOW,
                    "The request's body did not arrive in time; send it faster or in parts.",
                ) from None
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            ErrorCode.TOO_LARGE,
            f"The request's body is larger than {self._limits.body_bytes_max} bytes: "
            "send fewer transactions per call.",
        )

    async def _send(
        self, request: web.BaseRequest, status: int, body: bytes, kind: str = _CONTENT_TYPE
    ) -> web.StreamResponse:
        """Send an answer; a client that does not take it in time is cut off."""
        response = web.Response(
            status=status,
            body=body.rstrip(b"\n") + b"\n" if body else None,
            headers={**_HEADERS, "Content-Type": kind} if body else _HEADERS,
        )
        try:
            async with asyncio.timeout(self._limits.answer_timeout_ms / 1000):
                await response.prepare(request)
                await response.write_eof()
            if status == HTTPStatus.REQUEST_TIMEOUT:
                # Who took too long once is not waited for again.
                request.protocol.force_close()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            # The client has gone, which aiohttp finds out by itself as well.
            pass
        return response


class _HttpServer(web.Server):
    """aiohttp's server with a limit on connections."""

    def __init__(self, handler: Any, connections_max: int, **settings: Any) -> None:
        super().__init__(handler, **settings)
        self._connections_max = connections_max

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection, or close it at once where there are too many."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._connections_max:
            handler.force_close()


class _HttpLogHandler(logging.Handler):
    """Passes on that aiohttp failed, and with which exception; nothing of what a client sent."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log an error of aiohttp's own."""
        kind = record.exc_info[0] if record.exc_info else None
        self._log.error("rpc_http_failed", error="unknown" if kind is None else kind.__name__)


def _http_log(log: Log) -> logging.Logger:
    # Not from getLogger: it belongs to this server alone, and nothing else configures it.
    found = logging.Logger("medpact.rpc", logging.ERROR)  # noqa: LOG001
    found.addHandler(_HttpLogHandler(log))
    return found


def _now() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
