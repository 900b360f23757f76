"""From operations to receipts: build transactions, sign them here, hand them to the node, wait.

Private keys never leave this process: the node gets signed bytes. What is sent can be sent again,
because a transaction has one id and runs once.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ledger.genesis import Genesis
from ledger.operations import Operation
from ledger.transactions import (
    NONCE_BYTES,
    Limits,
    TransactionBody,
    TransactionError,
    check_transaction,
    sign_transaction,
)
from node.client import RpcClient, RpcUnavailable
from node.config import Config, load_config
from node.console import CommandError, ExitCode, home_path
from node.home import Home, StartError, printable
from node.jsonrpc import ErrorCode, RpcError
from node.keyfile import read_key
from node.startup import read_genesis
from primitives.codec import encode
from primitives.keys import PrivateKey

VALIDITY_MS = 10 * 60 * 1000
"""How long a transaction may wait to be ordered."""
OUTCOME_WAIT_MS_MAX = 60_000
"""How long a command waits for receipts."""
STATUS_WAIT_MS_MAX = 5_000
"""How long a node may take to say how it is."""
_BODY_BYTES_SPARE = 512
"""Left of a transaction's bytes for its author, times, nonce and signature."""


@dataclass(frozen=True)
class Site:
    """The node that a command works with: its settings and its ledger's genesis."""

    config: Config
    genesis: Genesis

    @cached_property
    def member(self) -> Mapping[str, Any]:
        """This institution, as the ledger lists it now; raises StartError or CommandError."""
        listed = ask(self.config, "institution_list")["institutions"]
        found = next((each for each in listed if each["id"] == self.config.institution), None)
        if found is None:
            raise StartError(
                f"{self.config.institution} is not a member of this ledger, as far as its node "
                "knows: wait until the members have approved it and its height has come, and until "
                "the node has caught up (`medpact status`)."
            )
        member: Mapping[str, Any] = found
        return member

    def node_key(self) -> PrivateKey:
        """The key with which this institution signs; raises StartError or CommandError."""
        key = read_key(self.config.key_file)
        if self.member["key"] != key.public.hex():
            raise StartError(
                f"The key file {printable(self.config.key_file)} is not the key of "
                f"{self.config.institution}: its public key is {key.public.hex()}, but the ledger "
                f"lists {self.member['key']}; put the right key file there."
            )
        return key


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction ready to be sent, and what it says."""

    id: bytes
    raw: bytes
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that the node took; `outcome` is from transaction_wait, None if not known."""

    signed: Signed
    outcome: Mapping[str, Any] | None

    @property
    def is_refused(self) -> bool:
        """Whether the ledger has decided that none of its operations counts."""
        return self.outcome is not None and self.outcome["code"] != 0


def site() -> Site:
    """The node of --home or MEDPACT_HOME; raises StartError or a usage error."""
    config = load_config(home_path())
    return Site(config, read_genesis(config))


async def ask_status(home: Home) -> Mapping[str, Any] | None:
    """What `node_status` of a home says, or None if its node does not answer in time."""
    try:
        async with RpcClient(home.path, timeout_ms=STATUS_WAIT_MS_MAX) as rpc:
            status: Mapping[str, Any] = await rpc.call("node_status")
    except (StartError, RpcUnavailable, RpcError):
        return None
    return status


def ask(config: Config, method: str, **params: object) -> Any:
    """Call one method of the running node; raises CommandError."""

    async def run() -> Any:
        async with RpcClient(config.home.path) as rpc:
            return await rpc.call(method, params)

    with _as_command_error():
        return asyncio.run(run())


def find(config: Config, method: str, **params: object) -> Any | None:
    """Call a method that looks something up; None if the node does not have it."""
    try:
        return ask(config, method, **params)
    except CommandError as error:
        if error.details.get("rpc_code") == ErrorCode.NOT_FOUND:
            return None
        raise


