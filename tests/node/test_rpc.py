"""node/rpc.py over real sockets: who gets in, what is too much, and what never reaches the log."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.client import RpcClient
from node.home import StartError
from node.jsonrpc import ErrorCode
from node.rpc import RpcServer, RpcSettings
from node.rpc_access import NamedToken, Role, new_token
from tests.node.rpc_support import LedgerBackend, Log, Served, fails, served, until

JSON = {"Content-Type": "application/json"}
STATUS = b'{"jsonrpc":"2.0","method":"node_status","id":1}'


async def http(
    node: Served,
    method: str,
    path: str = "/",
    *,
    tcp: bool = False,
    headers: Mapping[str, str] | None = None,
    data: Any = None,
) -> tuple[int, Any]:
    """The status and the parsed body of one request, over the socket unless `tcp`."""
    connector = aiohttp.TCPConnector() if tcp else aiohttp.UnixConnector(str(node.socket))
    url = (node.url if tcp else "http://localhost/").rstrip("/") + path
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, url, headers=headers, data=data) as response,
    ):
        body = await response.read()
        return response.status, json.loads(body) if body else None


@asynccontextmanager
async def raw(node: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the socket, for bytes of any kind."""
    reader, writer = await asyncio.open_unix_connection(str(node.socket))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def code(body: Any) -> int:
    assert body["jsonrpc"] == "2.0"
    assert body["error"]["message"].endswith((".", "!"))
    return int(body["error"]["code"])


# ---- ways to call -------------------------------------------------------------------------------


async def test_get_answers_reads_with_the_bare_result(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await node.backend.block(node.backend.enrolment(1))
        status, body = await http(node, "GET", "/node_status")
        assert (status, body["institution"]) == (200, "recorder-1")
        status, body = await http(node, "GET", "/block_get?height=1")
        assert (status, len(body["transactions"])) == (200, 1)
        identity = body["transactions"][0]["id"]
        status, body = await http(node, "GET", f"/transaction_wait?ids={identity}&timeout_ms=0")
        assert (status, body["transactions"][0]["final"]) == (200, True)
        _, body = await http(
            node, "GET", f"/transaction_wait?ids={identity}&ids={'0' * 64}&timeout_ms=0"
        )
        assert [one["final"] for one in body["transactions"]] == [True, False]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/", 404, ErrorCode.METHOD_NOT_FOUND),
        ("/nonsense", 404, ErrorCode.METHOD_NOT_FOUND),
        ("/block_get", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=-1", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=x", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=NaN", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=9223372036854775808", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=" + "9" * 5000, 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=1&nonsense=2", 400, ErrorCode.INVALID_PARAMS),
        ("/block_get?height=99", 404, ErrorCode.NOT_FOUND),
        ("/record_get?id=xyz", 400, ErrorCode.INVALID_PARAMS),
        ("/record_get?id=" + "0" * 64, 404, ErrorCode.NOT_FOUND),
        ("/transaction_submit?transactions=00", 405, ErrorCode.UNSUPPORTED_REQUEST),
        ("/events_subscribe", 405, ErrorCode.UNSUPPORTED_REQUEST),
    ],
)
async def test_get_refuses_with_a_status_and_an_error(
    tmp_path: Path, path: str, status: int, error: ErrorCode
) -> None:
    async with served(tmp_path) as node:
        found, body = await http(node, "GET", path)
        assert (found, code(body)) == (status, error)


