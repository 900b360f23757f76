"""A load on real daemons: signed transactions at a steady rate, and what became of each.

Every transaction registers a random commitment as an institution's record, so it is as costly as a
real one. A transaction counts as acknowledged only when its receipt was seen.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ledger.operations import Labels, RegisterRecord
from ledger.transactions import NONCE_BYTES, TransactionBody, sign_transaction
from node.client import RpcClient, RpcError, RpcUnavailable
from primitives.keys import PrivateKey

TICK_MS = 100
"""Transactions are submitted this often, several per call."""
WAIT_MS = 30_000
VALIDITY_MS = 120_000
LABELS = Labels("laboratory", "normal", "CN-GD", "load", "unrated")


@dataclass(slots=True)
class LoadResult:
    """What a load saw. Heights by transaction id in hex; latencies from submission to receipt."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    unknown: int = 0
    """Transactions whose outcome was not seen, because a node went away or was slow."""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Acknowledged transactions per second."""
        return len(self.acknowledged) / self.seconds if self.seconds else 0.0

    def latency_ms(self, percent: int) -> float:
        """A percentile of the latencies; 0 without any."""
        if len(self.latencies_ms) < 2:
            return sum(self.latencies_ms)
        return statistics.quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1]


class Load:
    """Submits through the nodes of some homes in turn until `stop` is called."""

    def __init__(self, homes: Sequence[Path], per_second: int) -> None:
        self._homes = homes
        self._keys = [PrivateKey(bytes.fromhex((h / "node.key").read_text())) for h in homes]
        self._per_tick = max(1, per_second * TICK_MS // 1000)
        self._tick_s = self._per_tick / per_second
        self._stopping = asyncio.Event()
        self._waits: set[asyncio.Task[None]] = set()
        self.result = LoadResult()

    async def run(self) -> LoadResult:
        """Submit until stopped; returns when every outcome is known or has been waited for."""
        clients = [RpcClient(home / "rpc.sock") for home in self._homes]
        for client in clients:
            await client.__aenter__()
        started = time.monotonic()
        try:
            turn = 0
            while not self._stopping.is_set():
                place = turn % len(clients)
                wait = asyncio.create_task(self._submit(clients[place], self._keys[place]))
                self._waits.add(wait)
                wait.add_done_callback(self._waits.discard)
                turn += 1
                due = started + turn * self._tick_s
                await self._pause(due - time.monotonic())
            self.result.seconds = time.monotonic() - started
            await asyncio.gather(*self._waits)
        finally:
            for client in clients:
                await client.__aexit__(None, None, None)
        return self.result

    def stop(self) -> None:
        """Submit no more."""
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _submit(self, client: RpcClient, key: PrivateKey) -> None:
        """Submit one tick's transactions through one node and wait for their receipts."""
        submitted: list[str] = []
        try:
            head = await client.call("chain_head")
            raws = [_transaction(key, head).hex() for _ in range(self._per_tick)]
            started = time.monotonic()
            answers = await client.call("transaction_submit", transactions=raws)
            submitted = [a["id"] for a in answers["transactions"] if not a.get("refused")]
            answer = await client.call("transaction_wait", ids=submitted, timeout_ms=WAIT_MS)
        except (RpcError, RpcUnavailable):
            self.result.unknown += len(submitted) or self._per_tick
            return
        latency_ms = (time.monotonic() - started) * 1000
        for outcome in answer["transactions"]:
            if outcome.get("code") == 0:
                self.result.acknowledged[outcome["id"]] = outcome["height"]
                self.result.latencies_ms.append(latency_ms)
            else:
                self.result.unknown += 1


def _transaction(key: PrivateKey, head: dict[str, object]) -> bytes:
    height, time_ms = int(str(head["height"])), time.time_ns() // 1_000_000
    body = TransactionBody(
        key.public,
        height + 500,
        time_ms + VALIDITY_MS,
        secrets.token_bytes(NONCE_BYTES),
        (RegisterRecord(secrets.token_bytes(32), LABELS, None),),
    )
    return sign_transaction(bytes.fromhex(str(head["chain_id"])), key, body)
