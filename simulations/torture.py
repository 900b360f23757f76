"""Real daemons killed with SIGKILL again and again under load, then all at once.

    .venv/bin/python -m simulations.torture [--kills 20] [--rate 50] [--seed N]

Nothing may be lost or doubled. Checked twice (after the single kills, and after all nodes died at
once): every node has the same head within `--heal-seconds`, and on every node each transaction that
a client has seen a receipt of ran exactly once, at the height the receipt said. Exit code 0 if so,
1 if not.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from node.client import RpcClient
from simulations.command import ask, heads, run, wait_for_equal_heads
from simulations.demo import NETWORK, attempt, expect, free_ports, wait_until
from simulations.load import Load, LoadResult

RECORDERS, AUDITORS = 4, 3
PAUSE_MS_MAX = 2_000
"""A victim runs for a random time up to this before it is killed, and stays dead as long."""
NOT_RUN_CODES = (1, 3)
"""Receipt codes EXPIRED and REPLAYED: the transaction did not run at this place."""


class Torture:
    """One trial network and what was acknowledged on it."""

    def __init__(self, console: Console, network: Path, seed: int, heal_seconds: float) -> None:
        self._console = console
        self._network = network
        self._random = random.Random(seed)
        self._heal_seconds = heal_seconds
        self._acknowledged: dict[str, int] = {}
        self._voters = [f"recorder-{n}" for n in range(1, RECORDERS + 1)]
        self._voters += [f"auditor-{n}" for n in range(1, AUDITORS + 1)]

    def create(self) -> None:
        """Make and start the network."""
        counts = ("--recorders", str(RECORDERS), "--auditors", str(AUDITORS), "--observers", "1")
        port = str(free_ports(RECORDERS + AUDITORS + 1))
        ask("testnet", "create", self._network, *counts, "--base-port", port)
        self._up()

    async def kill_one_by_one(self, kills: int, rate: int) -> None:
        """Kill and restart one voter after another while clients submit."""
        loading, load = self._start_load(rate)
        try:
            for number in range(1, kills + 1):
                victim = self._random.choice(self._voters)
                await self._pause(loading)
                await asyncio.to_thread(self._kill, victim)
                await self._pause(loading)
                await asyncio.to_thread(self._start, victim)
                height = max(head[0] for head in heads(self._network).values() if head)
                self._console.print(f"[{number}/{kills}] {victim} killed and back; height {height}")
        finally:
            load.stop()
            self._acknowledged.update((await loading).acknowledged)
        await self._check("after single kills")

    async def kill_all_at_once(self, rate: int) -> None:
        """Kill every node in the middle of a load, and start them all again."""
        loading, load = self._start_load(rate)
        await self._pause(loading)
        before = len(load.result.acknowledged)
        try:
            await asyncio.to_thread(
                wait_until,
                lambda: len(load.result.acknowledged) > before,
                60,
                "nothing was acknowledged before the kill",
            )
            for name in heads(self._network):
                self._kill(name)
            await asyncio.to_thread(self._up)
        finally:
            load.stop()
            self._acknowledged.update((await loading).acknowledged)
        await self._check("after all were killed at once")

    # ---- pieces ----------------------------------------------------------------------------------

    def _start_load(self, rate: int) -> tuple["asyncio.Task[LoadResult]", Load]:
        load = Load(
            [self._network / name for name in ("recorder-1", "recorder-2", "observer-1")], rate
        )
        return asyncio.create_task(load.run()), load

    async def _pause(self, loading: "asyncio.Task[LoadResult]") -> None:
        """Let the load go on for a random while; what it raises ends the torture."""
        await asyncio.wait((loading,), timeout=self._random.randrange(PAUSE_MS_MAX) / 1000)
        if loading.done():
            await loading

    def _up(self) -> None:
        ended = run("testnet", "up", self._network, "--detach")
        expect(ended.code == 0, f"the network did not start: {ended.sentence}")

    def _kill(self, name: str) -> None:
        ended = run("testnet", "kill", self._network, name)
        expect(ended.code == 0, f"{name} could not be killed: {ended.sentence}")

    def _start(self, name: str) -> None:
        ended = run("testnet", "start", self._network, name)
        expect(ended.code == 0, f"{name} did not start again: {ended.sentence}")

    async def _check(self, when: str) -> None:
        started = time.monotonic()
        height, head_hash = await asyncio.to_thread(
            wait_for_equal_heads, self._network, self._heal_seconds
        )
        healed = time.monotonic() - started
        for name in heads(self._network):
            places = await self._places(name, height)
            check_places(name, self._acknowledged, places)
        self._console.print(
            f"{when}: all nodes at height {height} ({head_hash[:16]}...) after {healed:.1f} s; "
            f"{len(self._acknowledged)} acknowledged transactions each ran once on every node"
        )

    async def _places(self, name: str, height: int) -> dict[str, list[int]]:
        """The heights at which each transaction ran, according to one node."""
        places: dict[str, list[int]] = {}
        async with RpcClient(self._network / name / "rpc.sock") as rpc:
            for number in range(1, height + 1):
                block = await rpc.call("block_get", height=number)
                for transaction in block["transactions"]:
                    if transaction["code"] not in NOT_RUN_CODES:
                        places.setdefault(transaction["id"], []).append(number)
        return places


def check_places(
    name: str, acknowledged: Mapping[str, int], places: Mapping[str, list[int]]
) -> None:
    """Raise DemoFailed unless every acknowledged transaction ran once, where its receipt said."""
    for identity, height in acknowledged.items():
        found = places.get(identity, [])
        expect(found == [height], f"{name}: {identity} ran at {found}, acknowledged at {height}")


def main() -> int:
    """Run the torture; 0 if nothing was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=int, default=50, help="transactions per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heal-seconds", type=float, default=30)
    arguments = parser.parse_args()

    def steps(console: Console, directory: Path) -> None:
        torture = Torture(console, directory / NETWORK, arguments.seed, arguments.heal_seconds)
        torture.create()
        asyncio.run(torture.kill_one_by_one(arguments.kills, arguments.rate))
        asyncio.run(torture.kill_all_at_once(arguments.rate))

    return attempt("torture", steps)


if __name__ == "__main__":
    sys.exit(main())
