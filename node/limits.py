"""What an app may make the node spend: sizes, counts, times and rates of the local RPC (docs/rpc.md
lists them).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """The defaults suit a node with a few dozen apps; every one of them is enforced by
    `node/rpc*.py` and `node/methods`.
    """

    body_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one HTTP request body or WebSocket message."""
    bodies_bytes_max: int = 8 * 1024 * 1024
    """Bodies of all HTTP requests that are being read or answered; one that finds no room waits."""
    body_bytes_small: int = 64 * 1024
    """Shorter bodies never wait."""
    connections_max: int = 256
    """Open connections per listener; those above are closed at once."""
    body_timeout_ms: int = 30_000
    """How long a client may take to send a body."""
    answer_timeout_ms: int = 30_000
    """How long a client may take to receive an answer, or one event."""
    idle_timeout_ms: int = 75_000
    """How long a connection may go without a complete request; WebSockets are pinged instead."""
    calls_per_second_max: int = 2_000
    """Calls per second of one token, or of all apps on the socket together; each call of a batch
    counts.
    """
    calls_burst_max: int = 4_000
    """Calls that may come at once after a pause."""
    submit_transactions_max: int = 5_000
    """Transactions in one transaction_submit."""
    waits_max: int = 256
    """transaction_wait calls under way."""
    wait_ids_max: int = 5_000
    """Transactions that one transaction_wait waits for."""
    wait_timeout_ms_max: int = 120_000
    """How long one transaction_wait may wait."""
    websockets_max: int = 64
    """Open WebSockets."""
    ping_ms: int = 90_000
    """How often a silent WebSocket is pinged; half of it later it is taken for dead. Longer than
    `answer_timeout_ms`, so that a slow client is told its cursor first."""
    subscriptions_max: int = 8
    """Subscriptions of one WebSocket."""
    stop_timeout_ms: int = 2_000
    """How long calls under way may take to finish when the node stops."""


class RateLimiter:
    """A token bucket: `burst` at once, refilled at `per_second`. Time is an argument, in
    milliseconds.
    """

    __slots__ = ("_burst", "_level", "_per_ms", "_refilled")

    def __init__(self, per_second: int, burst: int, now: int) -> None:
        self._per_ms = per_second / 1000
        self._burst = float(burst)
        self._level = float(burst)
        self._refilled = now

    def take(self, now: int) -> bool:
        """Take one token if there is one."""
        self._level = min(self._burst, self._level + (now - self._refilled) * self._per_ms)
        self._refilled = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
