"""All nodes of a scenario wired together, from the first start to the verdict."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from ledger.store import Write
from node.events import Applied, Report
from node.wire import Consensus, Message
from primitives.keys import each_signature_once
from simulations import faults
from simulations.byzantine import BEHAVIOURS, Collusion
from simulations.checkers import (
    NoProgress,
    Violation,
    Watch,
    check_acknowledged,
    check_meaning,
    check_stores,
)
from simulations.faults import Fault
from simulations.host import Host
from simulations.network import Cut, Network
from simulations.profiles import PROFILES
from simulations.scenario import (
    GENESIS_MS,
    RETRY_MS,
    Scenario,
    found,
    member_ids,
    second_twin,
)
from simulations.schedule import Schedule
from simulations.trace import Trace
from simulations.workload import Pending, Workload
from simulations.world import Backup, Checks, World

LATE_TRANSACTIONS = 4
"""Submitted after the healing: what works again must show it."""
RESTORE_MS = 10
"""How long it takes to notice that a process has died, and to put a backup in place."""
QUIET_MS = 3_000
"""Voters that say nothing for so long say nothing more: it is above every `resend_ms`."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to."""

    height: int
    view_max: int
    view_changes: int
    transactions: int
    expired: int
    virtual_ms: int
    messages: int
    latencies_ms: tuple[int, ...]


