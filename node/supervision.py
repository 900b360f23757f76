"""Daemons of a trial network as processes of this machine: started, watched and stopped.

A node that ends by itself is reported and left alone: the others show that the network goes on
without it. Which process runs a home is read from the home's lock, so a network can be looked
after by whoever comes later, too.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.home import Home, HomeError, printable, reason

START_WAIT_MS_MAX = 120_000
"""How long all nodes together may take until they answer."""
JOIN_WAIT_MS_MAX = 15_000
"""How long to wait for all connections; a network with less works, so this is no failure."""
STOP_WAIT_MS_MAX = 15_000
"""How long a node may take to stop when asked, before it is killed."""
LAST_WORDS_BYTES_MAX = 4096
_POLL_MS = 50
_WATCH_MS = 200
_CLI = Path(__file__).resolve().parents[1] / "cli.py"

Status = Mapping[str, Any]
Ask = Callable[[Home], Awaitable[Status | None]]
"""Ask a node how it is; None if it does not answer."""
Say = Callable[[str], None]


def launch(home: Home) -> "subprocess.Popen[bytes]":
    """Start the daemon of a home as a process whose output goes to the log file.

    In a session of its own, so that Ctrl-C here reaches only us and the nodes stop in good order.
    Raises HomeError.
    """
    try:
        log = os.open(home.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise HomeError(
            f"The log {printable(home.log_file)} cannot be written: {reason(error)}; free or "
            "remount the disk, or run the command as the user that owns the home."
        ) from error
    try:
        return subprocess.Popen(
            [sys.executable, str(_CLI), "start", "--home", str(home.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


@dataclass(slots=True)
class Node:
    """One home under watch, and the process if it is ours."""

    home: Home
    process: "subprocess.Popen[bytes] | None" = None
    ready: bool = False
    ended: bool = False

    @property
    def name(self) -> str:
        """The id of the institution, after which the home is named."""
        return self.home.path.name

    def obituary(self) -> str | None:
        """How our process ended, the first time that is asked after it did."""
        if self.process is None or self.ended:
            return None
        code = self.process.poll()
        if code is None:
            return None
        self.ended = True
        if code < 0:
            return f"{self.name} was ended by {signal.Signals(-code).name}."
        words = last_words(self.home)
        return f"{self.name} ended with code {code}" + (f": {words}" if words else ".")


class Supervisor:
    """Starts nodes that do not run yet, waits until all answer, and watches those it started."""

    def __init__(self, homes: Sequence[Home], ask: Ask, say: Say) -> None:
        self.nodes = [Node(home) for home in homes]
        self._ask = ask
        self._say = say

    def start(self) -> None:
        """Start every node that does not run; raises HomeError."""
        for node in self.nodes:
            pid = node.home.running_pid()
            if pid is None:
                node.process = launch(node.home)
            else:
                self._say(f"{node.name} runs already (process {pid}).")

    async def wait_ready(self, stop: asyncio.Event) -> str | None:
        """Wait until all answer or `stop` is set; returns what went wrong, or None."""
        end = _end(START_WAIT_MS_MAX)
        while waiting := [node for node in self.nodes if not node.ready]:
            for node in waiting:
                obituary = node.obituary()
                if obituary is not None:
                    return obituary
            for node, status in zip(waiting, await self._ask_all(waiting), strict=True):
                if status is not None:
                    node.ready = True
                    done = sum(n.ready for n in self.nodes)
                    self._say(f"[{done}/{len(self.nodes)}] {node.name} is up.")
            if time.monotonic() >= end:
                names = ", ".join(n.name for n in self.nodes if not n.ready)
                return f"{names} did not answer within {START_WAIT_MS_MAX // 1000} s."
            if await _is_set_within(stop, _WATCH_MS):
                return None
        return None

    async def wait_linked(self, stop: asyncio.Event) -> str | None:
        """Wait until each node is connected to all others here, at most JOIN_WAIT_MS_MAX.

        Returns which are not, or None.
        """
        end = _end(JOIN_WAIT_MS_MAX)
        wanted = len(self.nodes) - 1
        lonely: list[str] = []
        while not stop.is_set():
            statuses = await self._ask_all(self.nodes)
            counts = [0 if status is None else len(status["peers"]) for status in statuses]
            pairs = zip(self.nodes, counts, strict=True)
            lonely = [
                f"{node.name} ({count} of {wanted})" for node, count in pairs if count < wanted
            ]
            if not lonely or time.monotonic() >= end:
                break
            await _is_set_within(stop, _WATCH_MS)
        if not lonely or stop.is_set():
            return None
        return (
            f"not every node is connected to all others: {', '.join(lonely)}; their logs say why."
        )

    async def watch(self, stop: asyncio.Event) -> None:
        """Report every node of ours that ends by itself, until `stop` is set."""
        while not await _is_set_within(stop, _WATCH_MS):
            for node in self.nodes:
                obituary = node.obituary()
                if obituary is not None:
                    self._say(f"{obituary} The others go on.")

    def pids(self) -> tuple[int, ...]:
        """The processes that run now: ours, and those found running."""
        found = [self._pid(node) for node in self.nodes]
        return tuple(pid for pid in found if pid is not None)

    @staticmethod
    def _pid(node: Node) -> int | None:
        # Our own process may not have come as far as taking the lock.
        if node.process is not None and node.process.poll() is None:
            return node.process.pid
        return node.home.running_pid()

    async def _ask_all(self, nodes: Sequence[Node]) -> list[Status | None]:
        return await asyncio.gather(*(self._ask(node.home) for node in nodes))


def _end(wait_ms: int) -> float:
    return time.monotonic() + wait_ms / 1000


async def _is_set_within(event: asyncio.Event, wait_ms: int) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), wait_ms / 1000)
    return event.is_set()


def stop(pids: Sequence[int], wait_ms: int = STOP_WAIT_MS_MAX) -> tuple[int, ...]:
    """Ask processes to stop, wait, and kill those that did not; returns the killed ones."""
    for pid in pids:
        send(pid, signal.SIGTERM)
    running = _wait(pids, wait_ms)
    for pid in running:
        send(pid, signal.SIGKILL)
    _wait(running, wait_ms)
    return running


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(pids: Sequence[int], wait_ms: int) -> tuple[int, ...]:
    """Wait until the processes have ended, at most `wait_ms`; returns those that have not."""
    end = _end(wait_ms)
    running = tuple(pids)
    while running := tuple(pid for pid in running if _is_running(pid)):
        if time.monotonic() >= end:
            break
        time.sleep(_POLL_MS / 1000)
    return running


def _is_running(pid: int) -> bool:
    # A child of ours that has ended keeps its number, as a zombie, until we wait for it.
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def last_words(home: Home) -> str:
    """The last line of a node's log, which says why it ended; "" if there is none."""
    try:
        with home.log_file.open("rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - LAST_WORDS_BYTES_MAX))
            lines = f.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    spoken = [line.strip() for line in lines if line.strip()]
    return _said(spoken[-1].removeprefix("Error: ")) if spoken else ""


def _said(line: str) -> str:
    """What a line of a log says, without the JSON around it."""
    try:
        document = json.loads(line)
    except ValueError:
        return line
    if not isinstance(document, dict):
        return line
    return str(document.get("reason") or document.get("event") or line)