def submit(
    where: Site,
    key: PrivateKey,
    operations: Sequence[Operation],
    *,
    wait: bool,
    before: Callable[[], None] | None = None,
) -> tuple[Sent, ...]:
    """Sign operations with `key`, in as few transactions as the limits allow, and submit them.

    `before` runs when the node has answered and nothing has been sent. With `wait`, returns when
    every outcome is known or OUTCOME_WAIT_MS_MAX has passed. Raises CommandError if the node cannot
    be reached or does not take them.
    """

    async def run() -> tuple[Sent, ...]:
        async with RpcClient(where.config.home.path) as rpc:
            head = await rpc.call("chain_head")
            _check_ledger(where, head["chain_id"])
            signed = tuple(_sign(where.genesis, key, operations, head))
            if before is not None:
                before()
            await _send(rpc, signed)
            outcomes = await _wait(rpc, signed) if wait else {}
            return tuple(Sent(one, outcomes.get(one.id.hex())) for one in signed)

    with _as_command_error():
        return asyncio.run(run())


@contextmanager
def _as_command_error() -> Iterator[None]:
    try:
        yield
    except RpcUnavailable as error:
        raise CommandError(str(error), ExitCode.UNREACHABLE) from error
    except RpcError as error:
        # The ledger does not hold it, or the node has no time for it.
        missing = error.code == ErrorCode.NOT_FOUND
        code = ExitCode.REFUSED if missing else ExitCode.UNREACHABLE
        raise CommandError(error.sentence, code, rpc_code=error.code) from error


def _check_ledger(where: Site, chain_id: str) -> None:
    if chain_id != where.genesis.chain_id.hex():
        raise StartError(
            f"The node keeps the ledger {chain_id}, but {printable(where.config.genesis_file)} "
            f"founds {where.genesis.chain_id.hex()}; the file was changed after the node started."
        )


def _sign(
    genesis: Genesis, key: PrivateKey, operations: Sequence[Operation], head: Mapping[str, Any]
) -> Iterator[Signed]:
    valid_until_height = head["height"] + genesis.limits.validity_blocks
    valid_until_ms = max(head["time_ms"], time.time_ns() // 1_000_000) + VALIDITY_MS
    for group in partition(operations, genesis.limits):
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = TransactionBody(key.public, valid_until_height, valid_until_ms, nonce, group)
        raw = sign_transaction(genesis.chain_id, key, body)
        try:
            checked = check_transaction(raw, genesis.chain_id, genesis.limits)
        except TransactionError as error:
            raise CommandError(f"This cannot be submitted: {error}.", ExitCode.USAGE) from error
        yield Signed(checked.id, raw, group)


def partition(operations: Sequence[Operation], limits: Limits) -> Iterator[tuple[Operation, ...]]:
    """Split operations into transactions within the limits of count and bytes, in order."""
    bytes_max = limits.transaction_bytes_max - _BODY_BYTES_SPARE
    group: list[Operation] = []
    size = 0
    for operation in operations:
        length = len(encode(operation))
        full = len(group) == limits.transaction_operations_max or size + length > bytes_max
        if group and full:
            yield tuple(group)
            group, size = [], 0
        group.append(operation)
        size += length
    if group:
        yield tuple(group)


async def _send(rpc: RpcClient, signed: Sequence[Signed]) -> None:
    answer = await rpc.call("transaction_submit", {"transactions": [s.raw.hex() for s in signed]})
    for one, outcome in zip(signed, answer["transactions"], strict=True):
        refused = outcome.get("refused")
        if refused is not None:
            raise CommandError(
                f"The node did not take the transaction: {refused}",
                ExitCode.REFUSED,
                transaction=one.id.hex(),
            )


async def _wait(rpc: RpcClient, signed: Sequence[Signed]) -> dict[str, Mapping[str, Any]]:
    ids = [one.id.hex() for one in signed]
    answer = await rpc.call("transaction_wait", {"ids": ids, "timeout_ms": OUTCOME_WAIT_MS_MAX})
    outcomes = {found["id"]: found for found in answer["transactions"] if found["final"]}
    for one in signed:
        identity = one.id.hex()
        # Which of several operations failed is part of the transaction, not of the wait.
        if len(one.operations) > 1 and outcomes.get(identity, {}).get("code"):
            outcomes[identity] = await rpc.call("transaction_get", {"id": identity})
    return outcomes
