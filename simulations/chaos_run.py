"""One seed of chaos: the consortium under load, its faults, the healing, and the verdict."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ledger.genesis import parse_genesis
from simulations.campaign import Verdict
from simulations.chaos_checks import (
    Reader,
    Witness,
    check_chains,
    check_logs,
    check_statuses,
    read_chains,
    verify,
)
from simulations.chaos_machine import Bridge, Machine, MachineError
from simulations.chaos_nodes import Consortium, Crashed, Links, Status
from simulations.chaos_plan import ON_DISK, Fault, Kind, Plan, Round
from simulations.chaos_proxy import Proxy
from simulations.chaos_report import Figures, SeedReport, Settings
from simulations.checkers import NoProgress, Violation
from simulations.command import CommandFailed
from simulations.load import Load, LoadResult

START_S = 120.0
"""Until every daemon answers. A start takes each some seconds of a processor."""
HEAL_S = 120.0
"""A view lasts 30 s at most; the next one has a primary that is up."""
STALL_S = 90.0
"""The best head never stands still for longer, whatever is drawn; a view lasts 30 s at most."""
LOOK_PAUSE_S = 0.3
WATCH_S = 2.0
TELL_S = 10.0
"""Without a new block for so long the state of all is shown."""
AFTER_S = 3.0
"""How long everybody submits after the healing; all of it must be acknowledged."""
SETTLE_S = 1.0
"""SPLIT: what was on its way before the cut may decide so long."""
FULL_S_MAX = 30.0
"""How much longer than planned a disk is full until a daemon has ended over it."""
AGAIN_S = 0.7
"""KILL_AGAIN: how long a start may go on before the second kill."""

Say = Callable[[str], None]


def run_seed(
    settings: Settings, seed: int, machine: Machine, directory: Path, say: Say, *, keep: bool
) -> SeedReport:
    """Run one seed in a new directory; its daemons are gone when this returns.

    What is on small disks is copied to the directory if the run fails, or `keep` says so.

    Raises MachineError or CommandFailed.
    """
    started = time.monotonic()
    run = Run(settings, seed, machine, directory, say)
    verdict, reason = Verdict.PASSED, ""
    refusal: Exception | None = None
    try:
        asyncio.run(run.perform(keep=keep))
    except* Violation as errors:
        verdict, reason = Verdict.WRONG, _words(errors)
    except* Crashed as errors:
        verdict, reason = max(verdict, Verdict.CRASHED), reason or _words(errors)
    except* NoProgress as errors:
        verdict, reason = max(verdict, Verdict.STUCK), reason or _words(errors)
    except* (MachineError, CommandFailed) as errors:
        refusal = MachineError(_words(errors))
    if refusal is not None and verdict is Verdict.PASSED:
        raise refusal
    return SeedReport(seed, verdict, reason, time.monotonic() - started, run.figures)


def _words(errors: BaseExceptionGroup[BaseException]) -> str:
    found = next(error for error in errors.exceptions)
    return _words(found) if isinstance(found, BaseExceptionGroup) else str(found)


def highest(statuses: Mapping[str, Status | None]) -> int:
    """The best height that a daemon tells; 0 if none answers."""
    return max((status["height"] for status in statuses.values() if status), default=0)


def shown(statuses: Mapping[str, Status | None]) -> str:
    """Heights, views and peers, for who watches."""
    words = []
    for name, status in statuses.items():
        if status is None:
            words.append(f"{name} does not answer")
        else:
            place = f"{status['height']}/{status['view']}"
            words.append(f"{name} at {place}, {len(status['peers'])} peers")
    return "; ".join(words)


class Run:
    """One seed while it runs."""

    def __init__(
        self, settings: Settings, seed: int, machine: Machine, directory: Path, say: Say
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._say = say
        self._plan = Plan(seed, settings.shape)
        self._consortium = Consortium(directory, settings.shape, machine, self._make_links())
        self._homes = {n.name: n.home for n in self._consortium.nodes.values()}
        self._acknowledged: dict[str, int] = {}
        self._height = 0
        self.figures = Figures()

    def _make_links(self) -> Links:
        names, port = self._settings.shape.members, self._settings.base_port
        return Bridge(names, port) if self._machine.namespaces else Proxy(names, port)

    async def perform(self, *, keep: bool) -> None:
        """Raises Violation, NoProgress, Crashed, MachineError or CommandFailed."""
        passed = False
        try:
            await asyncio.to_thread(self._consortium.create, self._plan, self._settings.base_port)
            async with Reader() as reader:
                witness = Witness(reader, self._homes)
                await self._live(witness)
                await self._judge(witness, reader)
            passed = True
        finally:
            self._consortium.destroy(keep=keep or not passed)

    # ---- life ------------------------------------------------------------------------------------

    async def _live(self, witness: Witness) -> None:
        """Start, faults under load, healing, and proof that the ledger goes on."""
        self._consortium.start_all()
        async with asyncio.TaskGroup() as background:
            watching = [
                background.create_task(self._consortium.supervise()),
                background.create_task(witness.keep_looking(LOOK_PAUSE_S)),
            ]
            await self._wait_for_equal_heads(START_S)
            self._say(f"{len(self._homes)} daemons are up")
            stall = background.create_task(self._watch_height())
            await self._under_load(witness)
            stall.cancel()
            healed = time.monotonic()
            await self._wait_for_equal_heads(HEAL_S)
            self.figures.heal_ms = round((time.monotonic() - healed) * 1000)
            self._say(f"all heads are equal {self.figures.heal_ms / 1000:.1f} s after the load")
            await self._go_on()
            for task in watching:
                task.cancel()

    async def _under_load(self, witness: Witness) -> None:
        load = Load(list(self._homes.values()), self._settings.rate)
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(load.run())
            try:
                await self._suffer_all(witness)
            finally:
                load.stop()
        self._count(loading.result())
        result = loading.result()
        self.figures.latency_p50_ms = round(result.latency_ms(50))
        self.figures.latency_p95_ms = round(result.latency_ms(95))

    def _count(self, result: LoadResult) -> None:
        self._acknowledged.update(result.acknowledged)
        self.figures.acknowledged = len(self._acknowledged)
        self.figures.unknown += result.unknown

    async def _watch_height(self) -> None:
        """Raise NoProgress if nobody gets a block for long."""
        since = told = time.monotonic()
        while True:
            statuses = await self._consortium.statuses()
            height = highest(statuses)
            now = time.monotonic()
            if height > self._height:
                self._height, since = height, now
            self.figures.stall_ms = max(self.figures.stall_ms, round((now - since) * 1000))
            if now - since > STALL_S:
                raise NoProgress(f"no node got a block above {self._height} in {STALL_S:.0f} s")
            if now - max(since, told) > TELL_S:
                told = now
                self._say(f"no block for {now - since:.0f} s: {shown(statuses)}")
            await asyncio.sleep(WATCH_S)

    async def _wait_for_equal_heads(self, seconds: float) -> None:
        """Raise NoProgress unless all have the same head in time."""
        started = told = time.monotonic()
        while True:
            statuses = await self._consortium.statuses()
            heads = [status["head_hash"] if status else "" for status in statuses.values()]
            if heads[0] and all(head == heads[0] for head in heads):
                heights = [status["height"] for status in statuses.values() if status]
                self._height = self.figures.height = heights[0]
                return
            now = time.monotonic()
            if now - started > seconds:
                words = shown(statuses)
                raise NoProgress(f"the heads are not equal after {seconds:.0f} s: {words}")
            if now - told > TELL_S:
                told = now
                self._say(f"waiting for equal heads: {shown(statuses)}")
            await asyncio.sleep(WATCH_S / 4)

    async def _go_on(self) -> None:
        """Everybody submits once more, and is served. Raises NoProgress."""
        load = Load(list(self._homes.values()), self._settings.rate)
        loading = asyncio.create_task(load.run())
        await asyncio.wait((loading,), timeout=AFTER_S)
        load.stop()
        result = await loading
        self._count(result)
        if result.unknown or not result.acknowledged:
            total = result.unknown + len(result.acknowledged)
            raise NoProgress(f"after the healing {result.unknown} of {total} transactions failed")
        await self._wait_for_equal_heads(HEAL_S)

    # ---- faults ----------------------------------------------------------------------------------

    async def _suffer_all(self, witness: Witness) -> None:
        """Round after round, as long as there is time."""
        ends = time.monotonic() + self._settings.fault_ms / 1000
        for one in self._plan.rounds():
            await self._wait_for_all(START_S)
            await asyncio.sleep(one.calm_ms / 1000)
            if time.monotonic() >= ends:
                return
            await self._suffer_round(one, witness)

    async def _suffer_round(self, one: Round, witness: Witness) -> None:
        async with asyncio.TaskGroup() as group:
            for number, fault in enumerate(one.faults):
                group.create_task(self._suffer(number, fault, witness))
        self.figures.rounds += 1

    async def _wait_for_all(self, seconds: float) -> None:
        """Wait until every daemon answers. Raises NoProgress."""
        deadline = time.monotonic() + seconds
        while missing := [n for n, s in (await self._consortium.statuses()).items() if not s]:
            if time.monotonic() > deadline:
                raise NoProgress(f"{', '.join(missing)} did not answer in {seconds:.0f} s")
            await asyncio.sleep(WATCH_S / 4)

    async def _suffer(self, number: int, fault: Fault, witness: Witness) -> None:
        await asyncio.sleep(fault.at_ms / 1000)
        if fault.kind in self._machine.missing:
            self._tally(self.figures.left_out, fault)
            return
        self._say(f"height {self._height}: {fault.text()}")
        await self._begin(number, fault, witness)
        if fault.kind is Kind.SPLIT:
            await self._stand_still(fault)
        else:
            await asyncio.sleep(fault.lasts_ms / 1000)
        if fault.kind in ON_DISK:
            await self._feel_the_full_disk(fault)
        await self._end(number, fault)
        self._tally(self.figures.faults, fault)

    async def _stand_still(self, fault: Fault) -> None:
        """See that nothing is decided in a split without a quorum. Raises Violation."""
        started = time.monotonic()
        await asyncio.sleep(SETTLE_S)
        before = highest(await self._consortium.statuses())
        await asyncio.sleep(started + fault.lasts_ms / 1000 - time.monotonic())
        after = highest(await self._consortium.statuses())
        quorum = any(self._settings.shape.has_quorum(p) for p in (fault.victims, fault.others))
        if after > before > 0 and not quorum:
            raise Violation(f"blocks {before + 1} to {after} were decided without a quorum")

    async def _feel_the_full_disk(self, fault: Fault) -> None:
        """Keep disks full until their daemons have noticed: what they wrote before may have left
        room inside the database's files.
        """
        felt = [self._consortium.nodes[name].felt_full_disk.wait() for name in fault.victims]
        with suppress(TimeoutError):
            async with asyncio.timeout(FULL_S_MAX):
                await asyncio.gather(*felt)

    @staticmethod
    def _tally(counts: dict[str, int], fault: Fault) -> None:
        counts[fault.kind.value] = counts.get(fault.kind.value, 0) + 1

    async def _begin(self, number: int, fault: Fault, witness: Witness) -> None:
        consortium, victims = self._consortium, fault.victims
        match fault.kind:
            case Kind.KILL | Kind.KILL_AGAIN | Kind.KILL_ALL:
                for name in victims:
                    consortium.kill(name)
            case Kind.PAUSE | Kind.PAUSE_ALL:
                for name in victims:
                    consortium.pause(name)
            case Kind.CUT:
                others = [name for name in self._homes if name not in victims]
                consortium.cut(number, [(a, b) for a in victims for b in others])
            case Kind.LINK | Kind.SPLIT:
                consortium.cut(number, [(a, b) for a in victims for b in fault.others])
            case Kind.DISK | Kind.DISK_KILL:
                for name in victims:
                    consortium.fill_disk(name)
                    if fault.kind is Kind.DISK_KILL:
                        consortium.kill(name)
                        consortium.revive(name)
            case Kind.CLOCK:
                for name in victims:
                    consortium.set_clock(name, fault.offset_ms)
        for name in victims:
            await witness.look(name)

    async def _end(self, number: int, fault: Fault) -> None:
        consortium, victims = self._consortium, fault.victims
        match fault.kind:
            case Kind.KILL | Kind.KILL_ALL:
                for name in victims:
                    consortium.revive(name)
            case Kind.KILL_AGAIN:
                for act in (consortium.revive, consortium.kill, consortium.revive):
                    for name in victims:
                        act(name)
                    await asyncio.sleep(AGAIN_S)
            case Kind.PAUSE | Kind.PAUSE_ALL:
                for name in victims:
                    consortium.resume(name)
            case Kind.CUT | Kind.LINK | Kind.SPLIT:
                consortium.heal(number)
            case Kind.DISK | Kind.DISK_KILL:
                for name in victims:
                    consortium.free_disk(name)
            case Kind.CLOCK:
                for name in victims:
                    consortium.set_clock(name, 0)

    # ---- verdict ---------------------------------------------------------------------------------

    async def _judge(self, witness: Witness, reader: Reader) -> None:
        """Stop all in good order and read what they leave. Raises Violation."""
        check_statuses(await self._consortium.statuses())
        await asyncio.to_thread(self._consortium.stop_all)
        self._say("all are stopped; reading their databases")
        genesis = parse_genesis((self._consortium.network / "genesis.toml").read_bytes())
        chains = await read_chains(witness, reader, self._homes, genesis)
        self.figures.votes = witness.ballots.count
        self.figures.promises = witness.ballots.promises
        nodes = self._consortium.nodes.values()
        self.figures.full_disk_ends = sum(node.disk_ends for node in nodes)
        self.figures.complaints = check_logs({node.name: node.log for node in nodes})
        check_chains(chains, genesis, self._acknowledged)
        turns = asyncio.Semaphore(2)

        async def verify_one(home: Path) -> None:
            async with turns:
                await verify(home)

        async with asyncio.TaskGroup() as group:
            for home in self._homes.values():
                group.create_task(verify_one(home))
