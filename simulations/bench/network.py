"""The daemons of a benchmark, and the process that loads them; both end with it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.bench.options import NODES_MAX, BenchError, Options
from simulations.command import CLI, CommandFailed, ask, run
from simulations.demo import NETWORK, DemoFailed, free_ports

PORTS_FROM = 23_000
PORTS = 100
"""Where to look first for free ports, times NODES_MAX: two benchmarks at once seldom meet."""

Document = dict[str, Any]
Progress = Callable[[Document], None]


@dataclass(frozen=True, slots=True)
class Network:
    """Running daemons."""

    directory: Path
    pids: Mapping[str, int]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary directory, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="medpact-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def network(directory: Path, options: Options) -> Iterator[Network]:
    """Daemons on new homes, stopped at the end. Raises BenchError if they do not start."""
    place = directory / NETWORK
    counts = (options.recorders, options.auditors, options.observers)
    plan: list[str] = []
    for name, count in zip(("--recorders", "--auditors", "--observers"), counts, strict=True):
        plan += name, str(count)
    try:
        port = str(free_ports(options.nodes, PORTS_FROM + os.getpid() % PORTS * NODES_MAX))
        ask("testnet", "create", place, *plan, "--quorum", options.quorum, "--base-port", port)
        ended = run("testnet", "up", place, "--detach")
        if ended.code != 0:
            raise BenchError(f"The daemons did not start. {ended.sentence}")
        yield Network(place, pids(place))
    except (CommandFailed, DemoFailed) as error:
        raise BenchError(f"The daemons cannot be measured: {error}") from error
    finally:
        if place.exists():
            run("testnet", "down", place)


def pids(place: Path) -> dict[str, int]:
    """The process of each node that runs."""
    nodes = json.loads(run("testnet", "status", place, "--json").output)["nodes"]
    return {node["id"]: node["pid"] for node in nodes if node.get("pid")}


class Client:
    """The loading process (client.py), as a context manager."""

    def __init__(self, network: Network, options: Options, progress: Progress) -> None:
        self._progress = progress
        self._plan = {
            "network": str(network.directory),
            "submitters": options.submitters,
            "watched": options.watched,
            "pids": dict(network.pids),
            "operations": options.operations,
            "transaction_bytes": options.transaction_bytes,
            "seed": options.seed,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Client":
        """Start it."""
        # In a session of its own: Ctrl-C is for us, and it ends with its input.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulations.bench.client"],
            cwd=CLI.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._write(self._plan)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def ask(self, what: str, **numbers: float) -> Document:
        """Have something done; the answer. Raises BenchError."""
        self._write({"do": what, **numbers})
        while True:
            answer = self._read()
            if "error" in answer:
                raise BenchError(f"The load came to an end: {answer['error']}")
            if not answer.keys() & {"second", "lone"}:
                return answer
            self._progress(answer)

    def _write(self, document: Mapping[str, object]) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("use the client as `with Client(...) as client`")
        try:
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchError("The loading process has ended.") from error

    def _read(self) -> Document:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("use the client as `with Client(...) as client`")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("The loading process has ended; its last words are above.")
        document: Document = json.loads(line)
        return document
