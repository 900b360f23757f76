"""The proxy knows who dials, passes on what may pass, and holds back what may not."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from simulations.chaos_proxy import HOST, Exchange, dialler_of

PATIENCE_S = 10.0
SILENCE_S = 0.2
"""What is held back does not come in this time; nor ever, but a test must end."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def behind_a_proxy(who: str) -> AsyncIterator[tuple[Exchange, int]]:
    """An echo at the member "auditor-1", and a proxy that takes this process for `who`."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    exchange, port = Exchange(), free_port()
    async with await asyncio.start_server(echo, HOST, 0) as server:
        await exchange.told({"members": [[os.getpid(), who]]})
        await exchange.serve("auditor-1", port, server.sockets[0].getsockname()[1])
        yield exchange, port
        await exchange.close()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes) -> bytes:
    writer.write(words)
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readexactly(len(words))


async def is_silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SILENCE_S):
            await reader.readexactly(1)
    except TimeoutError:
        return True
    return False


async def test_what_is_not_cut_passes() -> None:
    async with behind_a_proxy("recorder-1") as (exchange, port):
        await exchange.told({"cut": [["recorder-2", "auditor-1"], ["auditor-1", "recorder-2"]]})
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await talk(reader, writer, b"hello") == b"hello"
        writer.close()


@pytest.mark.parametrize("cut", [["recorder-1", "auditor-1"], ["auditor-1", "recorder-1"]])
async def test_a_cut_in_either_direction_holds_words_back_until_it_is_healed(
    cut: list[str],
) -> None:
    async with behind_a_proxy("recorder-1") as (exchange, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await talk(reader, writer, b"before") == b"before"
        await exchange.told({"cut": [cut]})
        writer.write(b"held")
        assert await is_silent(reader)
        await exchange.told({"cut": []})
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(4) == b"held"
        writer.close()


async def test_who_dials_during_a_cut_is_not_answered_before_its_end() -> None:
    async with behind_a_proxy("recorder-1") as (exchange, port):
        await exchange.told({"cut": [["recorder-1", "auditor-1"]]})
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"held")
        assert await is_silent(reader)
        await exchange.told({"cut": []})
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(4) == b"held"
        writer.close()


async def test_a_connection_ends_on_both_sides() -> None:
    async with behind_a_proxy("recorder-1") as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await talk(reader, writer, b"hello") == b"hello"
        writer.write_eof()
        assert await ended(reader)
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether a connection has ended, in whatever way."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("members", [{}, {2**22 + 1: "recorder-9"}])
async def test_a_connection_of_nobody_known_belongs_to_nobody(members: dict[int, str]) -> None:
    async with behind_a_proxy("recorder-1") as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        from_port = writer.get_extra_info("sockname")[1]
        assert await talk(reader, writer, b"hello") == b"hello"
        assert dialler_of(from_port, port, members) is None
        own = {**members, os.getpid(): "recorder-1"}
        assert dialler_of(from_port, port, own) == "recorder-1"
        writer.close()
