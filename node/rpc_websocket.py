"""JSON-RPC over a WebSocket, and the events that go out over it.

Calls of one WebSocket are answered one after another, events in between. Each subscription is a
task that reads ahead of what the client takes by no more than one block and the connection's
buffer. A client that takes nothing for `answer_timeout_ms` is sent a close with code CLOSE_TOO_SLOW
whose reason is the cursor to go on from.
"""

import asyncio
from typing import Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from node.jsonrpc import ErrorCode, RpcError, answer, error_answer
from node.methods.dispatch import Dispatcher
from node.methods.events import (
    Cursor,
    Event,
    EventsSubscribe,
    EventsUnsubscribe,
    SubscriptionView,
    events_of,
    next_heights,
)
from node.methods.service import Service
from node.rpc_access import Caller

CLOSE_TOO_SLOW: Final = 4008
"""Close code: the client did not take events in time. The reason is a cursor as JSON."""

_ENCODER = msgspec.json.Encoder()


class _Subscription:
    """One subscription: what it asks for, and the cursor of the last event sent."""

    def __init__(self, number: int, params: EventsSubscribe, cursor: Cursor) -> None:
        self.number = number
        self.params = params
        self.chains = tuple(bytes.fromhex(text) for text in params.ids)
        self.cursor = cursor
        self.task: asyncio.Task[None] | None = None


