"""The process of signatures: right, not to be confused, and gone when its node is."""

import errno
import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import verifier as module
from node.verifier import Verifier, VerifierError
from node.verifying import serve
from primitives.keys import PrivateKey, Signed, verify_each

KEYS = [PrivateKey(bytes([number]) * 32) for number in range(3)]


def signed(number: int, signer: int = 0, author: int = 0) -> Signed:
    message = number.to_bytes(32, "big")
    return KEYS[author].public, message, KEYS[signer].sign(message)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    made = Verifier()
    yield made
    made.close()


@given(
    st.lists(
        st.builds(signed, st.integers(0, 99), st.integers(0, 2), st.integers(0, 2)), max_size=40
    )
)
def test_it_tells_the_same_as_a_check_here(verifier: Verifier, claims: list[Signed]) -> None:
    assert list(verifier.verify_each(claims)) == verify_each(claims)


def test_more_than_the_system_holds_between_two_processes_is_answered(verifier: Verifier) -> None:
    claims = [signed(0), signed(0, 1)] * 5_000
    assert list(verifier.verify_each(claims)) == [True, False] * 5_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_node_does_not_stop_it(number: int) -> None:
    verifier = Verifier()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    # Amid its start, and when it serves.
    for _ in range(2):
        os.kill(verifier.process_id, number)
        assert verifier.verify_each([signed(1)]) == b"\1"
    verifier.close()
    assert number not in before


def test_its_end_is_told_and_it_is_reaped() -> None:
    verifier = Verifier()
    os.kill(verifier.process_id, signal.SIGKILL)
    with pytest.raises(VerifierError, match="has ended"):
        verifier.verify_each([signed(1)] * 5_000)
    with pytest.raises(VerifierError, match="has ended"):
        verifier.verify_each([signed(1)])
    verifier.close()
    assert not Path(f"/proc/{verifier.process_id}").exists()


def test_one_that_was_stopped_is_ended_and_never_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS_MAX", 0.1)
    verifier = Verifier()
    os.kill(verifier.process_id, signal.SIGSTOP)
    with pytest.raises(VerifierError, match="does not answer"):
        verifier.verify_each([signed(1)])
    assert not Path(f"/proc/{verifier.process_id}").exists()
    with pytest.raises(VerifierError, match="does not answer"):
        verifier.verify_each([signed(1, 1)])


def test_a_late_answer_is_not_taken_for_that_of_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verifier = Verifier()
    with monkeypatch.context() as patch:
        patch.setattr(verifier, "_answers", SimpleNamespace(close=verifier._answers.close))
        with pytest.raises(AttributeError):
            verifier.verify_each([signed(1)])
    with pytest.raises(VerifierError, match="has ended"):
        verifier.verify_each([signed(1, 1)])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS])
def test_that_there_is_no_socket_for_it_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("socket.socketpair", failing)
    with pytest.raises(VerifierError, match="No process can be started"):
        Verifier()


def test_what_its_start_prints_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('Welcome to this machine')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    verifier = Verifier()
    assert verifier.verify_each([signed(1, 1), signed(1)]) == b"\0\1"
    verifier.close()


def test_that_it_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(VerifierError, match="No process can be started"):
        Verifier()


def test_it_runs_nothing_of_the_directory_that_the_node_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "verifier.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "struct.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    verifier = Verifier()
    assert verifier.verify_each([signed(1), signed(1, 1)]) == b"\1\0"
    verifier.close()


def test_it_ends_with_a_node_that_is_killed() -> None:
    program = (
        "from node.verifier import Verifier\n"
        "verifier = Verifier()\n"
        "print(verifier.process_id, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as node:
        assert node.stdout is not None
        ended = os.pidfd_open(int(node.stdout.readline()))
        node.kill()
    # A file descriptor of a process can be read once that has ended: pidfd_open(2).
    assert select.select([ended], [], [], 20)[0]
    os.close(ended)


@pytest.mark.parametrize("cut", [1, 4, 100, 4 + 127])
def test_half_a_request_is_not_answered(cut: int) -> None:
    whole = b"\1\0\0\0" + b"".join(signed(1))
    answers = io.BytesIO()
    serve(io.BytesIO(whole + whole[:cut]), answers)
    assert answers.getvalue() == b"\1"