async def test_post_answers_single_batch_and_notification(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        status, body = await http(node, "POST", data=STATUS, headers=JSON)
        assert (status, body["id"]) == (200, 1)
        status, body = await http(node, "POST", data=b"[%b,%b]" % (STATUS, STATUS), headers=JSON)
        assert (status, len(body)) == (200, 2)
        notification = b'{"jsonrpc":"2.0","method":"node_status"}'
        assert await http(node, "POST", data=notification, headers=JSON) == (204, None)
        status, body = await http(node, "POST", data=b"garbage", headers=JSON)
        assert (status, code(body)) == (200, ErrorCode.PARSE_ERROR)
        charset = {"Content-Type": "application/json; charset=utf-8"}
        assert (await http(node, "POST", data=STATUS, headers=charset))[0] == 200


async def test_many_requests_share_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as node, raw(node) as (reader, writer):
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        one = head + b"Content-Length: %d\r\n\r\n" % len(STATUS) + STATUS
        writer.write(one * 3)
        for _ in range(3):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            headers = await reader.readuntil(b"\r\n\r\n")
            length = int(headers.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["id"] == 1


# ---- who gets in --------------------------------------------------------------------------------


async def test_tcp_needs_the_token_of_this_start(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=True) as node:
        good = {**JSON, "Authorization": f"Bearer {node.token}"}
        assert (await http(node, "POST", tcp=True, data=STATUS, headers=good))[0] == 200
        for wrong in (
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {node.token}0",
            f"Bearer {node.token[:-1]}",
            f"Basic {node.token}",
            node.token,
            "Bearer " + "f" * 64,
            "Bearer " + "x" * 5000,
            "Bearer \udcff",
        ):
            headers = JSON if wrong is None else {**JSON, "Authorization": wrong}
            status, body = await http(node, "POST", tcp=True, data=STATUS, headers=headers)
            assert (status, code(body)) == (401, ErrorCode.UNAUTHENTICATED)
            status, body = await http(node, "GET", "/node_status", tcp=True, headers=headers)
            assert (status, code(body)) == (401, ErrorCode.UNAUTHENTICATED)
        assert node.log.lines == []


async def test_named_tokens_have_their_roles_only(tmp_path: Path) -> None:
    roles: dict[str, tuple[Role, ...]] = {
        "reader": (Role.READ,),
        "writer": (Role.SUBMIT,),
        "auditor": (Role.AUDIT,),
        "both": (Role.SUBMIT, Role.AUDIT),
        "boss": (Role.ADMIN,),
    }
    made = {name: new_token() for name in roles}
    tokens = tuple(NamedToken(name, roles[name], made[name][1]) for name in roles)
    wanted = {
        "node_status": "reader writer auditor both boss",
        "transaction_submit": "writer both boss",
        "person_history": "auditor both boss",
        "proof_record": "auditor both boss",
    }
    async with served(tmp_path, tcp=True, tokens=tokens) as node:
        for method, names in wanted.items():
            allowed = []
            for name in roles:
                async with RpcClient((node.url, made[name][0])) as rpc:
                    error = await fails(rpc.call(method, nonsense=1))
                    assert error.code in (ErrorCode.FORBIDDEN, ErrorCode.INVALID_PARAMS)
                    if error.code == ErrorCode.INVALID_PARAMS:
                        allowed.append(name)
            assert allowed == names.split()


@pytest.mark.parametrize("tcp", [False, True])
async def test_foreign_hosts_and_web_pages_are_refused(tmp_path: Path, tcp: bool) -> None:
    async with served(tmp_path, tcp=True) as node:
        good = {**JSON, "Authorization": f"Bearer {node.token}"}
        for host in ("localhost", "127.0.0.1:80", "[::1]:7600", "LOCALHOST"):
            headers = {**good, "Host": host}
            assert (await http(node, "POST", tcp=tcp, data=STATUS, headers=headers))[0] == 200
        for extra in (
            {"Host": "evil.example"},
            {"Host": "localhost.evil.example"},
            {"Host": "127.0.0.1.evil.example:80"},
            {"Host": "localhost@evil.example"},
            {"Host": ""},
            {"Host": "localhost", "Origin": "http://localhost"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
        ):
            headers = {**good, **extra}
            for request in (
                http(node, "POST", tcp=tcp, data=STATUS, headers=headers),
                http(node, "GET", "/node_status", tcp=tcp, headers=headers),
            ):
                status, body = await request
                assert (status, code(body)) == (403, ErrorCode.FORBIDDEN)


async def test_a_web_page_cannot_open_a_websocket(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as node,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(node.socket))) as session,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect("http://localhost/", origin="https://evil.example")
        assert caught.value.status == 403


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 415),
        ("POST", {"Content-Type": "text/plain"}, 415),
        ("POST", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", {**JSON, "Content-Encoding": "gzip"}, 415),
        ("PUT", JSON, 405),
        ("DELETE", JSON, 405),
        ("OPTIONS", {}, 405),
        ("PATCH", JSON, 405),
    ],
)
async def test_other_kinds_of_requests_are_refused(
    tmp_path: Path, method: str, headers: dict[str, str], status: int
) -> None:
    async with served(tmp_path) as node:
        found, body = await http(node, method, data=STATUS, headers=headers)
        assert (found, code(body)) == (status, ErrorCode.UNSUPPORTED_REQUEST)


