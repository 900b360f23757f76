"""One key, one process: whatever home it was started with."""

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node.home import StartError
from node.keylock import KeyInUseError, key_held
from primitives.keys import PrivateKey

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from node.keylock import key_held
with key_held(bytes.fromhex(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def new_key() -> bytes:
    return PrivateKey(os.urandom(32)).public


def holder(key: bytes) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, key.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_which_is_the_first() -> None:
    key = new_key()
    with holder(key) as process:
        words = rf"The key {key.hex()} is in use by the process {process.pid} of this machine.*stop"
        with pytest.raises(KeyInUseError, match=words), key_held(key):
            raise AssertionError("a key was held twice")
        with key_held(new_key()):
            pass
        process.communicate("")
    with key_held(key):
        pass


def test_a_killed_process_leaves_the_key_free() -> None:
    key = new_key()
    with holder(key) as process:
        process.kill()
        # The kernel may still be taking it apart.
        with key_held(key):
            pass


def test_who_holds_it_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    with holder(key) as process:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", refuse)
            with pytest.raises(KeyInUseError, match="by another process of"), key_held(key):
                raise AssertionError("a key was held twice")
        process.communicate("")


def refuse(*_: object) -> None:
    raise ConnectionRefusedError


def test_another_users_process_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    key, uid = new_key(), os.getuid()
    with holder(key) as process:
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        words = re.escape(f"process {process.pid} of the user {uid} of this machine")
        with pytest.raises(KeyInUseError, match=words), key_held(key):
            raise AssertionError("a key was held twice")
        process.communicate("")


def test_a_system_without_such_sockets_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(StartError, match=r"permission denied\. Let the"), key_held(new_key()):
        raise AssertionError("nothing was held")
