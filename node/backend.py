"""The running node as its RPC sees it."""

import contextlib
import functools
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from ledger.genesis import Genesis
from node.config import Config
from node.driver import Driver, monotonic_ms
from node.methods.backend import AppliedBlock, NodeStatus, PeerStatus, Resources, SubmitOutcome
from node.transport import Transport
from storage.checked import CheckedReader
from storage.derived import files
from storage.errors import derived_path
from storage.recent import Recent


@functools.cache
def software_version() -> str:
    """The version of the installed distribution; reading it takes 0.1 ms."""
    return importlib.metadata.version("medpact")


class NodeBackend:
    """node.methods.backend.Backend over a driver."""

    def __init__(
        self, driver: Driver, transport: Transport, config: Config, recent: Recent
    ) -> None:
        self._driver = driver
        self._recent = recent
        self._transport = transport
        self._config = config
        self._started_ms = monotonic_ms()

    @property
    def genesis(self) -> Genesis:
        """The genesis of the ledger."""
        return self._driver.core.genesis

    def status(self) -> NodeStatus:
        """Answered from memory, at any time."""
        core = self._driver.core
        member = core.members.get(core.id)
        counters = core.counters + self._driver.counters
        counters.update(self._transport.counters())
        faults = core.conduct.counts().values()
        counters["peer_faults"] = sum(sum(reasons.values()) for reasons in faults)
        committee = core.chain.committee
        primary = committee.primary(core.chain.next_height, core.view) if core.votes else None
        waiting = core.mempool.waiting_count
        return NodeStatus(
            institution=core.id,
            name=core.id if member is None else member.name,
            institution_type="none" if member is None else member.type,
            consensus_class="none" if member is None else str(core.genesis.classes[member.type]),
            version=software_version(),
            chain_id=core.genesis.chain_id.hex(),
            height=core.head.height,
            head_hash=core.chain.head_hash.hex(),
            head_time_ms=core.head.time_ms,
            view=core.view,
            primary=primary,
            peers=self._transport.connected(),
            pending_batches=len(core.mempool),
            pending_transactions=waiting + core.mempool.pending_transactions,
            syncing=core.sync.target() > core.chain.next_height,
            abstaining=core.abstaining,
            uptime_ms=monotonic_ms() - self._started_ms,
            counters=dict(sorted(counters.items())),
        )

    def peers(self) -> tuple[PeerStatus, ...]:
        """All other members, and those that were."""
        core, arrivals = self._driver.core, self._driver.arrivals
        connected = self._transport.connected()
        faults = core.conduct.counts()
        found: list[PeerStatus] = []
        for peer in sorted(core.members.keys() | faults.keys()):
            if peer == core.id:
                continue
            member = core.members.get(peer)
            messages, size_bytes = arrivals.waiting(peer)
            found.append(
                PeerStatus(
                    institution=peer,
                    name=peer if member is None else member.name,
                    connected=peer in connected,
                    paused=arrivals.is_paused(peer),
                    waiting_messages=messages,
                    waiting_bytes=size_bytes,
                    faults=faults.get(peer, {}),
                )
            )
        return tuple(found)

    def resources(self) -> Resources:
        """What the process and those of its checks take."""
        pages = 0
        for process in ("self", *self._driver.process_ids()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                pages += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        database = self._config.home.database
        both = [*files(database), *files(derived_path(database))]
        return Resources(
            memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
            database_bytes=sum(file.stat().st_size for file in both if file.exists()),
        )

    def reader(self) -> CheckedReader:
        """A reader for the RPC's own thread."""
        return CheckedReader(self._config.home.database, self._recent)

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitOutcome]:
        """Check and take transactions."""
        return await self._driver.submit(raws)

    async def applied(self, above: int) -> int:
        """Wait until the head is higher than `above`."""
        return await self._driver.applied(above)

    def recent(self, height: int) -> AppliedBlock | None:
        """What became of the transactions of one of the last blocks."""
        return self._driver.recent.get(height)
