"""node/rpc_websocket.py: calls and events over a WebSocket, resumed, overflowing, cut off."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ledger.operations import Labels, RegisterRecord
from ledger.state import person_id, record_id
from node.client import SubscriptionEnded
from node.jsonrpc import ErrorCode
from node.rpc_websocket import CLOSE_TOO_SLOW
from tests.node.rpc_support import Served, key_of, served, until


@asynccontextmanager
async def websocket(node: Served) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    connector = aiohttp.UnixConnector(str(node.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect("http://localhost/", max_msg_size=2**24) as socket,
    ):
        yield socket


async def call(socket: aiohttp.ClientWebSocketResponse, method: str, **params: object) -> Any:
    await socket.send_json({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
    return await socket.receive_json()


async def next_events(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    found = []
    for _ in range(count):
        message = await socket.receive_json()
        assert message["method"] == "event"
        found.append(message["params"])
    return found


def places(events: list[Any]) -> list[tuple[int, int]]:
    return [(event["cursor"]["height"], event["cursor"]["index"]) for event in events]


async def blocks(node: Served, *sizes: int) -> None:
    """Blocks of so many enrolments each."""
    first = node.backend.height * 10_000
    for size in sizes:
        await node.backend.block(*(node.backend.enrolment(first + n) for n in range(size)))
        first += 10_000


async def test_calls_are_answered_in_order(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        for method in ("node_status", "nonsense", "chain_head"):
            await socket.send_json({"jsonrpc": "2.0", "method": method, "id": method})
        assert (await socket.receive_json())["result"]["height"] == 0
        assert (await socket.receive_json())["error"]["code"] == ErrorCode.METHOD_NOT_FOUND
        assert (await socket.receive_json())["id"] == "chain_head"
        await socket.send_str("[" * 100_000)
        assert (await socket.receive_json())["error"]["code"] == ErrorCode.PARSE_ERROR
        await socket.send_bytes(b"{}")
        assert (await socket.receive_json())["error"]["code"] == ErrorCode.UNSUPPORTED_REQUEST


async def test_a_message_above_the_limit_closes(tmp_path: Path) -> None:
    async with served(tmp_path, body_bytes_max=1000) as node, websocket(node) as socket:
        await socket.send_str("x" * 2000)
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_events_come_from_a_cursor_on_and_then_live(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        await blocks(node, 2, 3)
        answer = await call(socket, "events_subscribe", after={"height": 1, "index": 0})
        assert answer["result"] == {"subscription": 1, "cursor": {"height": 1, "index": 0}}
        assert places(await next_events(socket, 4)) == [(1, 1), (2, 0), (2, 1), (2, 2)]
        await blocks(node, 1)
        (event,) = await next_events(socket, 1)
        assert places([event]) == [(3, 0)]
        view = await node.rpc.call("transaction_get", id=event["transaction"]["id"])
        assert event["transaction"] == view


async def test_without_a_cursor_events_start_now(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        await blocks(node, 2)
        answer = await call(socket, "events_subscribe")
        assert answer["result"]["cursor"] == {"height": 2}
        await blocks(node, 1)
        assert places(await next_events(socket, 1)) == [(2, 0)]


async def test_a_subscriber_that_comes_back_misses_and_repeats_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await blocks(node, 3, 1, 2)
        everything = [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1)]
        for stop in range(len(everything)):
            seen: list[Any] = []
            async with websocket(node) as socket:
                await call(socket, "events_subscribe", after={"height": 0})
                seen += await next_events(socket, stop)
            cursor = seen[-1]["cursor"] if seen else {"height": 0}
            async with websocket(node) as socket:
                await call(socket, "events_subscribe", after=cursor)
                seen += await next_events(socket, len(everything) - stop)
            assert places(seen) == everything


async def test_only_what_concerns_some_records_or_persons(tmp_path: Path) -> None:
    labels = Labels("imaging", "normal", "CN", "pacs", "good")
    async with served(tmp_path) as node, websocket(node) as socket:
        await blocks(node, 2)
        subject = person_id(key_of("person-1").public)
        mine = RegisterRecord(b"1" * 32, labels, subject)
        other = RegisterRecord(b"2" * 32, labels, None)
        await node.backend.block(
            node.backend.sign("recorder-1", other), node.backend.sign("recorder-1", mine)
        )
        await node.backend.block(node.backend.sign("recorder-2", other))
        await call(socket, "events_subscribe", after={"height": 0}, ids=[subject.hex()])
        assert places(await next_events(socket, 2)) == [(1, 1), (2, 1)]
        record = record_id("recorder-2", other.commitment).hex()
        await call(socket, "events_subscribe", after={"height": 0}, ids=[record])
        (event,) = await next_events(socket, 1)
        assert (event["subscription"], places([event])) == (2, [(3, 0)])


async def test_failed_transactions_only_where_asked_for(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        raw = node.backend.enrolment(1)
        await node.backend.block(raw, node.backend.enrolment(1))
        await call(socket, "events_subscribe", after={"height": 0})
        assert places(await next_events(socket, 1)) == [(1, 0)]
        await call(socket, "events_subscribe", after={"height": 0}, failed=True)
        events = await next_events(socket, 2)
        assert [event["transaction"]["name"] for event in events] == ["OK", "ALREADY_ENROLLED"]


async def test_unsubscribing_ends_the_events(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        await blocks(node, 1)
        await call(socket, "events_subscribe", after={"height": 0})
        await next_events(socket, 1)
        answer = await call(socket, "events_unsubscribe", subscription=1)
        assert answer["result"]["subscription"] == 1
        await blocks(node, 1)
        answer = await call(socket, "events_unsubscribe", subscription=1)
        assert answer["error"]["code"] == ErrorCode.NOT_FOUND


async def test_subscriptions_are_limited_and_checked(tmp_path: Path) -> None:
    async with served(tmp_path, subscriptions_max=1) as node, websocket(node) as socket:
        for params in (
            {"after": {"height": -1}},
            {"after": {"height": 2**63}},
            {"after": {"height": 1, "index": -2}},
            {"after": {"index": 1}},
            {"ids": ["xyz"]},
            {"ids": ["0" * 64] * 65},
            {"ids": ["0" * 64], "failed": True},
        ):
            answer = await call(socket, "events_subscribe", **params)
            assert answer["error"]["code"] == ErrorCode.INVALID_PARAMS
        assert "result" in await call(socket, "events_subscribe")
        assert (await call(socket, "events_subscribe"))["error"]["code"] == ErrorCode.BUSY


async def test_websockets_are_limited(tmp_path: Path) -> None:
    async with served(tmp_path, websockets_max=1) as node, websocket(node):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with websocket(node):
                pass
        assert caught.value.status == 503


async def test_a_slow_client_is_closed_with_the_cursor_to_go_on_from(tmp_path: Path) -> None:
    async with served(tmp_path, answer_timeout_ms=200) as node:
        await blocks(node, 1500, 1500)
        async with websocket(node) as socket:
            await call(socket, "events_subscribe", after={"height": 0})
            # Nothing is received until the node gives up.
            await until(lambda: node.server.closing_websockets)
            seen: list[Any] = []
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                seen.append(json.loads(message.data)["params"])
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, CLOSE_TOO_SLOW)
            assert message.extra
            cursor = json.loads(message.extra)
            assert cursor == seen[-1]["cursor"]
            assert len(seen) < 3000
        async with websocket(node) as socket:
            await call(socket, "events_subscribe", after=cursor)
            seen += await next_events(socket, 3000 - len(seen))
        assert places(seen) == [(h, i) for h in (1, 2) for i in range(1500)]


async def test_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    async with served(tmp_path, answer_timeout_ms=100) as node:
        await blocks(node, 1500)
        async with websocket(node) as socket:
            await call(socket, "events_subscribe", after={"height": 0})
            await until(lambda: node.server.closing_websockets)
            await until(lambda: not node.server.connections)
            assert node.server.websockets == 0


async def test_a_client_that_disconnects_leaves_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        async with websocket(node) as socket:
            await call(socket, "events_subscribe")
        await until(lambda: node.server.websockets == 0)
        await blocks(node, 1)
        reader, writer = await asyncio.open_unix_connection(str(node.socket))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        writer.transport.abort()
        await until(lambda: node.server.websockets == 0)


async def test_stopping_the_node_tells_subscribers_where_to_go_on(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:
        await blocks(node, 1)
        await call(socket, "events_subscribe", after={"height": 0})
        await next_events(socket, 1)
        stop = asyncio.create_task(node.server.stop())
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert message.extra
        assert json.loads(message.extra)["height"] in (1, 2)
        await stop


async def test_the_client_follows_events_and_says_where_they_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await blocks(node, 2)
        async with aclosing(node.rpc.events(after={"height": 0})) as events:
            seen = [await anext(events) for _ in range(2)]
            assert places(seen) == [(1, 0), (1, 1)]
            stop = asyncio.create_task(node.server.stop())
            with pytest.raises(SubscriptionEnded) as caught:
                await anext(events)
            await stop
        assert caught.value.cursor is not None
        assert list(islice(caught.value.cursor.values(), 1)) in ([1], [2])


async def test_a_failure_while_reading_events_closes_and_is_logged(tmp_path: Path) -> None:
    async with served(tmp_path) as node, websocket(node) as socket:

        async def broken(above: int) -> int:
            raise ValueError("a secret")

        node.backend.applied = broken  # type: ignore[method-assign]
        await call(socket, "events_subscribe", after={"height": 0})
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1011)
        assert ("rpc_subscription_failed", {"error": "ValueError"}) in node.log.lines
        assert "secret" not in str(node.log.lines)


async def test_a_silent_client_that_answers_no_ping_is_taken_for_dead(tmp_path: Path) -> None:
    async with served(tmp_path, ping_ms=100) as node, websocket(node):
        await until(lambda: node.server.websockets == 1)
        await until(lambda: node.server.websockets == 0)
