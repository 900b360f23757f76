"""`medpact testnet`: a whole trial consortium on this machine."""

import asyncio
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from consensus.committee import QuorumRule
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    counted,
    emit,
    emit_table,
    json_option,
    leave,
    note,
    warn,
)
from node.home import Home, StartError, printable
from node.supervision import Status, Supervisor, send, stop
from node.testnet import Plan, create, home_of, homes

_SIGNALS = ("TERM", "KILL", "INT", "STOP", "CONT", "HUP")
_DIRECTORY = click.argument("directory", metavar="DIR", type=PATH)


@click.group()
def testnet() -> None:
    """Make, start, watch and stop a trial network on this machine."""


@testnet.command("create")
@json_option
@_DIRECTORY
@click.option("--recorders", default=4, show_default=True, type=click.IntRange(1, 100))
@click.option("--auditors", default=3, show_default=True, type=click.IntRange(0, 100))
@click.option("--observers", default=1, show_default=True, type=click.IntRange(0, 200))
@click.option(
    "--base-port",
    default=27600,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="The first node's port; the others take the ports after it.",
)
@click.option(
    "--quorum",
    default="per_class",
    show_default=True,
    type=click.Choice(get_args(QuorumRule)),
    help="How votes are counted.",
)
def create_command(
    directory: Path,
    recorders: int,
    auditors: int,
    observers: int,
    base_port: int,
    quorum: QuorumRule,
) -> None:
    """Make keys, a genesis file and one home per node in DIR, which must be new or empty."""
    made = create(directory, Plan(recorders, auditors, observers, base_port, quorum))
    for warning in made.warnings:
        warn(warning)
    rows = [(home.path.name, printable(home.path)) for home in made.homes]
    document = {
        "chain_id": made.chain_id.hex(),
        "genesis": printable(directory / "genesis.toml"),
        "warnings": list(made.warnings),
        "nodes": [{"id": name, "home": path} for name, path in rows],
    }
    emit_table(document, ("node", "home"), rows)
    note(f"Start the network with: medpact testnet up {shlex.quote(printable(directory))}")


@testnet.command()
@json_option
@_DIRECTORY
@click.option("--detach", is_flag=True, help="Return when all nodes answer; they go on.")
def up(directory: Path, detach: bool) -> None:
    """Start every node of DIR as a process of its own. Ctrl-C stops them all."""
    asyncio.run(_up(directory, detach))


async def _up(directory: Path, detach: bool) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop.set)
    supervisor = _supervisor(homes(directory))
    keep = False
    try:
        supervisor.start()
        problem = await supervisor.wait_ready(asked_to_stop)
        if problem is not None:
            raise StartError(f"The network did not start. {problem}")
        lonely = await supervisor.wait_linked(asked_to_stop)
        if lonely is not None:
            warn(lonely)
        if not asked_to_stop.is_set():
            await _show(directory)
            keep = detach
        if not keep and not asked_to_stop.is_set():
            note("All nodes are up. Ctrl-C stops them.")
            await supervisor.watch(asked_to_stop)
    finally:
        if not keep:
            _stop(supervisor.pids())


@testnet.command()
@json_option
@_DIRECTORY
def status(directory: Path) -> None:
    """Show every node's height, head and peers; exit code 3 if one does not answer."""
    if not asyncio.run(_show(directory)):
        leave(ExitCode.UNREACHABLE)


@testnet.command()
@json_option
@_DIRECTORY
def down(directory: Path) -> None:
    """Stop every node of DIR, in good order if they can."""
    found = {home.path.name: home.running_pid() for home in homes(directory)}
    running = {name: pid for name, pid in found.items() if pid is not None}
    killed = _stop(tuple(running.values()))
    document = {
        "stopped": [name for name, pid in running.items() if pid not in killed],
        "killed": [name for name, pid in running.items() if pid in killed],
    }
    emit(document, _nothing)


@testnet.command()
@json_option
@_DIRECTORY
@click.argument("node")
@click.option(
    "--signal",
    "name",
    default="KILL",
    show_default=True,
    type=click.Choice(_SIGNALS),
    help="What to send to the node's process.",
)
def kill(directory: Path, node: str, name: str) -> None:
    """Send a signal to one node of DIR, to see what the others do."""
    pid = home_of(directory, node).running_pid()
    if pid is None:
        raise CommandError(f"{node} does not run.", ExitCode.UNREACHABLE)
    send(pid, signal.Signals[f"SIG{name}"])
    document = {"node": node, "pid": pid, "signal": name}
    emit(document, lambda: click.echo(f"SIG{name} was sent to {node} (process {pid})."))


@testnet.command()
@json_option
@_DIRECTORY
@click.argument("node")
def start(directory: Path, node: str) -> None:
    """Start one node of DIR again and return when it answers."""
    home = home_of(directory, node)
    supervisor = _supervisor([home])

    async def run() -> None:
        supervisor.start()
        problem = await supervisor.wait_ready(asyncio.Event())
        if problem is not None:
            _stop(supervisor.pids())
            raise StartError(f"The node did not start. {problem}")

    asyncio.run(run())
    emit({"node": node, "pid": home.running_pid()}, _nothing)


def _nothing() -> None:
    """What there is to tell a person has been said on the way."""


def _supervisor(nodes: Sequence[Home]) -> Supervisor:
    from node.submission import ask_status

    return Supervisor(nodes, ask_status, note)


def _stop(pids: Sequence[int]) -> tuple[int, ...]:
    """Stop processes and say so; returns those that had to be killed."""
    note(f"Stopping {counted(len(pids), 'node')}." if pids else "No node runs.")
    killed = stop(pids)
    if killed:
        warn(f"{counted(len(killed), 'node')} did not stop when asked; killed.")
    elif pids:
        note("All nodes have stopped.")
    return killed


async def _show(directory: Path) -> bool:
    """Print the state of every node; whether all answer."""
    from node.submission import ask_status

    nodes = homes(directory)
    statuses = await asyncio.gather(*(ask_status(home) for home in nodes))
    listed = [_row(home, status) for home, status in zip(nodes, statuses, strict=True)]
    heads = ("node", "class", "process", "height", "head", "peers", "state")
    keys = ("id", "class", "pid", "height", "head_hash", "peers", "state")
    document = {"nodes": [dict(zip(keys, row, strict=True)) for row in listed]}
    rows = [["-" if cell is None else cell for cell in row] for row in listed]
    emit_table(document, heads, rows)
    return all(status is not None for status in statuses)


def _row(home: Home, status: Status | None) -> tuple[object, ...]:
    pid = home.running_pid()
    if status is None:
        state = "stopped" if pid is None else "not answering"
        return (home.path.name, None, pid, None, None, None, state)
    state = "abstaining" if status["abstaining"] else "syncing" if status["syncing"] else "up"
    return (
        home.path.name,
        status["consensus_class"],
        pid,
        status["height"],
        status["head_hash"],
        len(status["peers"]),
        state,
    )