# ---- what is too much ---------------------------------------------------------------------------


async def upload(chunks: int, chunk: bytes) -> AsyncIterator[bytes]:
    for _ in range(chunks):
        yield chunk


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_100_mb_is_refused_without_being_kept(
    tmp_path: Path, announced: bool
) -> None:
    chunk = b"x" * 1_000_000
    headers = {**JSON, "Content-Length": "100000000"} if announced else JSON
    async with served(tmp_path) as node:
        tracemalloc.start()
        try:
            status, body = await http(node, "POST", data=upload(100, chunk), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (status, code(body)) == (413, ErrorCode.TOO_LARGE)
        assert peak < 24_000_000
        assert (await node.rpc.call("node_status"))["height"] == 0


async def test_a_large_body_is_refused_before_a_careful_client_sends_it(tmp_path: Path) -> None:
    head = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\n"
    )
    async with served(tmp_path) as node:
        async with raw(node) as (reader, writer):
            writer.write(head + b"Content-Length: 100000000\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        async with raw(node) as (reader, writer):
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(STATUS))
            assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            await reader.readline()
            writer.write(STATUS)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_a_body_at_the_limit_is_read(tmp_path: Path) -> None:
    async with served(tmp_path, body_bytes_max=len(STATUS)) as node:
        assert (await http(node, "POST", data=STATUS, headers=JSON))[0] == 200
        status, _ = await http(node, "POST", data=STATUS + b" ", headers=JSON)
        assert status == 413


async def test_nested_brackets_are_an_error_and_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        deep = b"[" * 100_000 + b"]" * 100_000
        for data in (deep, b'{"jsonrpc":"2.0","id":1,"method":"block_get","params":%b}' % deep):
            status, body = await http(node, "POST", data=data, headers=JSON)
            assert (status, code(body)) == (200, ErrorCode.PARSE_ERROR)
        assert node.log.lines == []


@pytest.mark.parametrize(
    "height", ["-1", "1.5", "1e400", "9223372036854775808", "1" * 4000, '"1"', "true", "[]", "{}"]
)
async def test_numbers_out_of_range_are_invalid_params(tmp_path: Path, height: str) -> None:
    async with served(tmp_path) as node:
        for params in (f'{{"height":{height}}}', f"[{height}]"):
            text = f'{{"jsonrpc":"2.0","id":1,"method":"block_get","params":{params}}}'
            _, body = await http(node, "POST", data=text.encode(), headers=JSON)
            assert code(body) == ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff" * 500, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"A" * 20_000],
)
async def test_garbage_instead_of_http_is_answered_and_forgotten(
    tmp_path: Path, garbage: bytes
) -> None:
    async with served(tmp_path) as node:
        async with raw(node) as (reader, writer):
            writer.write(garbage)
            assert b" 400 " in await reader.readline()
        assert (await node.rpc.call("node_status"))["height"] == 0


async def test_calls_above_the_rate_are_told_to_wait(tmp_path: Path) -> None:
    async with served(tmp_path, calls_per_second_max=0, calls_burst_max=3) as node:
        for _ in range(3):
            await node.rpc.call("node_status")
        assert (await fails(node.rpc.call("node_status"))).code == ErrorCode.BUSY
        status, body = await http(node, "GET", "/node_status")
        assert (status, code(body)) == (429, ErrorCode.BUSY)