class WebSocketSession:
    """One WebSocket: a Subscriber to the methods, a source of calls to the dispatcher."""

    def __init__(
        self,
        request: web.BaseRequest,
        caller: Caller,
        service: Service,
        dispatcher: Dispatcher,
    ) -> None:
        limits = service.limits
        self._request = request
        self._transport = request.transport
        self._caller = caller
        self._service = service
        self._dispatcher = dispatcher
        self._timeout = limits.answer_timeout_ms / 1000
        self._subscriptions: dict[int, _Subscription] = {}
        self._fresh: list[_Subscription] = []
        self._last_number = 0
        self._closing: asyncio.Task[None] | None = None
        self._socket = web.WebSocketResponse(
            timeout=self._timeout,
            heartbeat=limits.ping_ms / 1000,
            compress=False,
            max_msg_size=limits.body_bytes_max,
        )

    @property
    def is_closing(self) -> bool:
        """Whether the node has decided to close this WebSocket."""
        return self._closing is not None

    async def run(self) -> web.WebSocketResponse:
        """Serve until either side closes."""
        await self._socket.prepare(self._request)
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    found = await answer(message.data.encode(), self._call)
                else:
                    found = error_answer(
                        ErrorCode.UNSUPPORTED_REQUEST, "Send JSON-RPC as text messages."
                    )
                if found is not None and not await self._send(found):
                    self._close(CLOSE_TOO_SLOW, self._cursor())
                    break
                self._start_fresh()
        finally:
            await self._end_subscriptions()
            if self._closing is not None:
                await asyncio.wait([self._closing])
        return self._socket

    async def stop(self, timeout_ms: int) -> None:
        """Tell the client that the node stops, and from where to go on."""
        self._close(WSCloseCode.GOING_AWAY, self._cursor())
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=timeout_ms / 1000)
        if self._transport is not None:
            self._transport.abort()

    async def subscribe(self, params: EventsSubscribe) -> SubscriptionView:
        """Start a subscription; raises RpcError."""
        maximum = self._service.limits.subscriptions_max
        if len(self._subscriptions) >= maximum:
            raise RpcError(
                ErrorCode.BUSY,
                f"This WebSocket has {maximum} subscriptions already; end one first.",
            )
        if params.failed and params.ids:
            raise RpcError(
                ErrorCode.INVALID_PARAMS,
                "Failed transactions concern no record or person: leave out 'failed' or 'ids'.",
            )
        cursor = params.after
        if cursor is None:
            cursor = Cursor(self._service.backend.status().height + 1)
        self._last_number += 1
        subscription = _Subscription(self._last_number, params, cursor)
        self._subscriptions[subscription.number] = subscription
        self._fresh.append(subscription)
        return SubscriptionView(subscription.number, cursor)

    async def unsubscribe(self, params: EventsUnsubscribe) -> SubscriptionView:
        """End a subscription; raises RpcError."""
        subscription = self._subscriptions.pop(params.subscription, None)
        if subscription is None:
            raise RpcError(
                ErrorCode.NOT_FOUND, "This WebSocket has no subscription with this number."
            )
        await _cancel([subscription.task])
        return SubscriptionView(subscription.number, subscription.cursor)

    async def _call(self, name: str, params: msgspec.Raw | None) -> bytes:
        now = int(asyncio.get_running_loop().time() * 1000)
        return await self._dispatcher.call(self._caller, name, params, now, self)

    def _start_fresh(self) -> None:
        """Start what was subscribed to, now that the answer with its number is on its way."""
        for subscription in self._fresh:
            if subscription.number in self._subscriptions:
                task = asyncio.get_running_loop().create_task(self._pump(subscription))
                subscription.task = task
        self._fresh.clear()

    async def _pump(self, subscription: _Subscription) -> None:
        """Send events until cancelled, or until the client is too slow."""
        try:
            while await self._send_blocks(subscription):
                pass
            self._close(CLOSE_TOO_SLOW, subscription.cursor)
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001 - told in the log and to the client
            name = type(error).__name__
            self._service.log.error("rpc_subscription_failed", error=name)  # noqa: TRY400
            self._close(WSCloseCode.INTERNAL_ERROR, subscription.cursor)

    async def _send_blocks(self, subscription: _Subscription) -> bool:
        """Wait for blocks and send what they hold; False if the client does not take it."""
        service, chains = self._service, subscription.chains
        # The block of the cursor itself may hold more.
        above = subscription.cursor.height - 1
        head = await service.backend.applied(above)
        heights, done = await service.read(next_heights, above, head, chains)
        for height in heights:
            cursor = subscription.cursor
            first = cursor.index + 1 if height == cursor.height else 0
            for view in await service.read(events_of, height, first, subscription.params, chains):
                subscription.cursor = Cursor(height, view.index)
                event = Event(subscription.number, subscription.cursor, view)
                if not await self._send(_notification(event)):
                    return False
            subscription.cursor = Cursor(height + 1)
        subscription.cursor = Cursor(done + 1)
        return True

    async def _send(self, data: bytes) -> bool:
        """Send a text message; False if the client did not take what waits for it in time."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._socket.send_frame(data, WSMsgType.TEXT)
        except TimeoutError:
            return False
        return True

    def _close(self, code: int, cursor: Cursor | None) -> None:
        """Begin to close, with a cursor as the reason, unless that has begun."""
        if self._closing is None and not self._socket.closed:
            message = b"" if cursor is None else _ENCODER.encode(cursor)
            self._closing = asyncio.get_running_loop().create_task(self._finish(code, message))

    async def _finish(self, code: int, message: bytes) -> None:
        """Close; cut the connection if the client does not take even that in time."""
        if self._transport is not None:
            asyncio.get_running_loop().call_later(self._timeout, self._transport.abort)
        await self._socket.close(code=code, message=message, drain=False)

    def _cursor(self) -> Cursor | None:
        """From where a client with several subscriptions misses nothing."""
        cursors = [subscription.cursor for subscription in self._subscriptions.values()]
        return min(cursors, key=lambda cursor: (cursor.height, cursor.index), default=None)

    async def _end_subscriptions(self) -> None:
        tasks = [subscription.task for subscription in self._subscriptions.values()]
        self._subscriptions.clear()
        await _cancel(tasks)


def _notification(event: Event) -> bytes:
    return b'{"jsonrpc":"2.0","method":"event","params":%b}' % _ENCODER.encode(event)


async def _cancel(tasks: list[asyncio.Task[None] | None]) -> None:
    """Cancel tasks and wait for their end, leaving out the one that calls this."""
    others = [task for task in tasks if task is not None and task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)
