"""A node for the RPC's tests: real ledger code and a real database, no consensus and no network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consensus.committee import quorum_size
from consensus.messages import Certificate, Decision, Phase, VoteSignature, vote_digest
from ledger.committee import committee_at
from ledger.execution import execute_block
from ledger.genesis import Genesis, genesis_state, parse_genesis, render_genesis
from ledger.operations import EnrolPerson, Operation
from ledger.replay import ReplayWindow
from ledger.store import WriteBlock, WriteGenesis
from ledger.transactions import (
    TransactionBody,
    TransactionError,
    check_transaction,
    seal_batch,
    sign_transaction,
)
from node.client import RpcClient
from node.jsonrpc import RpcError
from node.limits import RpcLimits
from node.methods.backend import AppliedBlock, NodeStatus, PeerStatus, Resources, SubmitOutcome
from node.rpc import RpcServer, RpcSettings
from node.rpc_access import NamedToken
from primitives.hashing import digest
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import PrivateKey
from storage.database import Database
from storage.reader import SqliteReader

START_MS = 1_700_000_000_000
MEMBERS = ("recorder-1", "recorder-2", "recorder-3", "recorder-4")


def key_of(name: str) -> PrivateKey:
    """The key of an institution or person of these tests."""
    return PrivateKey(digest("rpc-tests", name.encode()))


def make_genesis() -> Genesis:
    """Four recorders."""
    institutions = [
        Institution(
            id=name,
            name=f"Hospital {number}",
            type="tertiary_hospital",
            region="CN-GD",
            lei=lei_with_check_digits(f"TEST{number:014d}"),
            key=key_of(name).public,
            address=f"127.0.0.1:{40_000 + number}",
        )
        for number, name in enumerate(MEMBERS, 1)
    ]
    return parse_genesis(render_genesis("rpc", START_MS, institutions))


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))


class LedgerBackend:
    """A Backend whose blocks are made when the test says so."""

    def __init__(self, path: Path, database: Database, genesis: Genesis) -> None:
        self.genesis = genesis
        self.taken: list[bytes] = []
        self.submitting: asyncio.Event | None = None
        """Where a test wants submissions to take time: they wait for it."""
        self.remembers = False
        """Whether it has the last blocks in memory."""
        self._recent: dict[int, AppliedBlock] = {}
        self._path = path
        self._database = database
        self._state = SqliteReader(path, database.recent)
        self._replay = ReplayWindow(genesis.limits.replay_window_blocks)
        self._grown = asyncio.Condition()
        self._sequence = 0
        self._nonce = 0
        self.height = 0

    @classmethod
    async def open(cls, directory: Path) -> "LedgerBackend":
        genesis = make_genesis()
        path = directory / "ledger.db"
        database = await Database.open(path, genesis.chain_id)
        await database.write([WriteGenesis(*genesis_state(genesis))])
        return cls(path, database, genesis)

    async def close(self) -> None:
        self._state.close()
        await self._database.close()

    # ---- Backend ---------------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        header = self._state.header(self.height)
        assert header is not None
        return NodeStatus(
            institution="recorder-1",
            name="Hospital 1",
            institution_type="tertiary_hospital",
            consensus_class="recorder",
            version="0.0.0",
            chain_id=self.genesis.chain_id.hex(),
            height=self.height,
            head_hash=header.hash().hex(),
            head_time_ms=header.time_ms,
            view=0,
            primary="recorder-2",
            peers=("recorder-2",),
            pending_batches=0,
            pending_transactions=len(self.taken),
            syncing=False,
            abstaining=False,
            uptime_ms=1,
            counters={},
        )

    def peers(self) -> tuple[PeerStatus, ...]:
        return (
            PeerStatus("recorder-2", "Hospital 2", True, False, 0, 0, {}),
            PeerStatus(
                "recorder-3", "Hospital 3", False, True, 7, 700, {"malformed": 2, "flood": 9}
            ),
        )

    def resources(self) -> Resources:
        return Resources(100_000_000, 4096)

    def reader(self) -> SqliteReader:
        return SqliteReader(self._path, self._database.recent)

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitOutcome]:
        if self.submitting is not None:
            await self.submitting.wait()
        outcomes = []
        for raw in raws:
            try:
                checked = check_transaction(raw, self.genesis.chain_id, self.genesis.limits)
            except TransactionError as error:
                outcomes.append(SubmitOutcome(None, str(error)))
                continue
            if raw not in self.taken:
                self.taken.append(raw)
            outcomes.append(SubmitOutcome(checked.id))
        return outcomes

    async def applied(self, above: int) -> int:
        async with self._grown:
            await self._grown.wait_for(lambda: self.height > above)
            return self.height

    def recent(self, height: int) -> AppliedBlock | None:
        return self._recent.get(height)

    # ---- what a test does ------------------------------------------------------------------------

    def sign(
        self, author: str, *operations: Operation, until_height: int = 500, until_ms: int = 2**52
    ) -> bytes:
        """The bytes of a new transaction."""
        self._nonce += 1
        body = TransactionBody(
            key_of(author).public,
            until_height,
            until_ms,
            self._nonce.to_bytes(16, "big"),
            operations,
        )
        return sign_transaction(self.genesis.chain_id, key_of(author), body)

    def enrolment(self, number: int) -> bytes:
        """The bytes of a transaction that enrols person-`number`."""
        return self.enrolment_of(f"person-{number}")

    def enrolment_of(self, person: str) -> bytes:
        """The bytes of a transaction by which recorder-1 enrols a person."""
        return self.sign("recorder-1", EnrolPerson(key_of(person).public, "patient"))

    def id_of(self, raw: bytes) -> str:
        """The id of a transaction, in hex."""
        return check_transaction(raw, self.genesis.chain_id, self.genesis.limits).id.hex()

    async def block(self, *raws: bytes, batches: int = 1) -> int:
        """Put what was submitted, and these transactions, into a block; its height."""
        limits = self.genesis.limits
        transactions = [
            check_transaction(raw, self.genesis.chain_id, limits) for raw in (*self.taken, *raws)
        ]
        self.taken.clear()
        name = MEMBERS[0]
        sealed = []
        size = -(-len(transactions) // batches)
        for start in range(0, len(transactions), size):
            self._sequence += 1
            sealed.append(
                seal_batch(
                    self.genesis.chain_id,
                    key_of(name),
                    name,
                    self._sequence,
                    500,
                    transactions[start : start + size],
                )
            )
        parent = self._state.header(self.height)
        assert parent is not None
        executed = execute_block(
            parent, 0, name, parent.time_ms + 1, sealed, self._state, self._replay, self.genesis
        )
        decision = Decision(executed.block, self._certificate(executed.block.hash))
        write = WriteBlock(
            decision=decision,
            batches=executed.batches,
            receipts=executed.receipts,
            transaction_ids=executed.transaction_ids,
            executed=executed.executed,
            chains=executed.chains,
            changes=executed.changes,
        )
        await self._database.write([write])
        self._replay.add(self.height + 1, executed.ran, executed.sequences)
        if self.remembers:
            self._recent[self.height + 1] = AppliedBlock(executed.receipts, executed.executed)
        async with self._grown:
            self.height += 1
            self._grown.notify_all()
        return self.height

    def _certificate(self, block_hash: bytes) -> Certificate:
        height = self.height + 1
        voters = committee_at(self._state, self.genesis).voters
        signatures = tuple(
            VoteSignature(
                voter.id,
                key_of(voter.id).sign(
                    vote_digest(
                        self.genesis.chain_id, voter.id, Phase.COMMIT, height, 0, block_hash
                    )
                ),
            )
            for voter in voters[: quorum_size(len(voters))]
        )
        return Certificate(int(Phase.COMMIT), height, 0, block_hash, signatures)


@dataclass
class Served:
    """A running RPC server with its backend, and a client of its socket."""

    home: Path
    backend: LedgerBackend
    server: RpcServer
    rpc: RpcClient
    log: Log

    @property
    def socket(self) -> Path:
        return self.home / "rpc.sock"

    @property
    def url(self) -> str:
        """The URL of the RPC over TCP."""
        assert self.server.tcp_address is not None
        return "http://{}:{}/".format(*self.server.tcp_address)

    @property
    def token(self) -> str:
        """The token of this start."""
        return (self.home / "rpc.token").read_text().strip()


@asynccontextmanager
async def served(
    home: Path,
    *,
    tcp: bool = False,
    tokens: tuple[NamedToken, ...] = (),
    **limits: int,
) -> AsyncIterator[Served]:
    """An RPC server on HOME/rpc.sock and, with `tcp`, on a free port."""
    backend = await LedgerBackend.open(home)
    log = Log()
    settings = RpcSettings(
        home / "rpc.sock",
        ("127.0.0.1", 0) if tcp else None,
        home / "rpc.token",
        tokens,
        RpcLimits(**limits),
    )
    server = RpcServer(backend, settings, log)
    await server.start()
    try:
        async with RpcClient(settings.socket) as rpc:
            yield Served(home, backend, server, rpc, log)
    finally:
        await server.stop()
        await backend.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so; pytest's timeout ends what never is."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


async def fails(call: Awaitable[Any]) -> RpcError:
    """The error that a call ends with."""
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value
