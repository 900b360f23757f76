"""node/client.py: ways to reach a node, and what is said when there is none."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from node.client import RpcClient, RpcError, RpcUnavailable, call_sync
from node.home import Home, StartError
from node.jsonrpc import ErrorCode
from node.rpc_socket import UnixListener, loopback_socket
from tests.node.rpc_support import served


def configure(home: Path, text: str = "") -> None:
    (home / "config.toml").write_text(f'institution = "recorder-1"\n{text}')


async def test_a_node_is_reached_by_home_socket_and_tcp(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=True) as node:
        configure(tmp_path)
        for where in (tmp_path, node.socket, (node.url, node.token)):
            async with RpcClient(where) as rpc:
                assert (await rpc.call("node_status"))["institution"] == "recorder-1"


async def test_a_home_may_keep_its_socket_elsewhere(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    async with served(elsewhere):
        configure(home, f'[rpc]\nsocket = "{elsewhere}/rpc.sock"\n')
        async with RpcClient(home) as rpc:
            assert (await rpc.call("chain_head"))["height"] == 0


async def test_params_by_name_and_as_a_mapping(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        by_name = await node.rpc.call("block_get", height=0)
        assert await node.rpc.call("block_get", {"height": 0}) == by_name


async def test_a_failed_call_raises_its_code_and_sentence(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        with pytest.raises(RpcError) as caught:
            await node.rpc.call("block_get", height=9)
        assert caught.value.code == ErrorCode.NOT_FOUND
        assert str(caught.value) == caught.value.sentence
        assert "head is at height 0" in caught.value.sentence


async def test_many_tasks_share_a_client(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        raws = [node.backend.enrolment(n) for n in range(40)]
        await node.backend.block(*raws)
        calls = (node.rpc.call("transaction_get", id=node.backend.id_of(raw)) for raw in raws)
        assert [view["index"] for view in await asyncio.gather(*calls)] == list(range(40))


async def unavailable(where: Path | tuple[str, str], timeout_ms: int = 5_000) -> str:
    with pytest.raises(RpcUnavailable) as caught:
        async with RpcClient(where, timeout_ms=timeout_ms) as rpc:
            await rpc.call("node_status")
    return str(caught.value)


async def test_without_a_node_the_sentence_says_how_to_start_one(tmp_path: Path) -> None:
    configure(tmp_path)
    start = f"start it with `medpact start --home {tmp_path}`"
    assert start in await unavailable(tmp_path)
    assert start in await unavailable(tmp_path / "rpc.sock")
    UnixListener(tmp_path / "rpc.sock").socket.close()
    assert start in await unavailable(tmp_path)
    with Home(tmp_path).locked():
        assert "runs but does not answer yet" in await unavailable(tmp_path)
    with loopback_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    assert "is it running" in await unavailable((f"http://127.0.0.1:{port}/", "token"))


async def test_a_home_without_settings_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config\.toml does not exist"):
        async with RpcClient(tmp_path):
            pass


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"error":1}',
    ],
)
async def test_something_else_that_answers_is_told_apart(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    assert "no medpact node" in await answered_by(tmp_path, serve)


async def answered_by(
    directory: Path,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    timeout_ms: int = 5_000,
) -> str:
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_unix_server(handle, directory / "s"):
        said = await unavailable(directory / "s", timeout_ms)
        await done.wait()
        return said


async def test_a_node_that_cuts_off_or_keeps_silent_is_unavailable(tmp_path: Path) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pass

    assert "No node is running" in await answered_by(tmp_path, cut)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    assert "did not answer node_status in time" in await answered_by(tmp_path, silent, 100)


async def test_a_wrong_token_is_the_node_s_own_error(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=True) as node, RpcClient((node.url, "wrong")) as rpc:
        with pytest.raises(RpcError) as caught:
            await rpc.call("node_status")
        assert caught.value.code == ErrorCode.UNAUTHENTICATED


async def test_calls_without_a_loop(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        found = await asyncio.to_thread(call_sync, node.socket, "block_get", height=0)
        assert found["header"]["height"] == 0
        with pytest.raises(RpcError):
            await asyncio.to_thread(call_sync, node.socket, "block_get", height=1)


async def test_a_client_that_was_not_entered_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await RpcClient(tmp_path).call("node_status")


async def test_events_of_a_node_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RpcUnavailable):
        async with RpcClient(tmp_path / "s") as rpc:
            await anext(rpc.events())


async def test_a_refused_subscription_raises_the_node_s_error(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        with pytest.raises(RpcError) as caught:
            await anext(node.rpc.events(ids=["xyz"]))
        assert caught.value.code == ErrorCode.INVALID_PARAMS


async def test_a_socket_path_beyond_every_limit_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / ("s" * 120)
    path.touch()
    assert "107 bytes" in await unavailable(path)
