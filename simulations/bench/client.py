"""A process that loads a network through its RPC and sees what becomes final at another node.

    python -m simulations.bench.client

`medpact bench` starts it and speaks with it in JSON documents, a line each, over its standard input
and output; it ends when its input does. The first document is the Plan; each later one asks for
something to be done and is answered, perhaps after documents {"second": ...} that tell progress.

Transactions are signed before the clock starts and submitted through all nodes of the plan in turn,
many in one call. What is final is seen at one further node: a call waits there for the oldest
transaction of each submitter, and when it returns the blocks up to that node's head are read. A
latency runs from the moment when a transaction was due to be sent to the moment when a call that
waited at the other node was answered with a head at or above its block.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from node.client import RpcClient, RpcError, RpcUnavailable
from simulations.bench.phases import Phases


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told first."""

    network: str
    """The directory of the network."""
    submitters: tuple[str, ...]
    """The nodes to submit through."""
    watched: str
    """The node at which transactions are seen final."""
    pids: dict[str, int]
    """The processes of all nodes."""
    operations: int
    transaction_bytes: int
    seed: int


@dataclass(frozen=True, slots=True)
class Request:
    """What to do, and with which numbers."""

    name: str
    numbers: Mapping[str, Any]


def read(line: str) -> Request:
    """A request, from its line."""
    document = json.loads(line)
    return Request(document.pop("do"), document)


def say(document: Mapping[str, object]) -> None:
    """Answer, or tell progress."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def serve(plan: Plan, lines: Callable[[], str]) -> None:
    """Do what is asked until the input ends."""
    network = Path(plan.network)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(RpcClient(network / name)) for name in plan.pids
        }
        phases = Phases(plan, network, clients, say)
        while line := await asyncio.to_thread(lines):
            asked = read(line)
            try:
                say(await phases.perform(asked.name, asked.numbers))
            except (RpcError, RpcUnavailable, TimeoutError) as error:
                say({"error": str(error) or "a node took too long"})


def main() -> int:
    """Read the plan and serve."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    asyncio.run(serve(plan, sys.stdin.readline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
