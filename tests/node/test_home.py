"""The home directory: file names as they are shown, and the lock."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.home import PATH_BYTES_MAX, Home, HomeError, printable, read_file

_HOLD = """
import sys
from pathlib import Path
from node.home import Home
with Home(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(path: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with _holder(tmp_path) as process:
        assert home.running_pid() == process.pid
        with pytest.raises(HomeError, match=f"by the process {process.pid};"), home.locked():
            raise AssertionError("entered a home in use")
        process.communicate("")
    assert home.running_pid() is None
    with home.locked():
        assert home.running_pid() == os.getpid()


def test_a_killed_process_leaves_the_home_free(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        process.kill()
    assert Home(tmp_path).lock_file.read_text() == f"{process.pid}\n"
    assert Home(tmp_path).running_pid() is None
    with Home(tmp_path).locked():
        assert Home(tmp_path).lock_file.read_text() == f"{os.getpid()}\n"


def test_a_home_that_was_never_started_runs_nothing(tmp_path: Path) -> None:
    assert Home(tmp_path).running_pid() is None
    assert not Home(tmp_path).lock_file.exists()


def test_an_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path / "missing")
    with pytest.raises(HomeError, match="written: no such file or directory;"), home.locked():
        raise AssertionError("entered a home that does not exist")


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    Home(tmp_path).check()
    with pytest.raises(HomeError, match="does not exist; give the node's directory with --home"):
        Home(tmp_path / "missing").check()
    with pytest.raises(HomeError, match="is a file, not a directory"):
        Home(file).check()
    with pytest.raises(HomeError, match="cannot be used: not a directory; give the node's"):
        Home(file / "below").check()
    with pytest.raises(HomeError, match="cannot be used: file name too long; give the node's"):
        Home(tmp_path / ("x" * 300)).check()


def test_create_keeps_others_out_and_refuses_what_exists(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    home.create()
    assert home.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(HomeError, match="cannot be created: file exists"):
        home.create()


def test_a_path_that_the_database_cannot_have_is_said_at_once(tmp_path: Path) -> None:
    longest = _of_length(tmp_path, PATH_BYTES_MAX)
    Home(longest).create()
    Home(longest).check()
    Home(longest).data.mkdir()
    with closing(sqlite3.connect(Home(longest).database)) as database:
        assert database.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
        database.execute("CREATE TABLE t (x)")
    longer = _of_length(tmp_path, PATH_BYTES_MAX + 1)
    longer.mkdir(parents=True)
    with pytest.raises(HomeError, match=r"has a path of 481 bytes.*choose a shorter one"):
        Home(longer).check()


def _of_length(start: Path, length: int) -> Path:
    while (missing := length - len(os.fsencode(start))) > 200:
        start /= "d" * 150
    return start / ("e" * (missing - 1))


def test_only_the_beginning_of_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123456")
    assert read_file(tmp_path / "file", 4) == b"1234"
    assert read_file(tmp_path / "file", 9) == b"123456"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a device or pipe"):
            read_file(path, 4)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 4)


def test_the_layout() -> None:
    home = Home(Path("/h"))
    assert home.database == Path("/h/data/ledger.db")
    assert home.boot_counter == Path("/h/data/boot")
    assert home.rpc_socket == Path("/h/rpc.sock")
    assert home.rpc_token == Path("/h/rpc.token")
    assert home.sidecar(bytes(32)) == Path(f"/h/sidecars/{'00' * 32}.sidecar")


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_name_can_be_shown_on_one_line(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    assert shown.encode()


def test_names_are_shown_as_they_are_where_possible() -> None:
    assert printable("/tmp/Röntgen 'x' \"y\" 影像.dcm") == "/tmp/Röntgen 'x' \"y\" 影像.dcm"
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