class Cluster:
    """One run. Everything random in it comes from the scenario's seed, by subject."""

    def __init__(
        self,
        scenario: Scenario,
        show: Callable[[str], None] | None = None,
        host_class: type[Host] = Host,
    ) -> None:
        self.scenario = scenario
        self.trace = Trace(show)
        self.schedule = Schedule()
        consortium = found(scenario)
        self.genesis = consortium.genesis
        self.network = Network(self.schedule, self._chance("network"), scenario.storm, self.trace)
        self._chance_clients = self._chance("clients")
        politics = PROFILES[scenario.profile].politics
        self.workload = Workload(
            self.genesis, dict(consortium.keys), self._chance("workload"), politics
        )
        liars = {one.who: one.kind for one in scenario.byzantine}
        self.watch = Watch(
            self.genesis,
            tuple(liars),
            lambda: {host.id: host.store for host in self.correct},
        )
        self.world = World(
            self.genesis,
            self.schedule,
            self.network,
            self,
            self.trace,
            Checks(),
            scenario.disk_ms_max,
        )
        collusion = Collusion(tuple(liars))
        self.hosts: list[Host] = []
        for id in member_ids(scenario.shape):
            names = (id, second_twin(id)) if liars.get(id) == "twins" else (id,)
            for name in names:
                kind = BEHAVIOURS.get(liars.get(id, ""))
                behaviour = None if kind is None else kind(self._chance(f"{name} lies"), collusion)
                key = consortium.keys[id]
                chance = self._chance(name)
                host = host_class(name, id, key, self.world, chance, behaviour)
                if id in liars:
                    host.shown = f"{name}*"
                self.hosts.append(host)
        self.correct = [host for host in self.hosts if host.id not in liars]
        self._by_id = {host.id: host for host in self.correct}
        self._backups: dict[int, Backup] = {}
        self._late = 0
        self._spoke_at = 0

    def _chance(self, subject: str) -> random.Random:
        return random.Random(f"{self.scenario.seed} {subject}")

    # ---- the witness -----------------------------------------------------------------------------

    def wrote(self, host: Host, writes: Sequence[Write]) -> None:
        """A correct node has made something durable."""
        if host in self.correct:
            self.watch.wrote(host.id, host.store, writes, host.turned_wall)

    def sends(self, host: Host, message: Message) -> None:
        """A correct node is about to send."""
        if host in self.correct:
            self.watch.sends(host.id, message)
            if isinstance(message, Consensus):
                self._spoke_at = self.schedule.now

    def applied(self, host: Host, applied: Applied) -> None:
        """A correct node tells its clients of a block."""
        if host in self.correct:
            self.workload.see(applied.written, self.schedule.now)
            self._replace_key(host)

    def _replace_key(self, host: Host) -> None:
        """Where the ledger lists another key of this member, its operator installs that one."""
        listed = host.running.members[host.id].key
        if listed == host.key.public:
            return
        host.key = self.workload.new_keys[listed]
        self.workload.take_key(host.id, host.key)
        host.tell("changes its key")
        self.schedule.after(1, host.stop)
        self.schedule.after(self._chance_clients.randint(2, 500), lambda: self._start(host))

    def reported(self, host: Host, report: Report) -> None:
        """A correct node tells its operator something."""
        if host in self.correct:
            self.watch.reported(host.id, report)

    # ---- the run ---------------------------------------------------------------------------------

    def run(self) -> Figures:
        """Run to the end. Raises Violation, NoProgress, or what a node raised."""
        with each_signature_once():
            self.watch.begin()
            return self._run()

    def _run(self) -> Figures:
        scenario, schedule = self.scenario, self.schedule
        self.trace.tell(0, "network", "has", scenario.summary())
        for host in self.hosts:
            self.network.join(host)
            host.skew_ms = self._chance_clients.randint(-scenario.skew_ms_max, scenario.skew_ms_max)
        for host in self.hosts:
            schedule.at(self._chance_clients.randint(0, 200), host.start)
        for number, fault in enumerate(scenario.faults):
            self._plan_fault(number, fault)
        for _ in range(scenario.transactions):
            schedule.at(self._chance_clients.randint(300, scenario.heal_ms), self._submit)
        schedule.run(scenario.heal_ms, lambda: False)
        self._heal()
        if scenario.live:
            if not schedule.run(scenario.heal_ms + scenario.patience_ms, self._is_at_rest):
                raise NoProgress(self._explain())
            self._expect_silence()
        else:
            schedule.run(scenario.heal_ms + RETRY_MS, lambda: False)
        self.check()
        return self._figures()

    def _expect_silence(self) -> None:
        """Idle means silent, unless there are heartbeats, or liars who wake the others."""
        rested, schedule = self.schedule.now, self.schedule
        if self.scenario.byzantine or self.genesis.heartbeat_ms:
            schedule.run(rested + QUIET_MS, lambda: False)
            return
        until = rested + self.scenario.silence_ms + QUIET_MS
        if not schedule.run(until, lambda: schedule.now - self._spoke_at >= QUIET_MS):
            raise NoProgress(
                f"{schedule.now - rested} ms after all was done the voters still talk; "
                f"{self._states()}"
            )

    def check(self) -> None:
        """Check what is left in the end. Raises Violation."""
        chain = self.watch.chain
        blocks = [chain[height] for height in sorted(chain)]
        check_stores(self.watch, {host.id: host.store for host in self.correct})
        check_meaning(self.genesis, blocks)
        check_acknowledged(self.workload.acknowledged, blocks)

    def _figures(self) -> Figures:
        counters: Counter[str] = Counter()
        for host in self.correct:
            counters += host.counters
            if host.core is not None:
                counters += host.core.counters
        acknowledged = self.workload.acknowledged.values()
        views = [w.decision.certificate.view for w in self.watch.chain.values()]
        return Figures(
            height=max(self.watch.chain, default=0),
            view_max=max(views, default=0),
            view_changes=counters["view_changes"],
            transactions=len(acknowledged),
            expired=self.workload.expired,
            virtual_ms=self.schedule.now,
            messages=self.network.sent,
            latencies_ms=tuple(sorted(told.latency_ms for told in acknowledged)),
        )

    # ---- faults ----------------------------------------------------------------------------------

    def _plan_fault(self, number: int, fault: Fault) -> None:
        at = self.schedule.at
        match fault:
            case faults.Crash(start, who, effects, down_ms):
                self._plan_death(self._by_id[who], start, None, effects, down_ms)
            case faults.CrashPoint(start, who, moment, count, down_ms):
                self._plan_death(self._by_id[who], start, moment, count - 1, down_ms)
            case faults.CrashAll(start, down_ms):
                for host in self.hosts:
                    at(start, host.stop)
                    at(start + down_ms, partial(self._start, host))
            case faults.RestoredBackup(copied, start, who, down_ms, moment):
                host = self._by_id[who]
                at(copied, lambda: self._backups.update({number: host.backup()}))
                if moment is None:
                    at(start, lambda: self._replace_disk(host, number))
                else:
                    at(start, lambda: host.die_at(moment, 0))
                    until = start + down_ms // 2
                    at(start, lambda: self._restore_once_dead(host, number, until))
                at(start + down_ms, lambda: self._start(host))
            case faults.Pause(start, until, who):
                host = self._by_id[who]
                at(start, host.pause)
                at(until, host.resume)
            case faults.ClockJump(start, until, who, skew_ms):
                host = self._by_id[who]
                at(start, lambda: host.turn_clock(skew_ms))
                at(until, lambda: host.turn_clock(-skew_ms))
            case faults.Partition(start, until, left, right, one_way):
                cuts = [Cut(left, right)] + ([] if one_way else [Cut(right, left)])
                for cut in cuts:
                    at(start, partial(self.network.cut, cut))
                    at(until, partial(self.network.join_again, cut))
            case faults.Mute(start, until, who):
                at(start, lambda: self.network.mute(who))
                at(until, lambda: self.network.unmute(who))
            case faults.Slow(start, until, who, delay_ms):
                at(start, lambda: self.network.slow(who, delay_ms))
                at(until, lambda: self.network.slow(who, 0))
            case faults.BadLink(start, until, sender, receiver, delay_ms, loss_percent):
                link = (sender, receiver)
                at(start, lambda: self.network.worsen(link, delay_ms, loss_percent / 100))
                at(until, lambda: self.network.worsen(link, 0, 0.0))
            case _:
                assert_never(fault)
        kind, _, facts = str(fault).partition("(")
        at(fault.at, lambda: self.trace.tell(self.schedule.now, "fault", kind, facts[:-1]))

    def _plan_death(
        self, host: Host, at: int, moment: faults.Moment | None, survived: int, down_ms: int
    ) -> None:
        self.schedule.at(at, lambda: host.die_at(moment, survived))
        self.schedule.at(at + down_ms // 2, host.stop)
        self.schedule.at(at + down_ms, lambda: self._start(host))

    def _start(self, host: Host) -> None:
        if not host.up:
            host.start()

    def _restore_once_dead(self, host: Host, number: int, until: int) -> None:
        """Put the backup in place when the process has died as planned, or in the end."""
        if host.up and self.schedule.now < until:
            again = partial(self._restore_once_dead, host, number, until)
            self.schedule.after(RESTORE_MS, again)
        else:
            self._replace_disk(host, number)
            self.schedule.after(RESTORE_MS, lambda: self._start(host))

    def _replace_disk(self, host: Host, number: int) -> None:
        host.stop()
        host.restore(self._backups[number])
        self.watch.restored(host.id)

    def _heal(self) -> None:
        """Mend everything but the liars."""
        self.trace.tell(self.schedule.now, "network", "heals", "all links and processes work again")
        self.network.weather = self.scenario.calm
        self.network.mend()
        for host in self.hosts:
            host.doom = None
            host.resume()
            self._start(host)
        for _ in range(LATE_TRANSACTIONS):
            self._late += 1
            self.schedule.after(self._chance_clients.randint(0, 2_000), self._submit_late)

    # ---- clients ---------------------------------------------------------------------------------

    def _submit_late(self) -> None:
        self._late -= 1
        self._submit()

    def _submit(self) -> None:
        chance, workload = self._chance_clients, self.workload
        up = [host for host in self.hosts if host.up]
        if not up:
            self.schedule.after(RETRY_MS, self._submit)
            return
        host = chance.choice(up)
        throw = chance.random()
        if throw < 0.05:
            if host.submit(workload.make_bad()) is not None:
                raise Violation(f"{host.name} takes what is no transaction")
        elif throw < 0.1:
            again = workload.make_again()
            if again is not None:
                host.submit(again)
        else:
            pending = workload.make(self.schedule.now, host.running.head.height)
            self._hand_in(host, pending)

    def _hand_in(self, host: Host, pending: Pending) -> None:
        host.submit(pending.raw)
        self.trace.note(self.schedule.now, host.name, "is given", pending.id)
        self.schedule.after(RETRY_MS, lambda: self._retry(pending))

    def _retry(self, pending: Pending) -> None:
        self._expire()
        if not pending.settled:
            up = [host for host in self.hosts if host.up]
            if up:
                self._hand_in(self._chance_clients.choice(up), pending)
            else:
                self.schedule.after(RETRY_MS, lambda: self._retry(pending))

    def _expire(self) -> None:
        """Clients give up what can no longer run, by the head or by their own clocks."""
        height = max(self.watch.chain, default=0)
        patience_ms = 2 * self.genesis.clock_drift_ms_max
        time_ms = GENESIS_MS + self.schedule.now - patience_ms
        if height:
            time_ms = max(time_ms, self.watch.chain[height].decision.block.header.time_ms)
        self.workload.expire(height, time_ms)

    # ---- rest ------------------------------------------------------------------------------------

    def _is_at_rest(self) -> bool:
        if self._late or not all(host.up for host in self.correct):
            return False
        heads = [host.running.head.height for host in self.correct]
        if min(heads) != max(heads):
            return False
        self._expire()
        return not self.workload.unsettled()

    def _explain(self) -> str:
        return (
            f"{self.scenario.patience_ms} ms after the healing {len(self.workload.unsettled())} "
            f"transactions wait for their receipts; {self._states()}"
        )

    def _states(self) -> str:
        states = []
        for host in self.correct:
            core = host.running
            states.append(
                f"{host.id} is at height {core.head.height}, view {core.view}, "
                f"{len(core.mempool)} batches{', abstaining' if core.abstaining else ''}"
            )
        return "; ".join(states)