async def test_connections_above_the_limit_are_closed(tmp_path: Path) -> None:
    async with served(tmp_path, connections_max=2) as node:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(raw(node))
            reader, _ = await stack.enter_async_context(raw(node))
            assert await reader.read() == b""
        await until(lambda: not node.server.connections)
        assert (await node.rpc.call("node_status"))["height"] == 0


async def test_slow_bodies_time_out(tmp_path: Path) -> None:
    async with served(tmp_path, body_timeout_ms=100) as node, raw(node) as (reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        assert str(int(ErrorCode.TOO_SLOW)).encode() in await reader.read()


@pytest.mark.parametrize("silent", [b"", b"POST / HTTP/1.1\r\nHost: loc"])
async def test_connections_without_a_request_time_out(tmp_path: Path, silent: bytes) -> None:
    async with served(tmp_path, idle_timeout_ms=100) as node, raw(node) as (reader, writer):
        writer.write(silent)
        assert await reader.read() == b""


async def test_a_client_that_takes_no_answer_is_cut_off(tmp_path: Path) -> None:
    async with served(tmp_path, answer_timeout_ms=100) as node, raw(node) as (reader, writer):
        call = b'{"jsonrpc":"2.0","method":"rpc.discover","id":1}'
        data = b"[" + b",".join([call] * 100) + b"]"
        writer.write(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data) + data
        )
        await until(lambda: node.server.connections)
        await until(lambda: not node.server.connections)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(3_000_000)


# ---- clients that go, calls that fail -----------------------------------------------------------


