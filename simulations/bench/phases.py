"""The phases of a benchmark as the loading process performs them.

* closed: so many transactions are under way at any time, so the network sets the pace;
* open: so many a second are sent, whatever becomes of them;
* lone: one at a time on an idle network.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.genesis import parse_genesis
from node.client import RpcClient
from primitives.keys import PrivateKey
from simulations.bench import payload
from simulations.bench.machine import used
from simulations.bench.watching import Final, Watch

if TYPE_CHECKING:
    from simulations.bench.client import Plan

TICK_MS = 10
"""In an open loop what is due is submitted this often, in one call."""
CALL_TRANSACTIONS_MAX = 1_000
CALL_BYTES_MAX = 1024 * 1024
"""Of transactions in one call; in hex they are twice as many."""
SETTLE_SECONDS_MAX = 60
"""How long what is under way may take to become final at the end of a phase."""
FULL_PAUSE_MS = 100
"""Before a node whose queue is full is asked again."""
LONE_PAUSE_MS = 50
"""Between two lone transactions, so that all nodes have become idle."""
VALID_HEIGHTS_SPARE = 10
"""Blocks that may be made between the choice of a transaction's end and its submission."""

Numbers = Mapping[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a phase, and what processes had used by then."""

    at: float
    block: int
    """Blocks seen before it."""
    nodes: Document
    client_cpu_seconds: float


class Phases:
    """Signs, then performs one phase after another."""

    def __init__(
        self,
        plan: "Plan",
        network: Path,
        clients: Mapping[str, RpcClient],
        say: Callable[[Document], None],
    ) -> None:
        self._plan = plan
        self._network = network
        self._clients = clients
        self._say = say
        self._nodes = [clients[name] for name in plan.submitters]
        self._watched = clients[plan.watched]
        self._keys = [
            PrivateKey(bytes.fromhex((network / name / "node.key").read_text()))
            for name in plan.submitters
        ]
        genesis = parse_genesis((network / "genesis.toml").read_bytes())
        self._chain_id = genesis.chain_id
        self._heights = genesis.limits.replay_window_blocks - VALID_HEIGHTS_SPARE
        self._shape = payload.shape(plan.operations, plan.transaction_bytes)
        self._chance = random.Random(plan.seed)
        self._signed: list[deque[payload.Signed]] = [deque() for _ in plan.submitters]
        self._call_max = max(
            1, min(CALL_TRANSACTIONS_MAX, CALL_BYTES_MAX // self._shape.size_bytes)
        )
        self._final = 0
        self._reset()

    async def perform(self, name: str, numbers: Numbers) -> Document:
        """One request of client.py; raises RpcError, RpcUnavailable or TimeoutError."""
        match name:
            case "sign":
                return await self._sign(int(numbers["count"]))
            case "closed":
                return await self._run(self._closed(numbers), numbers)
            case "open":
                return await self._run(self._open(numbers), numbers)
            case "lone":
                return await self._lone(int(numbers["count"]))
            case "query":
                return await self._query(int(numbers["count"]))
            case "count":
                return {"final": self._final}
            case _:
                raise ValueError(f"There is no phase {name!r}.")

    async def _sign(self, count: int) -> Document:
        """Sign for the next phase; what the last one left is forgotten, it may have expired."""
        head = await self._watched.call("chain_head")
        started, busy = time.monotonic(), time.process_time()
        until = int(head["height"]) + self._heights
        made = payload.sign(self._chain_id, self._keys, self._shape, until, count, self._chance)
        for queue in self._signed:
            queue.clear()
        for number, signed in enumerate(made):
            self._signed[number % len(self._signed)].append(signed)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - busy
        return {"signed": count, "seconds": seconds, "cpu_seconds": cpu_seconds}

    # ---- what closed and open loop share ---------------------------------------------------------

    def _reset(self) -> None:
        self._started = time.monotonic()
        self._block_seen = asyncio.Event()
        self._watch = Watch(self._watched, len(self._nodes), self._on_block)
        self._refused = 0
        self._late_ms_max = 0.0
        self._stopping = False

    def _on_block(self) -> None:
        """Wake all who wait for the next block."""
        self._block_seen.set()
        self._block_seen = asyncio.Event()

    async def _run(self, load: Any, numbers: Numbers) -> Document:
        """Follow the chain while a load runs; what was seen between two marks."""
        self._reset()
        await self._watch.start()
        loading = asyncio.create_task(load)
        others = [asyncio.create_task(self._watch.follow(p)) for p in range(len(self._nodes))]
        others.append(asyncio.create_task(self._tell()))
        measuring = asyncio.create_task(self._measure(numbers))
        try:
            await _first_failure(measuring, loading, *others)
            begin, end, before, after = measuring.result()
            self._stopping = True
            await _first_failure(loading, *others)
            await _first_failure(asyncio.create_task(self._settle()), *others)
        finally:
            self._final += len(self._watch.finals)
            for task in (loading, measuring, *others):
                task.cancel()
            await asyncio.gather(loading, measuring, *others, return_exceptions=True)
        return self._document(begin, end, before, after)

    async def _measure(self, numbers: Numbers) -> tuple[Mark, Mark, Document, Document]:
        """Let the load warm up, then mark a first and a last block so many seconds apart."""
        await asyncio.sleep(float(numbers["warm_up"]))
        if not self._is_over():
            await self._block_seen.wait()
        begin = self._mark()
        before = await self._counters()
        until = begin.at + float(numbers["seconds"])
        while time.monotonic() < until and not self._is_over():
            await self._block_seen.wait()
        end = self._mark()
        return begin, end, before, await self._counters()

    @property
    def _exhausted(self) -> bool:
        return not any(self._signed)

    def _is_over(self) -> bool:
        return self._exhausted and self._watch.all_pending == 0

    def _mark(self) -> Mark:
        nodes = {name: asdict(used(pid)) for name, pid in self._plan.pids.items()}
        at = self._watch.blocks[-1].seen
        return Mark(at, len(self._watch.blocks), nodes, time.process_time())

    async def _counters(self) -> Document:
        statuses = await asyncio.gather(*(c.call("node_status") for c in self._clients.values()))
        return {
            name: status["counters"] for name, status in zip(self._clients, statuses, strict=True)
        }

    async def _tell(self) -> None:
        """Say every second how it goes. Never returns."""
        told = 0
        while True:
            await asyncio.sleep(1)
            final = len(self._watch.finals)
            self._say({"second": final - told})
            told = final

    async def _settle(self) -> None:
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while self._watch.all_pending:
                await self._block_seen.wait()

    def _document(self, begin: Mark, end: Mark, before: Document, after: Document) -> Document:
        finals, blocks = self._watch.finals, self._watch.blocks
        measured = [f for f in finals if begin.at <= f.due < end.at]
        return {
            "seconds": end.at - begin.at,
            "blocks": [block.transactions for block in blocks[begin.block : end.block]],
            "views": [block.view for block in blocks[begin.block : end.block]],
            "latencies_ms": [_ms(final) for final in measured],
            "series_finals": [(b.seen - self._started, b.transactions) for b in blocks],
            "series_latencies": [(f.due - self._started, _ms(f)) for f in finals],
            "nodes": {
                name: {"before": begin.nodes[name], "after": end.nodes[name]}
                for name in self._plan.pids
            },
            "counters": {
                name: {"before": before[name], "after": after[name]} for name in self._clients
            },
            "client_cpu_seconds": end.client_cpu_seconds - begin.client_cpu_seconds,
            "client_late_ms": self._late_ms_max,
            "failed": self._watch.failed,
            "refused": self._refused,
            "exhausted": self._exhausted,
        }

    async def _submit(self, place: int, taken: list[payload.Signed], due: float) -> bool:
        """Submit in one call; False if the node's queue was full for some, which are put back."""
        self._watch.submitted(place, [signed.id for signed in taken], due)
        answer = await self._nodes[place].call(
            "transaction_submit", transactions=[signed.raw.hex() for signed in taken]
        )
        outcomes = answer["transactions"]
        back = [s for s, o in zip(taken, outcomes, strict=True) if o.get("refused")]
        self._watch.refused(place, [signed.id for signed in back])
        self._refused += len(back)
        self._signed[place].extendleft(reversed(back))
        return not back

    def _take(self, place: int, count: int) -> list[payload.Signed]:
        queue = self._signed[place]
        return [queue.popleft() for _ in range(min(count, self._call_max, len(queue)))]

    # ---- the loads -------------------------------------------------------------------------------

    async def _closed(self, numbers: Numbers) -> None:
        share = max(1, int(numbers["in_flight"]) // len(self._nodes))
        await asyncio.gather(*(self._keep_full(p, share) for p in range(len(self._nodes))))

    async def _keep_full(self, place: int, share: int) -> None:
        while self._signed[place] and not self._stopping:
            room = share - self._watch.pending(place)
            if room <= 0:
                await self._block_seen.wait()
                continue
            if not await self._submit(place, self._take(place, room), time.monotonic()):
                await asyncio.sleep(FULL_PAUSE_MS / 1000)

    async def _open(self, numbers: Numbers) -> None:
        rate, tick = float(numbers["rate"]), TICK_MS / 1000
        started, sent, number = time.monotonic(), 0, 0
        calls: list[asyncio.Task[bool]] = []
        while not self._exhausted and not self._stopping:
            due = started + number * tick
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._late_ms_max = max(self._late_ms_max, (time.monotonic() - due) * 1000)
            count = int((number + 1) * tick * rate) - sent
            taken = self._take(number % len(self._nodes), count) if count else []
            if taken:
                work = self._submit(number % len(self._nodes), taken, due)
                calls.append(asyncio.create_task(work))
            sent += count
            number += 1
            for call in [each for each in calls if each.done()]:
                call.result()
                calls.remove(call)
        await asyncio.gather(*calls)

    async def _lone(self, count: int) -> Document:
        """One transaction at a time, through the nodes in turn."""
        latencies_ms: list[float] = []
        failed = 0
        for number in range(count):
            place = number % len(self._nodes)
            signed = self._signed[place].popleft()
            started = time.monotonic()
            _, answer = await asyncio.gather(
                self._nodes[place].call("transaction_submit", transactions=[signed.raw.hex()]),
                self._watched.call("transaction_wait", ids=[signed.id], timeout_ms=30_000),
            )
            latencies_ms.append((time.monotonic() - started) * 1000)
            self._final += 1
            failed += answer["transactions"][0].get("code") != 0
            await asyncio.sleep(LONE_PAUSE_MS / 1000)
            self._say({"lone": 1})
        return {"latencies_ms": latencies_ms, "failed": failed}

    async def _query(self, count: int) -> Document:
        """Look up so many transactions and records of blocks from everywhere in the chain."""
        head = int((await self._watched.call("chain_head"))["height"])
        took: dict[str, list[float]] = {}

        async def ask(method: str, identity: str) -> Any:
            started = time.monotonic()
            answer = await self._watched.call(method, id=identity)
            took.setdefault(method, []).append((time.monotonic() - started) * 1000)
            return answer

        for _ in range(count):
            height = self._chance.randint(1, head)
            listed = (await self._watched.call("block_get", height=height))["transactions"]
            chosen = self._chance.choice(listed)["id"]
            record = (await ask("transaction_get", chosen))["operations"][0]["record"]
            await ask("record_get", record)
            await ask("proof_record", record)
        return {"latencies_ms": took}


def _ms(final: Final) -> float:
    return round((final.seen - final.due) * 1000, 2)


async def _first_failure(wanted: "asyncio.Task[Any]", *others: "asyncio.Task[Any]") -> None:
    """Wait for a task; raises what another fails with before. One that ends well is no matter."""
    waiting: set[asyncio.Task[Any]] = {wanted, *others}
    while not wanted.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    wanted.result()
