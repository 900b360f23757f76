"""A network that can be cut where there are no namespaces: every connection goes through here.

The genesis file names a port of this process for each member, and the member listens at another
one. Who dials is found out from the kernel's table of connections and the files that the daemons'
processes hold. A pair that is cut is not told: what one sends just does not arrive, until the pair
is healed or a side gives up.

The proxy is a process of its own, so that nothing else that the run does slows the network down:
`Proxy` starts it, and tells it on its standard input who is cut. It ends when that does.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from simulations.command import CLI

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
LISTEN_OFFSET = 500
"""A member listens so many ports above the one at which it is dialled."""
STOP_S = 5.0
_LOCAL, _REMOTE, _INODE = 1, 2, 9
"""Columns of /proc/net/tcp."""


class Proxy:
    """The links of a run that go through a proxy. `base_port` is that of the first member."""

    def __init__(self, names: Sequence[str], base_port: int) -> None:
        self._ports = {name: base_port + number for number, name in enumerate(names)}
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulations.chaos_proxy"],
            cwd=CLI.parent,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._tell(ports=self._ports)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process = None

    def address(self, name: str) -> str:
        """Where a member is dialled: here."""
        return f"{HOST}:{self._ports[name]}"

    def listen(self, name: str) -> str:
        """Where a member listens."""
        return f"{HOST}:{self._ports[name] + LISTEN_OFFSET}"

    def prefix(self, name: str) -> list[str]:
        """All members share this machine's network."""
        return []

    def apply(self, cut: Mapping[tuple[str, str], None]) -> None:
        """Let nothing through from the first to the second of each of these pairs."""
        self._tell(cut=list(cut))

    def watch(self, pids: Mapping[int, str]) -> None:
        """Say which process belongs to whom."""
        self._tell(members=list(pids.items()))

    def _tell(self, **words: object) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the proxy is not open")
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()


class Exchange:
    """What the process does: it passes on what may pass."""

    def __init__(self) -> None:
        self._members: dict[int, str] = {}
        self._cut: frozenset[tuple[str, str]] = frozenset()
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._joins: dict[asyncio.Task[None], None] = {}

    async def told(self, words: Mapping[str, Any]) -> None:
        """Take an order of `Proxy`."""
        for name, port in words.get("ports", {}).items():
            await self.serve(name, port, port + LISTEN_OFFSET)
        if "members" in words:
            self._members = dict(words["members"])
        if "cut" in words:
            self._cut = frozenset((sender, receiver) for sender, receiver in words["cut"])
            self._changed.set()
            self._changed = asyncio.Event()

    async def serve(self, name: str, port: int, to_port: int) -> None:
        """Accept connections for a member."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._join(reader, writer, name, port, to_port))
            self._joins[task] = None
            task.add_done_callback(lambda _: self._joins.pop(task))

        self._servers.append(await asyncio.start_server(accept, HOST, port))

    async def close(self) -> None:
        """Accept no more, and end all connections."""
        for server in self._servers:
            server.close()
        for task in self._joins:
            task.cancel()
        await asyncio.gather(*self._joins, return_exceptions=True)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        name: str,
        port: int,
        to_port: int,
    ) -> None:
        from_port = writer.get_extra_info("peername")[1]
        dialler = dialler_of(from_port, port, self._members) or ""
        # An OSError: a side has gone, and `_pump` ends the other.
        with suppress(OSError):
            await self._may_pass(dialler, name)
            near, far = await asyncio.open_connection(HOST, to_port)
            await asyncio.gather(
                self._pump(reader, far, dialler, name), self._pump(near, writer, name, dialler)
            )
        writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str, receiver: str
    ) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._may_pass(sender, receiver)
                writer.write(data)
                await writer.drain()
            await self._may_pass(sender, receiver)
        finally:
            writer.transport.abort()

    async def _may_pass(self, sender: str, receiver: str) -> None:
        while (sender, receiver) in self._cut:
            await self._changed.wait()


def dialler_of(from_port: int, to_port: int, members: Mapping[int, str]) -> str | None:
    """Whose process holds the connection from one loopback port to another."""
    local, remote = f":{from_port:04X}", f":{to_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[_LOCAL].endswith(local) and columns[_REMOTE].endswith(remote):
            wanted = f"socket:[{columns[_INODE]}]"
            return next((name for pid, name in members.items() if _holds(pid, wanted)), None)
    return None


def _holds(pid: int, wanted: str) -> bool:
    try:
        return any(str(f.readlink()) == wanted for f in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        # The process, or one of its files, has gone meanwhile.
        return False


async def main() -> None:
    """Obey standard input until it ends."""
    exchange = Exchange()
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        await exchange.told(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
