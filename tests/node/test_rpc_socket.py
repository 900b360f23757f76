"""node/rpc_socket.py: a unix socket that only its owner can open, whatever was there before."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from node.client import RpcClient
from node.home import StartError
from node.rpc_socket import SOCKET_PATH_BYTES_MAX, UnixListener, connectable, loopback_socket
from tests.node.rpc_support import served, until


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, connectable(path) as address:
        return client.connect_ex(address) == 0


def test_the_socket_is_private_from_birth_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    modes: list[int] = []
    bind = socket.socket.bind

    def watched(self: socket.socket, address: Any) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(path.lstat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", watched)
    umask = os.umask(0)
    try:
        listener = UnixListener(path)
        assert os.umask(0) == 0
    finally:
        os.umask(umask)
    assert modes == [0o600]
    listener.close()


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    listener = UnixListener(path)
    assert connects(path)
    listener.close()
    assert not path.exists()


def test_the_socket_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = UnixListener(path)
    with pytest.raises(StartError, match=r"Another process serves .*stop that node first"):
        UnixListener(path)
    assert connects(path)
    first.close()


def test_a_live_process_with_a_full_backlog_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.setblocking(False)
        waiting.connect(str(path))
        with pytest.raises(StartError, match="Another process serves"):
            UnixListener(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="is no socket: move it"):
        UnixListener(path)
    assert os.path.lexists(path)


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot listen on the socket .*no such file"):
        UnixListener(tmp_path / "none" / "s")


def test_closing_leaves_a_socket_alone_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = UnixListener(path)
    path.unlink()
    second = UnixListener(path)
    first.close()
    assert connects(path)
    second.close()
    second.close()


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("spare", [0, 1, 40])
async def test_paths_longer_than_an_address_work_at_both_ends(tmp_path: Path, spare: int) -> None:
    base = len(os.fsencode(tmp_path)) + len("//rpc.sock")
    home = tmp_path / ("d" * max(1, SOCKET_PATH_BYTES_MAX + spare - base))
    home.mkdir()
    assert len(os.fsencode(home / "rpc.sock")) >= SOCKET_PATH_BYTES_MAX + spare
    async with served(home):
        pass
    (home / "ledger.db").unlink()
    before = descriptors()
    async with served(home) as node:
        assert (await node.rpc.call("node_status"))["height"] == 0
        async with RpcClient(home / "rpc.sock") as rpc:
            assert (await rpc.call("node_status"))["height"] == 0
    assert not (home / "rpc.sock").exists()
    await until(lambda: descriptors() <= before)


def test_a_name_that_fits_no_address_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"more than the 107 bytes .*choose a shorter one"):
        UnixListener(tmp_path / ("s" * 120))


def test_loopback_names_and_addresses() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.9.1"):
        listener = loopback_socket(host, 0)
        assert listener.getsockname()[0].startswith("127.")
        listener.close()
    for host in ("0.0.0.0", "::", "192.0.2.1", "localhost.evil.example", "", "127.0.0.1.nip.io"):
        with pytest.raises(StartError, match="others can reach"):
            loopback_socket(host, 0)


def test_a_port_in_use_is_a_sentence() -> None:
    first = loopback_socket("127.0.0.1", 0)
    with pytest.raises(StartError, match=r"set the key 'rpc\.tcp' to another port"):
        loopback_socket("127.0.0.1", first.getsockname()[1])
    first.close()