async def test_a_client_that_goes_away_stops_waiting_and_its_submission_goes_on(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as node:
        wait = asyncio.create_task(node.rpc.call("transaction_wait", ids=["0" * 64]))
        await until(lambda: node.server._service.waits.count)
        wait.cancel()
        await until(lambda: not node.server._service.waits.count)
        node.backend.submitting = asyncio.Event()
        raw = node.backend.enrolment(1)
        submit = asyncio.create_task(node.rpc.call("transaction_submit", transactions=[raw.hex()]))
        await until(lambda: node.server._service.submits_under_way)
        submit.cancel()
        await asyncio.wait([submit])
        node.backend.submitting.set()
        await until(lambda: not node.server._service.submits_under_way)
        assert node.backend.taken == [raw]


async def test_a_client_that_goes_away_before_its_answer_is_no_failure_of_ours(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as node:
        status = node.backend.status

        def leave() -> Any:
            for handler in node.server._servers[0].connections:
                assert handler.transport is not None
                handler.transport.close()
            return status()

        node.backend.status = leave  # type: ignore[method-assign]
        async with raw(node) as (reader, writer):
            writer.write(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(STATUS) + STATUS
            )
            assert await reader.read() == b""
        await until(lambda: not node.server.connections)
        assert node.log.lines == []


async def test_a_failure_of_ours_is_logged_without_what_was_asked(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        secret = "ab" * 32

        def broken() -> Any:
            raise ValueError(f"cannot read {secret}")

        node.backend.status = broken  # type: ignore[method-assign]
        error = await fails(node.rpc.call("node_status"))
        assert error.code == ErrorCode.INTERNAL_ERROR
        assert secret not in error.sentence
        ((event, values),) = node.log.lines
        assert event == "rpc_call_failed"
        assert values["method"] == "node_status"
        assert values["error"] == "ValueError"
        assert secret not in str(values)


# ---- start and stop -----------------------------------------------------------------------------


def settings_in(home: Path, tcp: tuple[str, int] | None = None) -> RpcSettings:
    return RpcSettings(home / "rpc.sock", tcp, home / "rpc.token")


async def test_stopping_ends_waits_and_leaves_nothing_behind(tmp_path: Path) -> None:
    backend = await LedgerBackend.open(tmp_path)
    server = RpcServer(backend, settings_in(tmp_path, ("127.0.0.1", 0)), Log())
    await server.start()
    assert (tmp_path / "rpc.sock").is_socket()
    assert (tmp_path / "rpc.token").exists()
    await backend.block(raw := backend.enrolment(1))
    async with RpcClient(tmp_path / "rpc.sock") as rpc:
        ids = [backend.id_of(raw), "0" * 64]
        wait = asyncio.create_task(rpc.call("transaction_wait", ids=ids))
        await until(lambda: server._service.waits.count)
        await server.stop()
        assert [one["final"] for one in (await wait)["transactions"]] == [True, False]
    assert not (tmp_path / "rpc.sock").exists()
    assert not (tmp_path / "rpc.token").exists()
    await backend.close()


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=True) as node:
        token = node.token
        with pytest.raises(StartError, match="Another process serves"):
            await RpcServer(node.backend, settings_in(tmp_path)).start()
        assert (await node.rpc.call("node_status"))["height"] == 0
        second = RpcSettings(tmp_path / "2.sock", node.server.tcp_address, tmp_path / "rpc.token")
        with pytest.raises(StartError, match=r"cannot listen on 127\.0\.0\.1:.*address already"):
            await RpcServer(node.backend, second).start()
        assert not (tmp_path / "2.sock").exists()
        assert node.token == token


async def test_tcp_is_off_unless_asked_for(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        assert node.server.tcp_address is None
        assert not (tmp_path / "rpc.token").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_an_address_that_others_reach_is_refused(tmp_path: Path, host: str) -> None:
    async with served(tmp_path) as node:
        settings = RpcSettings(tmp_path / "2.sock", (host, 0), tmp_path / "rpc.token")
        with pytest.raises(StartError, match="others can reach"):
            await RpcServer(node.backend, settings).start()
        assert not (tmp_path / "2.sock").exists()


async def test_a_token_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        settings = RpcSettings(tmp_path / "2.sock", ("127.0.0.1", 0), tmp_path / "none" / "token")
        with pytest.raises(StartError, match="cannot be written"):
            await RpcServer(node.backend, settings).start()
        assert not (tmp_path / "2.sock").exists()


async def test_long_bodies_wait_for_room_and_short_ones_do_not(tmp_path: Path) -> None:
    long = b" " * 100_000 + STATUS
    async with served(tmp_path, bodies_bytes_max=150_000, body_timeout_ms=100) as node:
        await node.server._room.enter(100_000)
        assert (await node.rpc.call("node_status"))["height"] >= 0
        status, body = await http(node, "POST", headers=JSON, data=long)
        assert (status, code(body)) == (503, ErrorCode.BUSY)
        node.server._room.leave(100_000)
        for _ in range(3):
            status, _ = await http(node, "POST", headers=JSON, data=long)
            assert status == 200


async def test_metrics_are_a_page_for_prometheus(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=True) as node:
        headers = {"Authorization": f"Bearer {node.token}"}
        async with aiohttp.ClientSession() as session:
            async with session.get(node.url + "metrics", headers=headers) as response:
                assert response.status == 200
                assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                page = await response.text()
            async with session.get(node.url + "metrics") as response:
                assert response.status == 401
    assert "medpact_height 0\n" in page
    assert 'medpact_peer_connected{peer="recorder-3"} 0\n' in page
    assert 'medpact_peer_faults_total{peer="recorder-3",reason="flood"} 9\n' in page


async def test_metrics_count_as_calls(tmp_path: Path) -> None:
    async with served(tmp_path, calls_per_second_max=1, calls_burst_max=1) as node:
        statuses = [(await raw_get(node, "/metrics")).partition(b"\r\n")[0] for _ in range(3)]
    assert statuses[0].endswith(b"200 OK")
    assert b"429" in statuses[2]


async def raw_get(node: Served, path: str) -> bytes:
    async with raw(node) as (reader, writer):
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        return await reader.read()
